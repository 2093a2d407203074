"""What comes in while the last of it is worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def arriving(items: Iterable[T]) -> queue.SimpleQueue[T | BaseException | None]:
    """The items as they come, read by a thread of their own; then None, or what reading them raised."""
    waiting: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for item in items:
                waiting.put(item)
            waiting.put(None)
        except BaseException as error:
            waiting.put(error)

    threading.Thread(target=read, daemon=True).start()
    return waiting

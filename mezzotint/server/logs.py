"""Logs: one JSON object a line on stderr. Never a prompt, an answer, a key, a query string or a header."""

from __future__ import annotations

import json
import sys
import time
import traceback
from typing import Any

muted: set[str] = set()  # events of which nothing is written


def log(event: str, **fields: Any) -> None:
    if event in muted:
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(json.dumps({"time": now, "event": event, **fields}), file=sys.stderr, flush=True)


def where(error: BaseException) -> str:
    """Kind and place of an error; its message may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place

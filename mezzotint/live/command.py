"""`mezzotint translate`: a source from lines that arrive, the translation on a terminal, a pipe or as JSON lines.

terminal   committed text plain, the draft behind it dim and italic, drawn over in place
pipe       committed text alone, as it is committed: what was written never changes
JSON       a line an update (`Update.to_json`), with the number of the text it is of

A blank line ends a text, and so does the end of the input.
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from mezzotint.engine.engine import Engine
from mezzotint.live.arriving import arriving
from mezzotint.live.translate import Live, Translator, Update, Writer


class Screen(Protocol):
    """Where updates go. `update.final` ends a text."""

    def show(self, update: Update, number: int) -> None: ...
    def close(self) -> None: ...


class Pipe:
    def __init__(self) -> None:
        self._written = 0

    def show(self, update: Update, number: int) -> None:
        sys.stdout.write(update.committed[self._written :] + ("\n" if update.final else ""))
        sys.stdout.flush()
        self._written = 0 if update.final else len(update.committed)

    def close(self) -> None:
        pass


class JsonLines:
    def show(self, update: Update, number: int) -> None:
        print(json.dumps({"text": number, **update.to_json()}, ensure_ascii=False), flush=True)

    def close(self) -> None:
        pass


class Terminal:
    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as Region

        self._make: Any = lambda: Region(console=Console(highlight=False), auto_refresh=False)
        self._region: Any = None

    def show(self, update: Update, number: int) -> None:
        from rich.text import Text

        if self._region is None:
            self._region = self._make()
            self._region.start()
        self._region.update(Text.assemble(update.committed, (update.draft, "dim italic")), refresh=True)
        if update.final:
            self.close()

    def close(self) -> None:
        if self._region is not None:
            self._region.stop()
            self._region = None


def screen(json_output: bool) -> Screen:
    return JsonLines() if json_output else Terminal() if sys.stdout.isatty() else Pipe()


def follow(engine: Engine, live: Live, lines: Iterable[str], words: bool, onto: Screen, newest: bool = False) -> None:
    """Translate texts from lines, each the source so far; with `words` each is added to it. newest: a line behind which
    another of the same text waits is passed over. Raises ValueError as `Translator.update` does."""
    writer, number, source = Writer(engine), 1, ""
    translator = Translator(writer, live)
    try:
        for line in overtaking(lines) if newest and not words else lines:
            if line.strip():
                source = f"{source} {line.strip()}".strip() if words else line.strip()
                onto.show(translator.update(source), number)
            elif translator.revision:
                onto.show(translator.update(source, final=True), number)
                translator, number, source = Translator(writer, live), number + 1, ""
        if translator.revision:
            onto.show(translator.update(source, final=True), number)
    finally:
        onto.close()


def whole(engine: Engine, live: Live, text: str, onto: Screen) -> None:
    """Translate a text that is all there, line by line; blank lines stay where lines are written."""
    writer, number = Writer(engine), 0
    for line in text.splitlines():
        if line.strip():
            number += 1
            onto.show(Translator(writer, live).update(line, final=True), number)
        elif isinstance(onto, Pipe):
            print()
    onto.close()


def overtaking(lines: Iterable[str]) -> Iterator[str]:
    """Lines as they come, without those behind which another of the same text already waits. Raises what reading them does."""
    waiting = arriving(lines)
    held: str | None = None
    while True:
        came = True
        try:
            item = waiting.get(block=held is None)
        except queue.Empty:
            item, came = "", False  # nothing has overtaken what is held
        if isinstance(item, str) and item.strip():
            held = item
            continue
        if held is not None:
            yield held
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        if came:
            yield item
        held = None

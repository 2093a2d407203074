r"""Stop strings in text that arrives in pieces: it ends before the first of them, and none of one is let through.

stop "\n\n"    "a\n" -> "a", a line feed is held back    "b" -> "\nb"    "\n\nc" -> over
"""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """The first stop string is the one that begins first."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""

    def push(self, piece: str, last: bool = False) -> tuple[str, bool]:
        """What may be shown now, and whether a stop string ends the text. last: nothing comes after this piece."""
        text = self.held + piece
        found = min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=None)
        begun = len(text) if last else self._begun(text)
        if found is not None and found <= begun:
            self.held = ""
            return text[:found], True
        self.held = text[begun:]
        return text[:begun], False

    def _begun(self, text: str) -> int:
        """Where the earliest stop string begins of which the text's end is a part; the text's length if there is none."""
        longest = max(map(len, self.stops), default=1) - 1
        for start in range(max(0, len(text) - longest), len(text)):
            if any(len(stop) > len(text) - start and stop.startswith(text[start:]) for stop in self.stops):
                return start
        return len(text)

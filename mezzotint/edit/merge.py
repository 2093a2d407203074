"""Merge: a snippet that leaves out what stays ("... existing code ...") put into the text it was written for.

    text        snippet                         result
    a = 1       # ... existing code ...         a = 1
    b = 2       b = 3                           b = 3
    c = 4       c = 4                           c = 4

Lines that say "existing code" cut a snippet into pieces. A piece stands where its first and last lines that are the text's
own stand, pieces in order; what lies between those lines in the text is replaced. A line beside them that is much like the
text's there replaces it, others are new. A piece with no line of the text goes to the end, or to the beginning if it is the
first of several. No network has a part in it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_COMMENT = r"(?://|\#|--|/\*|<!--|;|%|\"\"\")"
_LEFT_OUT = re.compile(
    rf"^\s*(?:{_COMMENT}\s*(?:\.{{3}}|…).*|{_COMMENT}?\s*(?:\.{{3}}|…)?[^\n]*\b(?:existing|unchanged|rest of|remaining)\b"
    rf"[^\n]*(?:\.{{3}}|…)[^\n]*|\{{?/\*\s*(?:\.{{3}}|…).*)$",
    re.IGNORECASE,
)
DECLARE = {
    "async",
    "class",
    "const",
    "def",
    "export",
    "fn",
    "func",
    "function",
    "let",
    "private",
    "pub",
    "public",
    "var",
}
LIKE = 0.6  # of two lines: the share from which one is the other, changed


def merge(text: str, snippet: str) -> str | None:
    """The text with the snippet in it; None where nothing says where it belongs."""
    lines, pieces = text.split("\n"), _pieces(snippet)
    if not any(pieces) or (len(pieces) == 1 and not _anchors(lines, pieces[0], 0)):
        return None
    out: list[str] = []
    done = 0  # lines of the text that are written or replaced
    for number, piece in enumerate(pieces):
        if not piece:
            continue
        start, end = _place(lines, piece, done, number == 0)
        out += [*lines[done:start], *piece]
        done = end
    return "\n".join([*out, *lines[done:]])


def _pieces(snippet: str) -> list[list[str]]:
    """What stands between the lines that say that something was left out; blank lines around them are not the piece's."""
    pieces: list[list[str]] = [[]]
    for line in snippet.strip("\n").split("\n"):
        if _LEFT_OUT.match(line):
            pieces.append([])
        else:
            pieces[-1].append(line)
    for piece in pieces:
        while piece and not piece[0].strip():
            piece.pop(0)
        while piece and not piece[-1].strip():
            piece.pop()
    return pieces


def _anchors(lines: Sequence[str], piece: Sequence[str], done: int) -> list[tuple[int, int]]:
    """(line of the piece, line of the text) that are the same, in order; telling ones only."""
    rest = [line.rstrip() for line in lines[done:]]
    matcher = difflib.SequenceMatcher(None, [line.rstrip() for line in piece], rest, autojunk=False)
    found = [(a + i, done + b + i) for a, b, size in matcher.get_matching_blocks() for i in range(size)]
    return found if any(re.search(r"\w", piece[a]) for a, _ in found) else []


def _place(lines: Sequence[str], piece: Sequence[str], done: int, first: bool) -> tuple[int, int]:
    """The lines of the text that a piece replaces."""
    found = _anchors(lines, piece, done)
    if not found:
        named = [(at, line) for at, line in enumerate(lines[done:], done) if _name(line) == _name(piece[0])]
        like, before = max(((_like(piece[0], line), -at) for at, line in named), default=(0.0, 0))
        if like >= LIKE:
            start = -before
            end = start + sum(_like(a, b) >= LIKE for a, b in zip(piece, lines[start:], strict=False))
            return start, max(end, start + 1)
        here = done if first else len(lines) - (not lines[-1])  # before the empty line that a last line feed leaves
        return max(done, here), max(done, here)
    (a, start), (z, last) = found[0], found[-1]
    while a > 0 and start > done and _like(piece[a - 1], lines[start - 1]) >= LIKE:
        a, start = a - 1, start - 1
    while z + 1 < len(piece) and last + 1 < len(lines) and _like(piece[z + 1], lines[last + 1]) >= LIKE:
        z, last = z + 1, last + 1
    return start, last + 1


def _name(line: str) -> str:
    """What a line is about: its first word that is none of a declaration's."""
    return next((word for word in re.findall(r"\w+", line) if word not in DECLARE), "")


def _like(a: str, b: str) -> float:
    if not a.strip() or not b.strip():
        return 0.0
    return difflib.SequenceMatcher(None, a.strip(), b.strip(), autojunk=False).ratio()

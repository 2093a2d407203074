"""Random documents with everything that makes bytes, characters and graphemes differ, and random locks in them."""

import random

ALPHABETS = (
    "abc thing and ",
    "مرحبا بالعالم ،",
    "नमस्ते क्षितिज ज़",
    "👨\u200d👩\u200d👧🏽🇩🇪❤\ufe0f ",
    "\r\n",
    "\t\n",
    "e\u0301o\u0308n\u0303 ",
    "£5.ß—",
)


def document(rng: random.Random, longest: int = 60) -> str:
    """A text of pieces from several scripts; sometimes with a byte order mark."""
    text = "\ufeff" if rng.random() < 0.1 else ""
    while len(text) < rng.randint(1, longest):
        alphabet = rng.choice(ALPHABETS)
        start = rng.randrange(len(alphabet))
        text += alphabet[start : start + rng.randint(1, 8)]
    return text or "a"


def spans(rng: random.Random, text: str, most: int = 4) -> list[tuple[int, int]]:
    """Up to `most` spans, empty, overlapping, inside graphemes."""
    borders = [sorted(rng.choices(range(len(text) + 1), k=2)) for _ in range(rng.randint(0, most))]
    return [(a, a if rng.random() < 0.1 else b) for a, b in borders]


def kept(edit, locked: list[tuple[int, int]]) -> bool:
    """Does every locked span stand in the edited bytes where the hunks before it have pushed it, byte for byte?"""
    before, after = edit.before.encode(), edit.after.encode()
    for start, end in locked:
        moved = 0
        for hunk in edit.hunks:
            if hunk.end <= start:
                moved += len(hunk.after.encode()) - len(hunk.before.encode())
        a, b = len(edit.before[:start].encode()), len(edit.before[:end].encode())
        if after[a + moved : b + moved] != before[a:b]:
            return False
    return True

"""Sources that arrive word by word, change their minds and take words back; and a translator that needs no weights."""

import hashlib
import itertools
import random

from mezzotint.live.latency import erased
from mezzotint.live.translate import Written

WORDS = "the cat has seen old men by a sea of green and two more went home over our wide field".split()  # noqa: SIM905  # it reads as what it is


def hypotheses(draw: random.Random, words: int = 14) -> list[str]:
    """The source after each update: it grows by 1 to 3 words, or 1 to 10 words somewhere are taken back or replaced."""
    source, said = list[str](), [""] if draw.random() < 0.1 else []
    while len(source) < words and len(said) < 4 * words:
        if source and draw.random() < 0.25:
            start = draw.randrange(len(source))
            end = min(len(source), start + draw.randint(1, 10))
            source[start:end] = draw.choices(WORDS, k=draw.randint(0, end - start))
        elif draw.random() < 0.9:
            source += draw.choices(WORDS, k=draw.randint(1, 3))
        said.append(" ".join(source))
    return said


class Script:
    """Writes a word of target for a word of source; which, hangs on the word behind it too, so that the last one is revised.

    Words are of one to three tokens, some of them half a character. p is drawn from the word.
    """

    pieces = (b" chat", b" mer", b" vieux", "é".encode()[:1], "é".encode()[1:], b"s", b".", b" \xe6\xb5", b"\xb7", b"x")
    shapes = ((0,), (1,), (2, 5), (0, 3, 4), (1, 3, 4, 5), (7, 8), (2, 6), (9, 9))

    def __init__(self, reads_ahead=True):
        self.reads_ahead = reads_ahead
        self.asked = []

    def spell(self, token):
        return self.pieces[token]

    def write(self, ask):
        self.asked.append(ask)
        source = ask.source.split()
        ids, chances = [], []
        for n, word in enumerate(source):
            behind = source[n + 1] if self.reads_ahead and n + 1 < len(source) else ""
            number = int.from_bytes(hashlib.sha256(f"{word} {behind}".encode()).digest()[:4])
            shape = self.shapes[number % len(self.shapes)]
            ids += shape
            chances += [0.5 + (number >> 8) % 50 / 100] * len(shape)
        done = len(ask.committed)
        return Written(ids[done:], chances[done:], len(ids[done:]), True, calls=1, positions=len(ids))


def check(updates, live):
    """What holds of every stream. Fails where committed text changed or more was taken back than may be."""
    for before, after in itertools.pairwise(updates):
        assert after.committed.startswith(before.committed), (before, after)
    last = updates[-1]
    assert last.final and not last.draft
    shown = [update.text for update in updates]
    gone = [erased(shown[:n]) for n in range(1, len(shown) + 1)]
    assert [b - a for a, b in zip([0, *gone], gone, strict=False)] == [update.erased for update in updates]
    if live.max_erasure is not None:
        assert gone[-1] <= live.max_erasure * len(last.committed) + 1e-6, shown
    if live.max_replaced is not None:
        assert all(update.erased <= live.max_replaced for update in updates), shown


def lag(said, updates):
    """Source words that have no committed word yet, the mean over updates."""
    behind = [
        max(0, len(text.split()) - len(update.committed.split()))
        for text, update in zip(said, updates, strict=True)
        if not update.final
    ]
    return sum(behind) / max(1, len(behind))

"""Forty little problems, and systems whose answers the test writes. Starts without torch."""

from mezzotint.eval.data import Data
from mezzotint.eval.store import Answer
from mezzotint.eval.tasks import TASKS

AIME = TASKS["aime2025"]
ROWS = tuple({"id": f"p{n}", "problem": f"What is {n} + 1?", "expected_answer": str(n + 1)} for n in range(40))
DATA = Data(ROWS, "a" * 64, ("rows",))


class Says:
    """A system that says what `text(item)` gives, and remembers what it was asked."""

    def __init__(self, text, reason="stop", name="says", size=8):
        self.text, self.reason, self.size, self.asked = text, reason, size, []
        self.about = {"model": name, "decode": "ar"}

    def ask(self, items, sample, max_tokens):
        self.asked += [(item.id, sample) for item in items]
        reason = self.reason if callable(self.reason) else lambda item: self.reason
        return [
            Answer(
                item.id,
                sample,
                item.prompt_sha256,
                self.text(item),
                reason(item),
                tokens=10,
                calls=5,
                positions=20,
                seconds=1.0,
            )
            for item in items
        ]


def right(item):
    return f"\\boxed{{{item.gold['target']}}}"

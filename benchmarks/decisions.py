"""Typed decisions with known answers, and how well their probabilities are calibrated: structured.py --decisions.

25 messages to a shop, each with the answers that it was written to have: four questions each, asked as `/v1/decisions` asks.

    Brier     mean of the squared distance between the probabilities and the answer, over options: 0 is best, 2 is worst
    ECE       mean distance, over ten bins of confidence, between confidence and share of right answers, weighted by size
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import report

import mezzotint as mz
from mezzotint.edit.ask import silent
from mezzotint.server.decisions import Decisions, decisions_order

TEAMS = {
    "billing": "payments, invoices, refunds", "technical": "something does not work", "delivery": "parcels and addresses",
}  # fmt: skip
LEVELS = ["it can wait", "it should be answered today", "it cannot wait an hour"]
MESSAGES = (  # text, team, level, is the writer angry?, does it name a date or a day?
    ("You charged my card twice for one lamp. Please send the second payment back.", "billing", 1, False, False),
    ("My invoice from 3 May shows the wrong company name. Could you correct it some time?", "billing", 0, False, True),
    ("This is the third time you take money for a plan that I ended. Thieves!", "billing", 1, True, False),
    ("Someone is buying things with my account right now. Stop all payments!", "billing", 2, False, False),
    ("Is there a discount for schools? No hurry.", "billing", 0, False, False),
    ("I was promised a refund by Friday and nothing came. I am furious.", "billing", 1, True, True),
    ("Which payment methods do you take?", "billing", 0, False, False),
    ("My bank says your charge was reversed on Monday. Is my order still paid?", "billing", 1, False, True),
    ("The app closes as soon as I open it on my phone.", "technical", 1, False, False),
    ("Our whole shop is down, every checkout page gives an error, and we lose orders each minute.", "technical", 2, False, False),
    ("Your useless website has lost my form four times. What a disgrace!", "technical", 1, True, False),
    ("It would be nice if the font in the settings were a little larger.", "technical", 0, False, False),
    ("Since the update on Tuesday the search finds nothing.", "technical", 1, False, True),
    ("How do I change the language of the app? I only ask out of interest.", "technical", 0, False, False),
    ("The heater that I bought from you smells of smoke and I cannot switch it off!", "technical", 2, False, False),
    ("I cannot log in: the code never arrives.", "technical", 1, False, False),
    ("The printer has stopped working again. I am sick of this rubbish!", "technical", 1, True, False),
    ("My parcel should have come on Wednesday. Where is it?", "delivery", 1, False, True),
    ("Please send future orders to my new address, 4 Hill Road.", "delivery", 0, False, False),
    ("The driver stands at the wrong house with my medicine now, call him at once!", "delivery", 2, False, False),
    ("Your courier threw my vase over the fence and broke it. Outrageous!", "delivery", 1, True, False),
    ("Do you also deliver to islands?", "delivery", 0, False, False),
    ("Can my parcel come one week later, on 12 June? We are away.", "delivery", 0, False, True),
    ("The box was open and one of two shoes is missing.", "delivery", 1, False, False),
    ("Nobody ever rings, they just leave a card. I have had enough of your lazy couriers!", "delivery", 1, True, False),
)  # fmt: skip


class Decision(NamedTuple):
    """Probabilities of the options, and which of them is right."""

    kind: str
    chances: list[float]
    right: int


def questions() -> dict[str, dict[str, Any]]:
    return {
        "team": {"type": "choice", "instructions": "Which team should answer this message?", "criteria": TEAMS},
        "urgency": {"type": "score", "instructions": "How urgent is this message?", "criteria": LEVELS},
        "angry": {"type": "noul", "instructions": "Is the writer of this message angry?"},
        "dated": {"type": "noul", "instructions": "Does this message name a date or a day of the week?"},
    }


def decided(engine: mz.Engine) -> list[Decision]:
    """All hundred."""
    out: list[Decision] = []
    for text, team, level, angry, dated in MESSAGES:
        asked = Decisions.model_validate({"state": f"Message: {text}", "questions": questions()})
        _, work = decisions_order(engine, asked)
        chances = work(engine, silent)
        rights = {"team": list(TEAMS).index(team), "urgency": level, "angry": int(not angry), "dated": int(not dated)}
        out += [Decision(name, chances[name], right) for name, right in rights.items()]
    return out


def brier(found: Sequence[Decision]) -> float:
    return sum((chance - (n == one.right)) ** 2 for one in found for n, chance in enumerate(one.chances)) / len(found)


def bins(found: Sequence[Decision], count: int = 10) -> list[tuple[float, int, float, float]]:
    """(lower end, decisions, mean confidence, share right) of every bin of confidence that holds any."""
    held: dict[int, list[tuple[float, bool]]] = {}
    for one in found:
        best = max(range(len(one.chances)), key=one.chances.__getitem__)
        confidence = one.chances[best]
        held.setdefault(min(count - 1, int(confidence * count)), []).append((confidence, best == one.right))
    return [
        (n / count, len(all_), sum(c for c, _ in all_) / len(all_), sum(r for _, r in all_) / len(all_))
        for n, all_ in sorted(held.items())
    ]


def ece(found: Sequence[Decision]) -> float:
    return sum(size * abs(confidence - right) for _, size, confidence, right in bins(found)) / len(found)


def measured(engine: mz.Engine) -> list[str]:
    """Lines of Markdown."""
    found = decided(engine)
    rows = []
    for kind in (*questions(), "all"):
        some = [one for one in found if kind in (one.kind, "all")]
        right = sum(max(range(len(one.chances)), key=one.chances.__getitem__) == one.right for one in some)
        options = [len(one.chances) for one in some]
        usual = sum(max(Counter(one.right for one in some if one.kind == k).values(), default=0) for k in questions())
        level = sum(1 - 1 / n for n in options) / len(some)  # what equal chances give
        rows.append([kind, f"{right}/{len(some)}", f"{usual}/{len(some)}", brier(some), level, ece(some)])
    return [
        f"{len(found)} typed decisions: 25 messages, four questions each (`benchmarks/decisions.py`)", "",
        *report.table(["question", "right", "the usual answer is right", "Brier", "Brier of equal chances", "ECE"], rows), "",
        "Reliability: decisions by the probability of the likeliest option.", "",
        *report.table(
            ["confidence", "decisions", "mean confidence", "share right"],
            [[f"{low:.1f} to {low + 0.1:.1f}", size, mean, share] for low, size, mean, share in bins(found)],
        ),
    ]  # fmt: skip

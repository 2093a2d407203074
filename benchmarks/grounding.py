"""Fewer hallucinations? 100 questions whose answer stands in the prompt: names, numbers, dates, drawn by a seed.

    python benchmarks/grounding.py [--count 100] [--seed 0] [--compute int8]

A prompt is a note of seven facts about invented people, and asks for one. Ways: `ar`; `diffusion` (quality best);
`repair`, diffusion's answer with its doubtful places denoised anew, the note before it locked (`mz.repair`).

    copied     the value stands in the answer, and no other value of its kind
    other      another value of the note stands there, alone or beside it
    invented   a value of its kind stands there that is nowhere in the note
    none       no value of that kind
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import report

import mezzotint as mz
from mezzotint.eval.metrics import wilson
from mezzotint.sampler.quality import QUALITY

FIRST = (
    "Marta",
    "Jonas",
    "Ivette",
    "Tobias",
    "Leila",
    "Henrik",
    "Paloma",
    "Osman",
    "Greta",
    "Milo",
    "Sunniva",
    "Rafael",
)
LAST = ("Okafor", "Lindqvist", "Baptiste", "Kowalczyk", "Haddad", "Ferreira", "Novotny", "Eriksen", "Castellan", "Ueda")
MONTHS = ("January", "March", "April", "June", "July", "September", "October", "December")
KINDS = {
    "name": re.compile(r"\b[A-Z][a-z]+ [A-Z][a-z]+\b"),
    "number": re.compile(r"\b\d{4,6}\b"),
    "date": re.compile(r"\b\d{1,2} [A-Z][a-z]+ \d{4}\b"),
}
OUTCOMES = ("copied", "other", "invented", "none")


@dataclass(frozen=True)
class Question:
    """kind of the value that is asked for; note: the text it stands in; value: as it stands there."""

    kind: str
    note: str
    asked: str
    value: str

    @property
    def prompt(self) -> str:
        return f"{self.note}\n\n{self.asked} Answer with the {self.kind} alone, as it is written above."


def questions(count: int, seed: int) -> list[Question]:
    """As many of each kind as of the others, but for the rest."""
    draws, made = random.Random(seed), list[Question]()
    for number in range(count):
        people = [f"{a} {b}" for a, b in zip(draws.sample(FIRST, 3), draws.sample(LAST, 3), strict=True)]
        days = [f"{draws.randint(1, 28)} {draws.choice(MONTHS)} {year}" for year in draws.sample(range(1901, 2020), 2)]
        figures = [str(n) for n in draws.sample(range(10000, 99999), 2)]
        note = (
            f"The museum was founded by {people[0]} on {days[0]}. Its director today is {people[1]}, and {people[2]} keeps the "
            f"archive. The new wing opened on {days[1]}. The collection holds {figures[0]} prints, and {figures[1]} visitors "
            "came last year."
        )
        choices = {
            "name": (("Who founded the museum?", people[0]), ("Who is the director today?", people[1]),
                     ("Who keeps the archive?", people[2])),
            "number": (("How many prints does the collection hold?", figures[0]),
                       ("How many visitors came last year?", figures[1])),
            "date": (("When was the museum founded?", days[0]), ("When did the new wing open?", days[1])),
        }  # fmt: skip
        kind = tuple(KINDS)[number % len(KINDS)]
        made.append(Question(kind, note, *draws.choice(choices[kind])))
    return made


def outcome(question: Question, answer: str) -> str:
    """One of OUTCOMES."""
    said = set(KINDS[question.kind].findall(answer.replace(",", "") if question.kind == "number" else answer))
    there = set(KINDS[question.kind].findall(question.note))
    if said == {question.value}:
        return "copied"
    if said - there:
        return "invented"
    return "other" if said else "none"


def repaired(engine: Any, question: Question, answer: str) -> tuple[str, int]:
    """-> the answer with what the canvas and the causal law doubt denoised anew, and the calls that took."""
    ahead = f"{question.prompt}\n\n"
    edit = mz.repair(engine, ahead + answer, locks=[(0, len(ahead))])
    return edit.after[len(ahead) :], edit.num_calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--compute", default="int8")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=24)
    given = parser.parse_args()
    engine = mz.Engine(mz.load(given.model), compute=given.compute)
    asked = questions(given.count, given.seed)
    answers: dict[str, list[str]] = {"ar": [], "diffusion": [], "diffusion, repaired": []}
    calls, seconds = Counter[str](), Counter[str]()
    for question in asked:
        for way in answers:
            began = time.process_time()
            if way == "diffusion, repaired":
                drafted = answers["diffusion"][-1]
                text, spent = repaired(engine, question, drafted) if drafted.strip() else (drafted, 0)
            else:
                request = mz.Request(question.prompt, decode=way, max_tokens=given.max_tokens, policy=QUALITY["best"]())
                (reply,) = engine.generate(request)
                text, spent = reply.text, reply.trace.num_calls
            answers[way].append(text)
            calls[way] += spent
            seconds[way] += time.process_time() - began
    rows, examples = [], []
    for way, said in answers.items():
        counts = Counter(outcome(q, a) for q, a in zip(asked, said, strict=True))
        low, high = wilson(counts["copied"], len(asked))
        kinds = [
            f"{sum(outcome(q, a) == 'copied' for q, a in zip(asked, said, strict=True) if q.kind == kind)} of "
            f"{sum(q.kind == kind for q in asked)}" for kind in KINDS
        ]  # fmt: skip
        rows.append([
            way, f"{counts['copied'] / len(asked):.0%} ({low:.0%} to {high:.0%})", *(counts[o] for o in OUTCOMES[1:]), *kinds,
            f"{calls[way] / len(asked):.1f}", f"{seconds[way] / len(asked):.2f}",
        ])  # fmt: skip
        examples += [f"- {way}, {q.kind} {q.value!r}: {a[:100]!r}" for q, a in list(zip(asked, said, strict=True))[:3]]
    changed = sum(a != b for a, b in zip(answers["diffusion"], answers["diffusion, repaired"], strict=True))
    head = ["way", "copied (95%)", *OUTCOMES[1:], *KINDS, "calls a question", "processor s a question"]
    report.write("grounding", "Values that stand in the prompt", [
        f"{len(asked)} questions, seed {given.seed}, {given.model} in {engine.compute}, at most {given.max_tokens} tokens. "
        f"Repair changed {changed} answers; its calls and time come on top of diffusion's.", "",
        *report.table(head, rows), "", "The first three answers of each:", "", *examples,
    ])  # fmt: skip


if __name__ == "__main__":
    main()

"""Decisions: typed questions about a state, answered with probabilities in one forward. Nothing is written.

    noul     yes or no                    -> the probability of yes
    choice   one of named options         -> the likeliest, and the probability of each
    score    a level of an ordered scale  -> the mean level, and the probability of each

Questions are rows of one forward, behind a state that is read once: p(option) is the causal probability of its label behind
the question, normalised over the question's options. Labels are A, B, .. and the descriptions stand in the text, so that
none is longer than another; yes and no speak for themselves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from mezzotint.edit.ask import Report, silent
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Request as Ask
from mezzotint.sampler.verify import pad
from mezzotint.server import chance
from mezzotint.server.errors import bad
from mezzotint.server.orders import TOO_LONG, fits
from mezzotint.server.service import Service, ignored
from mezzotint.server.settings import MOST_OPTIONS, MOST_QUESTIONS
from mezzotint.server.wire import Body

Content = str | dict[str, Any] | list[Any]
ROWS = 16  # questions of one forward
LETTERS = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
LABELS = LETTERS + [a + b for a in LETTERS for b in LETTERS]


class Question(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    instructions: Content | None = None


class Sides(BaseModel):
    """What yes and no mean here."""

    model_config = ConfigDict(strict=True, extra="ignore")
    true: Content | None = None
    false: Content | None = None


class Noul(Question):
    type: Literal["noul"]
    criteria: Sides | None = None


class Choice(Question):
    type: Literal["choice"]
    criteria: Annotated[dict[str, Content | None], Field(min_length=1, max_length=MOST_OPTIONS)]


class Score(Question):
    type: Literal["score"]
    criteria: Annotated[list[Content], Field(min_length=2, max_length=MOST_OPTIONS)]


Typed = Annotated[Noul | Choice | Score, Field(discriminator="type")]


class Decisions(Body):
    """state: what is asked about. questions: {name: question}."""

    state: Content
    questions: Annotated[dict[str, Typed], Field(min_length=1, max_length=MOST_QUESTIONS)]


@dataclass(frozen=True)
class Asked:
    """A question as rows: the ids before the label, and the ids of every label."""

    question: Noul | Choice | Score
    before: list[int]
    labels: list[list[int]]


def _said(content: Content | None) -> str:
    return content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)


def told(state: Content, question: Noul | Choice | Score) -> tuple[str, list[str]]:
    """The text of a question, and the labels of its answers."""
    lines = [_said(state), "", _said(question.instructions) or "Which fits?"]
    if isinstance(question, Noul):
        for label, side in (("Yes", "true"), ("No", "false")):
            if question.criteria is not None and (said := _said(getattr(question.criteria, side))):
                lines.append(f"{label}: {said}")
        return "\n".join([*lines, "Answer with Yes or No."]), ["Yes", "No"]
    if isinstance(question, Score):
        options = [_said(level) for level in question.criteria]
    else:
        options = [f"{name}: {_said(what)}" if what else name for name, what in question.criteria.items()]
    labels = LABELS[: len(options)]
    lines += [f"{label}. {option}" for label, option in zip(labels, options, strict=True)]
    return "\n".join([*lines, f"Answer with one of {', '.join(labels)}."]), labels


def decisions_order(engine: Engine, body: Decisions) -> tuple[dict[str, Asked], Callable[..., dict[str, list[float]]]]:
    """Every question as ids, and what gives each a probability for each label. Raises ApiError."""
    asked, template = {}, engine.tokenizer.chat_template is not None
    for name, question in body.questions.items():
        text, labels = told(body.state, question)
        text += "" if template else "\nAnswer:"
        fits(engine, text, "state")
        try:
            before = engine.prompt_ids(Ask(text, raw=not template, max_tokens=4))
        except ValueError as error:
            raise bad(str(error), "state", TOO_LONG if "context" in str(error) else None) from None
        asked[name] = Asked(
            question, before, [engine.tokenizer.encode(label if template else " " + label) for label in labels]
        )

    def run(engine: Engine, report: Report) -> dict[str, list[float]]:
        report("deciding", 0, 1)
        worth = weigh(engine, [(one.before, one.labels) for one in asked.values()], report)
        return {
            name: torch.tensor(nats, dtype=torch.float64).softmax(0).tolist()
            for name, nats in zip(asked, worth, strict=True)
        }  # fmt: skip

    return asked, run


@torch.inference_mode()
def weigh(
    engine: Engine, questions: Sequence[tuple[list[int], list[list[int]]]], report: Report = silent
) -> list[list[float]]:
    """log p(label | text before it) in nats, for every label of every question.

    What all texts begin with is read once; the rest of each is a row of one forward. Labels of several tokens take another.
    """
    texts = [before for before, _ in questions]
    shortest = min(map(len, texts)) - 1  # the last token of each is its own: its logits are wanted
    same = next((n for n in range(shortest) if len({text[n] for text in texts}) > 1), shortest)
    longest = max(len(label) for _, labels in questions for label in labels)
    root = engine.denoiser.new_cache(1, max(map(len, texts)) + longest)
    if same:
        engine.denoiser.read(torch.tensor([texts[0][:same]]), torch.tensor([same]), root)
    worth: list[list[float]] = []
    for first in range(0, len(questions), ROWS):
        part = questions[first : first + ROWS]
        cache = root.fork([0] * len(part))
        ids, counts = pad([before[same:] for before, _ in part])
        laws = engine.denoiser.read(ids, counts, cache).logits[:, -1].to(torch.float64).log_softmax(-1)  # [Q, V]
        for row, (_, labels) in enumerate(part):
            nats = [float(laws[row, label[0]]) for label in labels]
            if any(len(label) > 1 for label in labels):
                report("deciding", first + row, len(questions))
                ids, counts = pad([label[:-1] or [0] for label in labels])
                told = engine.denoiser.read(ids, counts, cache.fork([row] * len(labels)), every=True).logits
                for i, label in enumerate(labels):
                    rest = told[i, : len(label) - 1].to(torch.float64).log_softmax(-1)
                    nats[i] += float(rest.gather(-1, torch.tensor(label[1:], dtype=torch.int64)[:, None]).sum())
            worth.append(nats)
    return worth


def answered(question: Noul | Choice | Score, chances: list[float]) -> dict[str, Any]:
    chances = [round(chance, 6) for chance in chances]
    if isinstance(question, Noul):
        return {"type": "noul", "noul": chances[0]}
    best = max(range(len(chances)), key=chances.__getitem__)
    if isinstance(question, Choice):
        names = list(question.criteria)
        probabilities = dict(zip(names, chances, strict=True))
        return {"type": "choice", "choice": names[best], "probabilities": probabilities, "confidence": chances[best]}
    mean = sum(level * chance for level, chance in enumerate(chances)) / (sum(chances) or 1)
    levels = list(map(str, range(len(chances))))
    return {
        "type": "score", "score": round(mean, 6), "probabilities": dict(zip(levels, chances, strict=True)),
        "legend": dict(zip(levels, question.criteria, strict=True)), "confidence": chances[best],
    }  # fmt: skip


def add(app: FastAPI, service: Service) -> None:
    @app.post("/v1/systemone", include_in_schema=False)
    @app.post("/v1/decisions")
    async def decisions(body: Decisions, request: Request) -> dict[str, Any]:
        """Typed questions, answered with probabilities."""
        asked, work = await asyncio.to_thread(decisions_order, service.engine_for(body), body)
        chances = await service.first(request, service.worker.call(work, service.settings.deadline))
        read = sum(len(one.before) for one in asked.values())
        service.metrics.worked(read, 0, 0, 0)
        warning = {"warning": "; ".join(notes)} if (notes := ignored(body)) else {}
        return {
            "id": f"decision-{chance.digits()}", "model": service.name,
            "answers": {name: answered(one.question, chances[name]) for name, one in asked.items()},
            "usage": {"input_tokens": read, "output_tokens": 0, "total_tokens": read}, **warning,
        }  # fmt: skip

"""Running a benchmark: ask what is not yet answered, judge what is not yet judged, say how it stands.

    items drawn by a seed -> batches -> answers, stored -> verdicts, stored -> Summary

Drawn items are those whose hash with the seed is smallest: 60 items are among 200 of the same seed, and those among all.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mezzotint.eval.data import Data
from mezzotint.eval.extract import without_reasoning
from mezzotint.eval.judge import Judge
from mezzotint.eval.store import Answer, Judged, Store, final_state
from mezzotint.eval.systems import EndpointGone, System
from mezzotint.eval.task import SCORER, Item, Task, Verdict

MOST_FAILED = 0.005  # share of infra_error at which a run fails
GONE = 8  # failed requests in a row at which a system is given up
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Wanted:
    """items: how many of a benchmark, None for all. samples: answers an item. seed: draws the items. max_tokens:
    None for the task's own.
    """

    items: int | None = None
    samples: int = 1
    seed: int = 0
    max_tokens: int | None = None
    workers: int = 1
    command: str = ""

    def __post_init__(self) -> None:
        for name in ("items", "samples", "max_tokens", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class Summary:
    task: str
    states: Counter[str]
    asked: int  # answers that this run made
    why: str = ""  # what the last request that failed said

    @property
    def failed(self) -> bool:
        return self.states["infra_error"] > MOST_FAILED * sum(self.states.values())


def draw(items: Sequence[Item], count: int | None, seed: int) -> list[Item]:
    """Items with the smallest hashes, in the benchmark's order."""
    if count is None or count >= len(items):
        return list(items)

    def key(item: Item) -> bytes:
        return hashlib.sha256(f"{seed}/{item.id}".encode()).digest()

    limit = sorted(map(key, items))[count - 1]
    return [item for item in items if key(item) <= limit]


def verdict(task: Task, item: Item, answer: Answer, judge: Judge) -> Judged:
    """Judge one answer."""
    given = Verdict("no_answer")
    if answer.reason not in ("error", "context"):
        given = task.judge(item, without_reasoning(answer.text), answer.plain, judge)
    return Judged(
        *answer.key, answer.sha256, judge.grading if task.code else "value", SCORER,
        judge.isolation(task),
        final_state(answer, given), given.score, given.note,
    )  # fmt: skip


def run(
    task: Task, data: Data, system: System, store: Store, judge: Judge | None, wanted: Wanted, report: Report = lambda *_: None
) -> Summary:  # fmt: skip
    """judge: None leaves the verdicts for later. Raises EndpointGone, NoIsolation; what was finished is stored."""
    first = task.load(data.rows, 0)
    if len({item.id for item in first}) != len(first):
        raise ValueError(f"{task.name}: two items have one id")
    names = {item.id for item in draw(first, wanted.items, wanted.seed)}
    max_tokens = wanted.max_tokens or task.max_tokens
    store.begin(task.name, {
        "data_sha256": data.sha256, "files": list(data.files), "fixture": data.fixture, "rows": len(first), "items": len(names),
        "seed": wanted.seed, "samples": wanted.samples, "max_tokens": max_tokens, "command": wanted.command,
        "places": {i.id: [i.group, i.label] for i in first if i.id in names and (i.group or i.label)},
        "prompts_sha256": hashlib.sha256("".join(i.prompt_sha256 for i in first if i.id in names).encode()).hexdigest(),
    })  # fmt: skip
    answers, failed, asked, streak = store.answers(task.name), list[Answer](), 0, 0
    grading = judge.grading if judge and task.code else "value" if not task.code else ""
    verdicts = store.verdicts(task.name, grading) if judge else {}
    states: Counter[str] = Counter()
    total = len(names) * wanted.samples
    for sample in range(wanted.samples):
        items = [item for item in task.load(data.rows, sample) if item.id in names]
        items.sort(key=lambda item: len(item.plain))  # rows of a batch are padded to the longest
        for begin in range(0, len(items), system.size):
            batch = items[begin : begin + system.size]
            new = [item for item in batch if (item.id, sample, item.prompt_sha256) not in answers]
            if new:
                made = system.ask(new, sample, max_tokens)
                asked += len(made)
                store.add_answers(task.name, made)
                answers |= {answer.key: answer for answer in made if answer.reason != "error"}
                failed += [answer for answer in made if answer.reason == "error"]
                for answer in made:
                    streak = streak + 1 if answer.reason == "error" else 0
                if streak >= GONE:
                    raise EndpointGone(
                        f"{streak} requests in a row failed ({made[-1].note}); {len(answers)} answers are kept, "
                        "the same command goes on from there"
                    )
            if judge is not None:
                states.update(_judge(task, batch, sample, answers, verdicts, store, judge, wanted.workers))
            report(task.name, sample * len(items) + begin + len(batch), total)
    states["infra_error"] += len(failed)
    return Summary(task.name, states, asked, failed[-1].note if failed else "")


def _judge(
    task: Task, items: Sequence[Item], sample: int, answers: dict[tuple[str, int, str], Answer],
    verdicts: dict[tuple[str, int, str], Judged], store: Store, judge: Judge, workers: int,
) -> Counter[str]:  # fmt: skip
    """Judge those answers that have no verdict under these rules yet. -> states of all of them."""
    there = [(item, answers[key]) for item in items if (key := (item.id, sample, item.prompt_sha256)) in answers]

    def stands(answer: Answer) -> bool:
        known = verdicts.get(answer.key)
        return (
            known is not None and known.answer == answer.sha256 and known.scorer == SCORER and known.state != "infra_error"
        )  # fmt: skip

    todo = [(item, answer) for item, answer in there if not stands(answer)]
    with ThreadPoolExecutor(min(workers, os.cpu_count() or 1)) as pool:
        made = list(pool.map(lambda pair: verdict(task, pair[0], pair[1], judge), todo))
    if made:
        store.add_verdicts(task.name, made)
        verdicts.update({judged.key: judged for judged in made})
    return Counter(verdicts[answer.key].state for _, answer in there)

"""Answers and verdicts on disk, as they come: a killed run loses nothing that was finished.

    OUT/run.json              which system answers: model, weights, decoder, sampling; a store holds answers of one system
    OUT/TASK.json             which items: SHA-256 of the data, how many, drawn by which seed
    OUT/TASK.answers.jsonl    a line an answer, flushed to the disk batch by batch
    OUT/TASK.verdicts.jsonl   a line a verdict, by grading; judging again asks nothing again

Lines are keyed by item, sample and the SHA-256 of the prompt; the last of a key holds. A line that was cut by a kill is dropped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from mezzotint.checkpoints.files import whole_file
from mezzotint.eval.extract import refuses
from mezzotint.eval.task import Verdict

REASONS = ("stop", "length", "context", "refused", "error")


@dataclass(frozen=True)
class Answer:
    """What a system said to an item. reason: how it ended; context: the prompt left no room, error: the system failed.

    plain: is it a continuation of the plain prompt (or what stands in a hole)? calls, positions: of the network, None where
    nobody counts them. seconds: of the batch it was in, shared by its `batch` answers. ids: tokens, of local models.
    """

    item: str
    sample: int
    prompt: str
    text: str
    reason: str
    plain: bool = False
    tokens: int = 0
    calls: int | None = None
    positions: int | None = None
    seconds: float = 0.0
    batch: int = 1
    note: str = ""
    ids: list[int] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int, str]:
        return self.item, self.sample, self.prompt

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Judged:
    """A verdict on one answer, with its final state."""

    item: str
    sample: int
    prompt: str
    answer: str
    grading: str
    scorer: int
    isolation: str
    state: str
    score: float
    note: str

    @property
    def key(self) -> tuple[str, int, str]:
        return self.item, self.sample, self.prompt


def final_state(answer: Answer, verdict: Verdict) -> str:
    """One of the six states: see `task.py`."""
    if answer.reason == "error":
        return "infra_error"
    if answer.reason == "context":
        return "truncated"
    if verdict.state in ("correct", "infra_error"):
        return verdict.state
    if answer.reason == "refused" or (verdict.state == "no_answer" and refuses(answer.text)):
        return "refused"
    return "truncated" if answer.reason == "length" else verdict.state


class Store:
    """A folder that one process at a time writes to. Raises ValueError when it holds another system's answers."""

    def __init__(self, folder: str | Path, system: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(
                f"{self.folder} is being written by another run; wait for it, or give another --out"
            ) from None
        try:
            self._check(system)
        except BaseException:
            self.close()
            raise

    def _check(self, system: Mapping[str, Any]) -> None:
        known = read_json(self.folder / "run.json")
        if known is None:
            self._write("run.json", dict(system))
        elif changed := [k for k in {**known, **system} if known.get(k) != system.get(k)]:
            said = "; ".join(f"{k} was {known.get(k)!r} and is {system.get(k)!r}" for k in sorted(changed))
            raise ValueError(f"{self.folder} holds answers of another system ({said}); give another --out")

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, task: str, about: Mapping[str, Any]) -> None:
        """Note which items are asked. Raises ValueError when the data has changed since the store was begun."""
        known = read_json(self.folder / f"{task}.json")
        if known and known["data_sha256"] != about["data_sha256"]:
            raise ValueError(
                f"the data of {task} has changed: {self.folder} was begun with SHA-256 {known['data_sha256'][:16]}..., the files "
                f"now have {str(about['data_sha256'])[:16]}...; bring back the old ones, or give another --out"
            )
        if known and known["max_tokens"] != about["max_tokens"]:
            raise ValueError(
                f"{task} in {self.folder} was begun with at most {known['max_tokens']} tokens an answer, now "
                f"{about['max_tokens']} are wanted; give the same --max-tokens, or another --out"
            )
        self._write(f"{task}.json", dict(about))

    def answers(self, task: str) -> dict[tuple[str, int, str], Answer]:
        """By key; those that failed are not among them."""
        found = {a.key: a for a in (Answer(**row) for row in self._lines(f"{task}.answers.jsonl"))}
        return {key: answer for key, answer in found.items() if answer.reason != "error"}

    def add_answers(self, task: str, answers: Iterable[Answer]) -> None:
        self._append(f"{task}.answers.jsonl", map(asdict, answers))

    def verdicts(self, task: str, grading: str) -> dict[tuple[str, int, str], Judged]:
        """By key, of one grading."""
        rows = (Judged(**row) for row in self._lines(f"{task}.verdicts.jsonl"))
        return {judged.key: judged for judged in rows if judged.grading == grading}

    def add_verdicts(self, task: str, verdicts: Iterable[Judged]) -> None:
        self._append(f"{task}.verdicts.jsonl", map(asdict, verdicts))

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        with whole_file(self.folder / name) as file:
            file.write(json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n")

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        data = b"".join(json.dumps(row, ensure_ascii=True).encode() + b"\n" for row in rows)
        with (self.folder / name).open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _lines(self, name: str) -> list[dict[str, Any]]:
        return whole_lines(self.folder / name, repair=True)


def whole_lines(path: Path, repair: bool = False) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, without a last one that was cut; `repair` cuts it off the file too.

    Raises ValueError naming another line that is not JSON.
    """
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ValueError(
                f"{path}, line {number} is damaged; remove that line, its item is then asked again"
            ) from None
    return rows


def read_json(path: Path) -> dict[str, Any] | None:
    """Raises ValueError for a file that is there and no JSON object."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: not a JSON object")
    return value

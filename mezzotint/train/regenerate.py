"""Self-distillation: a checkpoint answers the questions of a corpus again, so that it can be adapted on its own words.

    questions -> batches of `batch` -> answers that end -> .OUT.part, a line a chunk, flushed        ... OUT, when all are asked

Answers depend on the question alone: not on the batch, on the worker, nor on how often the work was interrupted. Begun
again with the same output it goes on with the first chunk that is not whole. Ray is needed for several workers only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mezzotint.checkpoints.files import whole_file
from mezzotint.train.data import Document, Skipped, find_sources

KEPT = ("messages", "source", "cut")  # of an answered row
CHUNK = 8  # batches of a worker between two lines of the part file


class Regenerate:
    """Rows of {"messages": JSON, "source"} -> the same with the last answer written anew by a checkpoint.

    model: a name, folder or file for `load`. A row's random numbers come from its question. Answers that do not end within
    `max_tokens` are left out: they would teach not to end; with `cut` they are kept, and their rows say "cut", which
    `data examples` heeds. Questions that leave no room for an answer are left out.
    """

    def __init__(
        self, model: str, max_tokens: int = 256, temperature: float = 0.7, decode: str = "ar", cut: bool = False
    ) -> None:
        from mezzotint.checkpoints.load import load
        from mezzotint.engine.engine import Engine

        self.engine = Engine(load(model))
        self.max_tokens, self.temperature, self.decode, self.cut = max_tokens, temperature, decode, cut

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        from mezzotint.engine.request import Request

        chats = [json.loads(messages) for messages in batch["messages"]]
        asked = [chat[:-1] if chat[-1]["role"] == "assistant" else chat for chat in chats]
        requests = [
            Request(
                messages, decode=self.decode, max_tokens=self.max_tokens, temperature=self.temperature,  # type: ignore[arg-type]  # checked there
                seed=int.from_bytes(hashlib.sha256(json.dumps(messages).encode()).digest()[:7], "big"),
            )
            for messages in asked
        ]  # fmt: skip
        fits = [self._fits(request) for request in requests]
        replies = iter(self.engine.generate([request for request, fit in zip(requests, fits, strict=True) if fit]))
        allowed = ("stop", "length") if self.cut else ("stop",)
        kept = [
            (
                json.dumps([*messages, {"role": "assistant", "content": reply.text}], ensure_ascii=False),
                str(source),
                reply.reason == "length",
            )
            for messages, source, fit in zip(asked, batch["source"], fits, strict=True)
            if fit and (reply := next(replies)).reason in allowed and reply.text.strip()
        ]
        return {key: [row[i] for row in kept] for i, key in enumerate(KEPT)}

    def _fits(self, request: Any) -> bool:
        """Is there room for the question and an answer? Also False for turns that the chat template refuses."""
        try:
            return bool(self.engine.prompt_ids(request))
        except ValueError:
            return False


def questions(documents: Iterable[Document]) -> Iterator[dict[str, str]]:
    """Rows for `Regenerate`: the conversations among documents, up to their last answer."""
    for document in documents:
        turns = [dict(message) for message in document.messages]
        while turns and turns[-1]["role"] != "assistant":
            turns.pop()
        if len(turns) > 1:
            yield {"messages": json.dumps(turns, ensure_ascii=False), "source": document.source}


def regenerate(
    out: str | Path, names: Sequence[str], model: str, workers: int = 1, gpus: float = 0, batch: int = 16,
    most: int | None = None, report: Callable[[int, int], None] = lambda done, all: None, **options: Any,
) -> tuple[int, int]:  # fmt: skip
    """Write the questions of sources (as `find_sources` finds them) with new answers to a JSON-lines file.

    workers: copies of the model; gpus: of each. most: questions, drawn by their hash. report: questions done, and of how many.
    options: of `Regenerate`. -> questions asked, answers kept. Raises ValueError (a part file of other questions), OSError.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; give another file")
    documents = (document for source in find_sources(names) for document in source.documents(Skipped()))
    rows = sorted(questions(documents), key=lambda row: _key(row["messages"]))[:most]
    if not rows:
        raise ValueError(f"{', '.join(names)} hold no question to answer")
    part = out.with_name(f".{out.name}.part")
    asked = {
        "model": model,
        "questions": _key("".join(row["messages"] for row in rows)),
        "batch": batch * workers,
        **options,
    }
    done = _begun(part, asked)
    ask = _asking(model, workers, gpus, batch, options)
    size = batch * workers * CHUNK
    with part.open("a", encoding="utf-8") as file:
        if not done:
            file.write(json.dumps(asked) + "\n")
        for begin in range(size * max(0, len(done) - 1), len(rows), size):
            kept = [{**row, "model": model} for row in ask(rows[begin : begin + size])]
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
            file.flush()
            report(min(begin + size, len(rows)), len(rows))
    answers = [row for line in part.read_text("utf-8").splitlines()[1:] for row in json.loads(line)]
    with whole_file(out) as written:
        for row in answers:
            written.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    part.unlink()
    return len(rows), len(answers)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _begun(part: Path, asked: Mapping[str, Any]) -> list[str]:
    """The whole lines of a part file, which then holds nothing else. Raises ValueError when they answer something else."""
    if not part.is_file():
        return []
    lines = part.read_text("utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if not whole:
        part.unlink()
        return []
    if json.loads(whole[0]) != asked:
        raise ValueError(f"{part} was begun with other questions or settings; go on with those, or remove it")
    if len(whole) < len(lines):
        with whole_file(part) as file:
            file.write("".join(whole).encode())
    return whole


def _asking(
    model: str, workers: int, gpus: float, batch: int, options: Mapping[str, Any]
) -> Callable[[Sequence[Mapping[str, str]]], Iterator[dict[str, Any]]]:
    """Questions -> those that were answered, in order: here, or on Ray."""

    def parsed(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            cut = {"cut": True} if row["cut"] else {}
            yield {"messages": json.loads(row["messages"]), "source": row["source"], **cut}

    if workers == 1 and not gpus:
        work = Regenerate(model, **options)

        def here(rows: Sequence[Mapping[str, str]]) -> Iterator[dict[str, Any]]:
            left = iter(rows)
            while some := list(islice(left, batch)):
                answered = work({key: [row[key] for row in some] for key in ("messages", "source")})
                yield from parsed(
                    dict(zip(answered, values, strict=True)) for values in zip(*answered.values(), strict=True)
                )

        return here
    from mezzotint.train.ray import started

    ray = started()

    def there(rows: Sequence[Mapping[str, str]]) -> Iterator[dict[str, Any]]:
        answered = ray.data.from_items(list(rows)).map_batches(
            Regenerate, fn_constructor_args=(model,), fn_constructor_kwargs=dict(options), batch_size=batch,
            batch_format="numpy", compute=ray.data.ActorPoolStrategy(size=workers), num_gpus=gpus or None,
        )  # fmt: skip
        return parsed(answered.iter_rows())

    return there

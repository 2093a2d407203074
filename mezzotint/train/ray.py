"""Large corpora on Ray Data: the same corpus, rows and answers as on one machine, made by many.

    encode on a cluster      a file is a task; `tokens.build` writes what comes back, in order: the same bytes
    packed_rows(...)         rows of a run as a Ray dataset: each block computes its own from their numbers
    regenerate(...)          self-distillation: a checkpoint answers the questions again, so that it learns its own words

`ray.init()` follows RAY_ADDRESS; without one Ray uses the cores of this machine. Files and corpora must lie where every
worker can read them. Answers depend on the question alone, not on the batch or the worker.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mezzotint.checkpoints.files import whole_file
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.train.corpus import Choice, Corpus, Encoded, Stream, encode_file
from mezzotint.train.data import Document, Skipped, Source, find_sources
from mezzotint.train.packing import Packing
from mezzotint.train.tokens import Tokens, token_type


def _ray() -> Any:
    """Ray Data, started, its blocks in order. Raises ValueError where it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("ray is not installed: pip install 'mezzotint[ray]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    return ray


# -- tokenising --------------------------------------------------------------------------------------------------------


class EncodeFiles:
    """{"source": index, "file": index} -> the documents of that file, tokenised, as rows that Arrow holds."""

    def __init__(self, sources: Sequence[Source], tokenizer: Tokenizer, choice: Choice, strict: bool) -> None:
        self.sources, self.tokenizer, self.choice, self.strict = sources, tokenizer, choice, strict

    def __call__(self, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        source = self.sources[row["source"]]
        for e in encode_file(source, source.files[row["file"]], self.tokenizer, self.choice, self.strict):
            plain = {"source": source.name, "place": e.place, "digest": e.digest, "harmless": e.harmless}
            if isinstance(e.found, str):
                yield {**plain, "reason": e.found, "ids": b"", "learnt": b""}
            else:
                yield {**plain, "reason": "", "ids": e.found.ids.tobytes(), "learnt": e.found.learnt.tobytes()}


def encoded(sources: Sequence[Source], tokenizer: Tokenizer, choice: Choice, strict: bool = False) -> Stream:
    """What `tokens.in_threads` yields, computed on Ray, as many files at once as there are cores.

    For `tokens.build(..., stream=lambda sources: encoded(sources, tokenizer, choice))`.
    """
    ray = _ray()
    files = [{"source": s, "file": f} for s, source in enumerate(sources) for f in range(len(source.files))]
    work = EncodeFiles(sources, tokenizer, choice, strict)
    rows = ray.data.from_items(files, override_num_blocks=len(files)).flat_map(work.__call__).iter_rows()
    return from_rows(rows, token_type(tokenizer.vocab_size))


def from_rows(rows: Iterable[Mapping[str, Any]], type: np.dtype[Any]) -> Stream:
    """What `EncodeFiles` made, as the stream that `tokens.build` takes."""
    for row in rows:
        found: Tokens | str = row["reason"]
        if not found:
            found = Tokens(np.frombuffer(row["ids"], type), np.frombuffer(row["learnt"], np.bool_))
        yield row["source"], Encoded(row["place"], row["digest"], found, row["harmless"])


# -- packing -----------------------------------------------------------------------------------------------------------


def packed_rows(
    corpus: str | Path,
    length: int,
    rows: range,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    block: int = 256,
) -> Any:
    """Rows of `Packing(corpus, length, seed, weights)` as a Ray dataset, in order.

    Columns: tokens, document, position int32 and learnt bool, each `[length]`. For `iter_torch_batches` or `write_parquet`.
    """
    ray = _ray()
    folder = str(Path(corpus).resolve())

    def pack(batch: Mapping[str, Any]) -> dict[str, Any]:
        first, count = int(batch["id"][0]), len(batch["id"])
        packed = Packing(Corpus.open(folder), length, seed, weights).rows(rows.start + first, count)
        small = {name: x.numpy().astype(np.int32) for name, x in packed._asdict().items() if name != "learnt"}
        return {**small, "learnt": packed.learnt.numpy()}

    blocks = max(1, -(-len(rows) // block))
    return ray.data.range(len(rows), override_num_blocks=blocks).map_batches(pack, batch_size=block)


# -- self-distillation -------------------------------------------------------------------------------------------------


class Regenerate:
    """Rows of {"messages": JSON, "source"} -> the same with the last answer written anew by a checkpoint.

    model: a name, folder or file for `load`. A row's random numbers come from its question. Answers that do not end within
    `max_tokens` are left out: they would teach not to end.
    """

    def __init__(self, model: str, max_tokens: int = 256, temperature: float = 0.7, decode: str = "ar") -> None:
        from mezzotint.checkpoints.load import load
        from mezzotint.engine.engine import Engine

        self.engine = Engine(load(model))
        self.max_tokens, self.temperature, self.decode = max_tokens, temperature, decode

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
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
        replies = self.engine.generate(requests)
        kept = [
            (json.dumps([*messages, {"role": "assistant", "content": reply.text}], ensure_ascii=False), str(source))
            for messages, source, reply in zip(asked, batch["source"], replies, strict=True)
            if reply.reason == "stop" and reply.text.strip()
        ]
        return {"messages": [messages for messages, _ in kept], "source": [source for _, source in kept]}


def questions(documents: Iterable[Document]) -> Iterator[dict[str, str]]:
    """Rows for `Regenerate`: the conversations among documents, up to their last answer."""
    for document in documents:
        turns = [dict(message) for message in document.messages]
        while turns and turns[-1]["role"] != "assistant":
            turns.pop()
        if len(turns) > 1:
            yield {"messages": json.dumps(turns, ensure_ascii=False), "source": document.source}


def regenerate(
    out: str | Path,
    names: Sequence[str],
    model: str,
    workers: int = 1,
    gpus: float = 0,
    batch: int = 16,
    **options: Any,
) -> tuple[int, int]:
    """Write the questions of sources (as `find_sources` finds them) with new answers to a JSON-lines file.

    workers: copies of the model; gpus: of each. options: of `Regenerate`. -> questions asked, answers kept. Raises ValueError.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; give another file")
    rows = list(questions(document for source in find_sources(names) for document in source.documents(Skipped())))
    if not rows:
        raise ValueError(f"{', '.join(names)} hold no question to answer")
    ray = _ray()
    answered = ray.data.from_items(rows).map_batches(
        Regenerate, fn_constructor_args=(model,), fn_constructor_kwargs=options, batch_size=batch,
        batch_format="numpy", compute=ray.data.ActorPoolStrategy(size=workers), num_gpus=gpus or None,
    )  # fmt: skip
    kept = 0
    with whole_file(out) as file:
        for row in answered.iter_rows():
            line = {"messages": json.loads(row["messages"]), "source": row["source"], "model": model}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            kept += 1
    return len(rows), kept

"""Large corpora on Ray Data: the same corpus and rows as on one machine, made by many.

    encode on a cluster      a file is a task; `corpus.build` writes what comes back, in order: the same bytes
    packed_rows(...)         rows of a run as a Ray dataset: each block computes its own from their numbers

`ray.init()` follows RAY_ADDRESS; without one Ray uses the cores of this machine. Files and corpora must lie where every
worker can read them. `regenerate.py` has questions answered on Ray as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.train.corpus import Choice, Corpus, Encoded, Stream, encode_file
from mezzotint.train.data import Source
from mezzotint.train.packing import Packing
from mezzotint.train.tokens import Tokens, token_type


def started() -> Any:
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
    """What `corpus.in_threads` yields, computed on Ray, as many files at once as there are cores.

    For `corpus.build(..., stream=lambda sources: encoded(sources, tokenizer, choice))`.
    """
    ray = started()
    files = [{"source": s, "file": f} for s, source in enumerate(sources) for f in range(len(source.files))]
    work = EncodeFiles(sources, tokenizer, choice, strict)
    rows = ray.data.from_items(files, override_num_blocks=len(files)).flat_map(work.__call__).iter_rows()
    return from_rows(rows, token_type(tokenizer.vocab_size))


def from_rows(rows: Iterable[Mapping[str, Any]], type: np.dtype[Any]) -> Stream:
    """What `EncodeFiles` made, as the stream that `corpus.build` takes."""
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
    ray = started()
    folder = str(Path(corpus).resolve())

    def pack(batch: Mapping[str, Any]) -> dict[str, Any]:
        first, count = int(batch["id"][0]), len(batch["id"])
        packed = Packing(Corpus.open(folder), length, seed, weights).rows(rows.start + first, count)
        small = {name: x.numpy().astype(np.int32) for name, x in packed._asdict().items() if name != "learnt"}
        return {**small, "learnt": packed.learnt.numpy()}

    blocks = max(1, -(-len(rows) // block))
    return ray.data.range(len(rows), override_num_blocks=blocks).map_batches(pack, batch_size=block)

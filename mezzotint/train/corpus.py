"""A corpus on disk: tokenised once, mapped into memory, the same bytes wherever and however it was made.

    corpus/
      manifest.json               what is in it, the tokenizer's fingerprint, SHA-256 of every file
      tokenizer.json              the tokenizer itself
      <source>-00000.tokens.npy   uint16, or uint32 where the vocabulary needs it: documents one after another
      <source>-00000.ends.npy     int64: where each of them ends
      <source>-00000.learnt.npy   one bit a token: does it carry a loss? Absent where all do

Sources are taken by name and documents in the order of their files, so neither the order in which files were given nor the
number of workers changes a byte. The folder appears when it is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mezzotint.checkpoints.files import whole_file, whole_folder
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.train.data import Document, Skipped, Source, held_out, read_documents
from mezzotint.train.overlap import Runs
from mezzotint.train.tokens import Tokens, fingerprint, token_type, tokenise

FORMAT = 1
SHARD = 1 << 26  # tokens of a shard, at most but for one document
CHUNK = 64  # documents a worker takes at once
In = TypeVar("In")
Out = TypeVar("Out")


# -- building ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Which documents enter. hold_out: this share of their sources stays out, or, with only_held_out, is all that enters.

    without: `evaluation_runs`; a document that shares one stays out.
    """

    hold_out: float = 0.0
    only_held_out: bool = False
    without: Runs = field(default_factory=Runs)

    def __post_init__(self) -> None:
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"hold_out is {self.hold_out}; it must lie in [0, 1)")


class Encoded(NamedTuple):
    """A document on its way into a corpus: its tokens, or why it has none. digest: of its text, to find repetitions."""

    place: str
    digest: bytes
    found: Tokens | str
    harmless: bool = False  # no error even where bad rows are


Stream = Iterator[tuple[str, Encoded]]  # with the name of the source


def encode(document: Document, tokenizer: Tokenizer, choice: Choice) -> Encoded | None:
    """One document; None when it belongs to the other side of a split."""
    if held_out(document.source, choice.hold_out) != choice.only_held_out:
        return None
    digest = hashlib.blake2b(document.content.encode("utf-8", "surrogatepass"), digest_size=12).digest()
    if choice.without.overlaps(document.content):
        return Encoded(document.place, digest, "shares words with an evaluation", harmless=True)
    try:
        return Encoded(document.place, digest, tokenise(document, tokenizer))
    except ValueError as error:
        return Encoded(document.place, digest, f"cannot be encoded: {error}")


def encode_file(source: Source, file: Path, tokenizer: Tokenizer, choice: Choice, strict: bool) -> Iterator[Encoded]:
    """Every document of a file, then what was wrong with its other rows."""
    skipped = Skipped(strict)
    for document in read_documents(file, skipped, source.permissive):
        if (encoded := encode(document, tokenizer, choice)) is not None:
            yield encoded
    for reason, count in skipped.counts.items():
        for _ in range(count):
            yield Encoded(skipped.first[reason], b"", reason, harmless=True)


def in_threads(sources: Sequence[Source], tokenizer: Tokenizer, choice: Choice, strict: bool, workers: int) -> Stream:
    """Every document of sources, in order, tokenised by `workers` threads (the tokenizer leaves Python while it works)."""

    def run(chunk: list[Document]) -> list[Encoded]:
        return [e for e in (encode(document, tokenizer, choice) for document in chunk) if e is not None]

    with ThreadPoolExecutor(workers) as pool:
        for source in sources:
            skipped = Skipped(strict)
            documents = source.documents(skipped)
            for done in _in_order(pool, run, _chunks(documents), 4 * workers):
                yield from ((source.name, encoded) for encoded in done)
            for reason, count in skipped.counts.items():
                for _ in range(count):
                    yield source.name, Encoded(skipped.first[reason], b"", reason, harmless=True)


def build(
    out: str | Path,
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    choice: Choice = Choice(),
    strict: bool = False,
    workers: int = 1,
    stream: Callable[[Sequence[Source]], Stream] | None = None,
    report: Callable[[str, int], None] = lambda source, documents: None,
    shard: int = SHARD,
) -> Corpus:
    """Tokenise sources into the folder `out`. Of documents with the same text the first stays.

    workers: threads that tokenise. strict: a row that cannot be used is an error. stream: another way to encode sources, in
    the same order (`ray.py`). Raises ValueError (nothing to learn, damaged files), FileExistsError, OSError.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least 1")
    sources = sorted(sources, key=lambda source: source.name)
    encoded = stream(sources) if stream else in_threads(sources, tokenizer, choice, strict, workers)
    table: dict[str, Any] = {}
    seen: set[bytes] = set()
    with whole_folder(out) as part:
        writers = {source.name: _Writer(part, source.name, tokenizer.vocab_size, shard) for source in sources}
        skips = {source.name: Skipped(strict) for source in sources}
        before = ""
        for name, (place, digest, found, harmless) in encoded:
            if name != before and before:
                writers[before].flush()
            before = name
            if isinstance(found, str):
                skips[name].add(place, found, harmless)
            elif digest in seen:
                skips[name].add(place, "is a repetition", harmless=True)
            else:
                seen.add(digest)
                writers[name].add(found)
                report(name, writers[name].documents)
        for source in sources:
            writer, skipped = writers[source.name], skips[source.name]
            writer.flush()
            table[source.name] = {
                "files": [file.name for file in source.files], "documents": writer.documents, "tokens": writer.tokens,
                "learnt": writer.learnt, "skipped": dict(sorted(skipped.counts.items())),
                "first_skipped": {
                    reason: _relative(place, source) for reason, place in sorted(skipped.first.items())
                },
                "shards": writer.shards,
            }  # fmt: skip
        if not any(entry["documents"] for entry in table.values()):
            reasons = "; ".join(f"{name}: {entry['skipped'] or 'empty'}" for name, entry in table.items())
            raise ValueError(f"there is no document to train on ({reasons})")
        tokenizer.to_file(part / "tokenizer.json")
        write_manifest(part, table, tokenizer)
    return Corpus.open(out)


def write_manifest(folder: Path, sources: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """manifest.json: the same bytes for the same corpus."""
    manifest = {
        "format": FORMAT, "tokenizer": fingerprint(tokenizer), "vocab_size": tokenizer.vocab_size,
        "sources": dict(sorted(sources.items())),
    }  # fmt: skip
    with whole_file(folder / "manifest.json") as file:
        file.write(json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n")


def _relative(place: str, source: Source) -> str:
    """A place without the folder its file was in, which is no property of the corpus."""
    folder = next((str(file.parent) for file in source.files if place.startswith(str(file))), "")
    return place.removeprefix(folder).lstrip("/\\")


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    documents = iter(documents)
    while chunk := list(islice(documents, CHUNK)):
        yield chunk


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[In], Out], items: Iterable[In], ahead: int
) -> Iterator[Out]:
    """`pool.map` that reads no more than `ahead` items before their results are taken."""
    waiting: deque[Future[Out]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Writer:
    """Shards of one source; a document is never cut."""

    def __init__(self, folder: Path, name: str, vocab_size: int, size: int) -> None:
        self.folder, self.name, self.type, self.size = folder, name, token_type(vocab_size), size
        self.shards: list[dict[str, Any]] = []
        self.documents = self.tokens = self.learnt = self.held = 0  # held: tokens that wait
        self.waiting: list[Tokens] = []

    def add(self, tokens: Tokens) -> None:
        if self.waiting and self.held + len(tokens.ids) > self.size:
            self.flush()
        self.waiting.append(tokens)
        self.held += len(tokens.ids)
        self.documents += 1

    def flush(self) -> None:
        if not self.waiting:
            return
        entry = write_shard(self.folder, f"{self.name}-{len(self.shards):05d}", self.waiting, self.type)
        self.shards.append(entry)
        self.tokens += entry["tokens"]
        self.learnt += entry["learnt"]
        self.waiting, self.held = [], 0


def write_shard(folder: Path, name: str, documents: Sequence[Tokens], type: np.dtype[Any]) -> dict[str, Any]:
    """Write a shard's files; -> its entry in the manifest."""
    learnt = np.concatenate([document.learnt for document in documents])
    arrays: dict[str, NDArray[Any]] = {
        "tokens": np.concatenate([document.ids for document in documents]).astype(type),
        "ends": np.cumsum([len(document.ids) for document in documents], dtype="<i8"),
    }
    if not learnt.all():
        arrays["learnt"] = np.packbits(learnt, bitorder="little")
    sums = {}
    for what, array in arrays.items():
        path = folder / f"{name}.{what}.npy"
        with whole_file(path) as file:
            np.save(file, array, allow_pickle=False)
        with path.open("rb") as written:
            sums[what] = hashlib.file_digest(written, "sha256").hexdigest()
    counts = {"documents": len(documents), "tokens": len(learnt), "learnt": int(learnt.sum())}
    return {"name": name, **counts, "sha256": sums}


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shard:
    tokens: NDArray[np.unsignedinteger]
    ends: NDArray[np.int64]
    learnt: NDArray[np.uint8] | None


class Corpus:
    """A corpus, mapped into memory. Documents are numbered through, source after source by name.

    sources: name -> the numbers of its documents. lengths int64 `[documents]`: tokens of each.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], sha256: str) -> None:
        self.folder, self.manifest, self.sha256 = folder, manifest, sha256
        self.vocab_size: int = manifest["vocab_size"]
        self._shards: list[_Shard] = []
        self.sources: dict[str, range] = {}
        firsts, lengths = [0], []
        for name, entry in manifest["sources"].items():
            began = firsts[-1]
            for shard in entry["shards"]:
                opened = self._open(shard)
                self._shards.append(opened)
                lengths.append(np.diff(opened.ends, prepend=0))
                firsts.append(firsts[-1] + len(opened.ends))
            self.sources[name] = range(began, firsts[-1])
        self._firsts = np.array(firsts)
        self.lengths: NDArray[np.int64] = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)

    @classmethod
    def open(cls, folder: str | Path, tokenizer: Tokenizer | None = None) -> Corpus:
        """Open a corpus; with a tokenizer, check that its ids mean the same. Raises ValueError, OSError."""
        folder = Path(folder)
        path = folder / "manifest.json"
        if not path.is_file():
            raise ValueError(f"{folder} is no corpus: it has no manifest.json; make one with `mezzotint data build`")
        raw = path.read_bytes()
        try:
            manifest = json.loads(raw)
            if manifest["format"] != FORMAT:
                raise ValueError(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
            corpus = cls(folder, manifest, hashlib.sha256(raw).hexdigest())
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from None
        if tokenizer is not None and (theirs := fingerprint(tokenizer)) != manifest["tokenizer"]:
            raise ValueError(
                f"{folder} was tokenised with another vocabulary ({corpus.vocab_size} ids, {manifest['tokenizer'][:12]}) than"
                f" the model's ({tokenizer.vocab_size} ids, {theirs[:12]}); build it again with this model's tokenizer"
            )
        return corpus

    def _open(self, entry: Mapping[str, Any]) -> _Shard:
        def mapped(what: str) -> NDArray[Any]:
            path = self.folder / f"{entry['name']}.{what}.npy"
            try:
                array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise ValueError(f"{path} is damaged ({error})") from None
            return array

        learnt = mapped("learnt") if "learnt" in entry["sha256"] else None
        shard = _Shard(mapped("tokens"), np.array(mapped("ends")), learnt)
        bits = entry["tokens"] if learnt is None else 8 * len(learnt)
        if (len(shard.tokens), len(shard.ends)) != (entry["tokens"], entry["documents"]) or bits < entry["tokens"]:
            raise ValueError(f"shard {entry['name']} of {self.folder} is not the one that its manifest names")
        return shard

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    def read(self, document: int, start: int = 0, length: int | None = None) -> Tokens:
        """Tokens of a document, or `length` of them from `start`."""
        if not 0 <= document < len(self):
            raise ValueError(f"document {document} of {len(self)}")
        index = int(np.searchsorted(self._firsts, document, "right")) - 1
        shard, inside = self._shards[index], document - int(self._firsts[index])
        end = int(shard.ends[inside])
        first = end - int(self.lengths[document]) + start
        last = end if length is None else min(first + length, end)
        if shard.learnt is None:
            learnt = np.ones(last - first, np.bool_)
        else:
            bits = np.unpackbits(shard.learnt[first // 8 : -(-last // 8)], bitorder="little")
            learnt = bits[first % 8 : first % 8 + last - first].astype(np.bool_)
        return Tokens(shard.tokens[first:last], learnt)

    def verify(self) -> None:
        """Read every file again. Raises ValueError that names the first whose SHA-256 is not the manifest's."""
        for entry in self.manifest["sources"].values():
            for shard in entry["shards"]:
                for what, expected in shard["sha256"].items():
                    path = self.folder / f"{shard['name']}.{what}.npy"
                    with path.open("rb") as file:
                        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                            raise ValueError(f"{path} is damaged: its SHA-256 is not the manifest's")

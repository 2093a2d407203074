"""Documents from files, and which of them may be trained on.

    notes.txt  notes.md                a file is a document
    rows.jsonl  rows.parquet           a row is one: {"text"}, {"messages"}, {"instruction", "input", "output"},
                                       {"prompt", "completion"} or {"codes": {language: code}}
    any of them but parquet, packed    .zst  .xz  .gz

* A row that cannot be used is left out and counted (`Skipped`), or, strictly, an error that names file and line.
* What is for evaluation (-EVAL in the name) never enters. What is held out is held out by source, never by row.
* Files of the training folder (`MEZZOTINT_DATA`) go by their names: `gsm8k-train`; `permissive` is all that may be used to
  publish weights freely.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

MAX_BYTES = 16 << 20  # of a document; a longer line is passed over without being held in memory
ROWS, TEXT, PACKED = (".jsonl", ".ndjson"), (".txt", ".md", ".rst"), (".zst", ".xz", ".gz")
KINDS = (*ROWS, *TEXT, ".parquet")
Row = TypeVar("Row")

# Files of the training folder under MIT, BSD, ISC, Apache, PSF, CC0, CC BY or C-UDA, by the table of its README. Mixed
# files are here where each row names its own licence. Left out besides GPL, SA and NC: outputs of models under their
# provider's terms (gpteacher-roleplay) and files of several licences that rows do not name.
PERMISSIVE = frozenset({
    "30seconds-js", "chatterbot-short-chat", "codexglue-java-csharp-train", "commit-edits", "commit-edits-markdown",
    "docs-corpus", "exercism-exercises", "exercism-parallel-code", "gsm8k-train", "html-apps", "js-functions",
    "neetcode-code-explanation", "neetcode-code-from-description", "neetcode-parallel-code", "neetcode-parallel-solutions",
    "npm-meta-description", "npm-readme-corpus", "npm-seo-keywords", "python-docs-fr", "python-functions",
    "python2to3-functions", "ruff-lint-edits", "ruff-refactor-functions", "t0-open-subset", "taskmaster4-coffee-dialogs",
    "thealgorithms-code-corpus", "thealgorithms-parallel-code", "thealgorithms-python-functions",
})  # fmt: skip
COPYLEFT = re.compile(r"GPL|\bSA\b|\bNC\b|\bND\b|PAWS")  # in a row's own licence


@dataclass(frozen=True)
class Document:
    """Text to learn from, or a conversation whose assistant is to be learnt. source: what a split goes by."""

    source: str
    text: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    place: str = ""  # file and line, for messages

    @property
    def content(self) -> str:
        """All of its text: for duplicates and overlaps."""
        return self.text or "\n".join(message["content"] for message in self.messages)


@dataclass
class Skipped:
    """What was left out, by reason: how many, and where the first one stands. strict: the first one is an error."""

    strict: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, reason: str, harmless: bool = False) -> None:
        """Raises ValueError when strict, but for what is harmless."""
        if self.strict and not harmless:
            raise ValueError(f"{place} {reason}")
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, place)

    def __str__(self) -> str:
        return "; ".join(f"{n} {reason} (first: {self.first[reason]})" for reason, n in sorted(self.counts.items()))


class _Unusable(ValueError):
    """Why a row cannot be used, as the end of a sentence that begins with its place."""


# -- files -------------------------------------------------------------------------------------------------------------


class _Zstd(io.RawIOBase):
    """A zstd stream that knows a truncated file: the library's own reader takes its end for the end of the text."""

    def __init__(self, path: Path) -> None:
        try:
            import zstandard
        except ImportError:
            raise ValueError(f"{path.name} is packed with zstd: pip install 'mezzotint[train]'") from None
        self._open: Callable[[], Any] = lambda: zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
        self._frame, self._file, self._began = self._open(), path.open("rb"), False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else b""
            packed = packed or self._file.read(512)  # little, because a block of 4 bytes may unpack to 128 kB
            if not packed:
                if self._began and not self._frame.eof:
                    raise EOFError
                return 0
            if self._frame.eof:
                self._frame = self._open()
            self._began = True
            self._ready = memoryview(self._frame.decompress(packed))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked by its name. Raises ValueError for a damaged one."""
    try:
        if path.suffix == ".xz":
            opened: IO[bytes] = lzma.open(path)  # noqa: SIM115  # closed below
        elif path.suffix == ".gz":
            opened = gzip.open(path)  # type: ignore[assignment]  # noqa: SIM115  # reads bytes; closed below
        else:
            opened = io.BufferedReader(_Zstd(path), 1 << 17) if path.suffix == ".zst" else path.open("rb")
        with opened as file:
            yield file
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or cut short ({type(error).__name__})") from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise ValueError(f"{path} is damaged ({error})") from None
        raise


def _lines(file: IO[bytes], limit: int) -> Iterator[bytes | None]:
    """Lines, split at newlines only; None for one of more than `limit` bytes."""
    while line := file.readline(limit + 1):
        if len(line) <= limit or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(limit)
        yield None


def _refuse_evaluation(path: Path) -> None:
    if "-EVAL" in path.name:
        raise ValueError(f"{path.name} is for evaluation and never enters training")


def kind_of(path: Path) -> str:
    """.jsonl, .txt, .parquet and so on, whatever it is packed in. Raises ValueError for another."""
    kind = path.with_suffix("").suffix if path.suffix in PACKED else path.suffix
    if kind not in KINDS or (kind == ".parquet" and path.suffix in PACKED):
        raise ValueError(f"{path} is of no known kind; known: {', '.join(KINDS)}, packed with {', '.join(PACKED)}")
    return kind


def read_rows(path: str | Path, skipped: Skipped | None = None) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file; lines that hold none go to `skipped`. Raises ValueError, OSError.

    Without `skipped` a bad line is an error that names file and line. So is, always, a file for evaluation.
    """
    for _, row in _numbered_rows(Path(path), Skipped(strict=True) if skipped is None else skipped):
        yield row


def _numbered_rows(path: Path, skipped: Skipped) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a JSON-lines or parquet file."""
    _refuse_evaluation(path)
    if kind_of(path) == ".parquet":
        yield from _parquet_rows(path)
        return
    with unpacked(path) as file:
        for number, line in enumerate(_lines(file, MAX_BYTES), 1):
            place = f"{path}, line {number}"
            try:
                if line is None:
                    raise _Unusable(f"is longer than {MAX_BYTES >> 20} MiB")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise _Unusable("is not an object")
            except UnicodeDecodeError:
                skipped.add(place, "is not UTF-8")
            except _Unusable as reason:
                skipped.add(place, str(reason))
            except (ValueError, RecursionError):
                skipped.add(place, "is not JSON")
            else:
                yield place, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path.name} is a parquet file: pip install 'mezzotint[parquet]'") from None
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", {key: value for key, value in row.items() if value is not None}
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is damaged ({error})") from None


# -- documents ---------------------------------------------------------------------------------------------------------


def read_documents(path: str | Path, skipped: Skipped, permissive: bool = False) -> Iterator[Document]:
    """The documents of a file, in its order. permissive: rows whose own licence is not are left out too.

    Raises ValueError for a file for evaluation, damaged, or of no known kind; OSError.
    """
    path = Path(path)
    if kind_of(path) in TEXT:
        yield from _text(path, skipped)
        return
    for place, row in _numbered_rows(path, skipped):
        try:
            document = document_of(row, place, path.name)
            if permissive and COPYLEFT.search(str(row.get("licence", ""))):
                skipped.add(place, "has another licence", harmless=True)
                continue
        except _Unusable as reason:
            skipped.add(place, str(reason))
        else:
            yield document


def _text(path: Path, skipped: Skipped) -> Iterator[Document]:
    _refuse_evaluation(path)
    with unpacked(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        return skipped.add(str(path), f"is longer than {MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return skipped.add(str(path), "is not UTF-8")
    if not text.strip():
        return skipped.add(str(path), "is empty")
    yield Document(path.name, text, place=str(path))


def document_of(row: Mapping[str, Any], place: str = "the row", file: str = "") -> Document:
    """A row as a document. Raises ValueError (the end of a sentence about the row) when it is none."""
    source = str(row.get("source", file))
    if row.get("task") == "user-oriented":
        raise _Unusable("is for evaluation")  # self-instruct's 252 user-oriented instructions
    if "messages" in row:
        messages = row["messages"]
        if not isinstance(messages, list) or not all(
            isinstance(m, dict) and all(isinstance(m.get(key), str) for key in ("role", "content")) for m in messages
        ):
            raise _Unusable('has messages that are not [{"role", "content"}, ...]')
        turns = tuple({"role": m["role"], "content": m["content"]} for m in messages)
    elif "codes" in row:
        turns = _conversion(row["codes"], source)
    elif "output" in row or "completion" in row:
        answer = row.get("output", row.get("completion"))
        asked = [row.get(key) for key in ("instruction", "prompt", "input")]
        question = "\n\n".join(part for part in asked if isinstance(part, str) and part)
        if not question or not isinstance(answer, str):
            raise _Unusable("has no question or no answer")
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    elif isinstance(row.get("text"), str):
        if not row["text"].strip():
            raise _Unusable("is empty")
        return Document(source, row["text"], place=place)
    else:
        raise _Unusable("holds no text, messages, or question and answer")
    if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns):
        raise _Unusable("has no answer")
    return Document(source, messages=turns, place=place)


def _conversion(codes: Any, source: str) -> tuple[dict[str, str], ...]:
    """Two of the languages of one program, drawn by its name."""
    if not isinstance(codes, dict) or len(codes) < 2 or not all(isinstance(code, str) for code in codes.values()):
        raise _Unusable("has no codes in two languages")
    order = sorted(codes, key=lambda language: hashlib.sha256(f"{source} {language}".encode()).digest())
    one, other = order[:2]
    question = f"Convert this {one} code to {other}.\n\n{codes[one]}"
    return {"role": "user", "content": question}, {"role": "assistant", "content": codes[other]}


# -- sources -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A name and the files behind it, in order. permissive: only rows whose own licence is."""

    name: str
    files: tuple[Path, ...]
    permissive: bool = False

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        for path in self.files:
            yield from read_documents(path, skipped, self.permissive)


def data_folder(variable: str = "MEZZOTINT_DATA") -> Path | None:
    """The folder of training text that MEZZOTINT_DATA names, if it is there. Raises ValueError when it names no folder."""
    name = os.environ.get(variable)
    if not name:
        return None
    if not Path(name).is_dir():
        raise ValueError(f"{variable} is {name!r}, which is not a folder")
    return Path(name)


def stem(path: Path) -> str:
    """A file's name without what says its kind."""
    return path.name.removesuffix(path.suffix if path.suffix in PACKED else "").removesuffix(kind_of(path))


def find_sources(names: Sequence[str]) -> list[Source]:
    """Files, folders (of files of known kinds), names of the training folder's files, or `permissive`; sorted by name.

    Raises ValueError for a name that is none of these, for two sources of one name, for a file for evaluation.
    """
    folder = data_folder()
    known = {} if folder is None else {p.name.split(".")[0]: p for p in sorted(folder.glob("*.jsonl*"))}
    found: list[Source] = []
    for name in names:
        path = Path(name)
        if name == "permissive" and known:
            found += [Source(known_name, (known[known_name],), True) for known_name in sorted(PERMISSIVE & set(known))]
        elif name in known:
            found.append(Source(name, (known[name],)))
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in (*KINDS, *PACKED))
            found.append(Source(path.resolve().name, tuple(p for p in inside if "-EVAL" not in p.name)))
        elif path.is_file():
            found.append(Source(stem(path), (path,)))
        else:
            near = difflib.get_close_matches(name, [*known, "permissive"], 3, 0.5)
            where = f"; did you mean {', '.join(near)}?" if near and known else ""
            where = where or ("" if known else "; MEZZOTINT_DATA is not set, so only files and folders can be named")
            raise ValueError(f"unknown source {name!r}: no file, folder or training file has this name{where}")
    for source in found:
        if not source.files:
            raise ValueError(f"folder {source.name!r} holds no file of a known kind: {', '.join(KINDS)}")
        for file in source.files:
            _refuse_evaluation(file)
    found.sort(key=lambda source: source.name)
    for one, other in pairwise(found):
        if one.name == other.name:
            raise ValueError(f"two sources are named {one.name!r}: {one.files[0]} and {other.files[0]}")
    return found


def find_evaluations(names: Sequence[str]) -> list[Path]:
    """Evaluation files by path or name; `all` of those in the training folder and in the one that MEZZOTINT_EVALDATA names.

    Raises ValueError for an unknown one.
    """
    folders = ((data_folder(), "*-EVAL*.jsonl*"), (data_folder("MEZZOTINT_EVALDATA"), "*.jsonl*"))
    known = {p.name.split(".")[0]: p for folder, names in folders if folder for p in sorted(folder.glob(names))}
    found: list[Path] = []
    for name in names:
        if name == "all" and known:
            found += known.values()
        elif name in known or Path(name).is_file():
            found.append(known.get(name, Path(name)))
        else:
            raise ValueError(
                f"unknown evaluation {name!r}; a JSON-lines file, or one of: {', '.join(known) or 'none here'}"
            )
    return found


def held_out(source: str, share: float) -> bool:
    """Is this source among the held-out `share`? A hash of its name decides, so that splits never move."""
    digest = hashlib.sha256(source.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


class Rows:
    """Tokenised documents, drawn in batches of similar length so that little is padding.

    What a step draws depends on the seed and the step alone.
    """

    def __init__(self, rows: Sequence[Sequence[int]], seed: int) -> None:
        if not rows:
            raise ValueError("there is no document to train on")
        self.rows = sorted(rows, key=len)
        self.seed = seed

    def generator(self, step: int) -> torch.Generator:
        """Random numbers of one step."""
        return torch.Generator().manual_seed((self.seed << 32) + step)

    def draw(self, count: int, generator: torch.Generator) -> list[Sequence[int]]:
        return neighbours(self.rows, count, generator)


def neighbours(rows: Sequence[Row], count: int, generator: torch.Generator) -> list[Row]:
    """`count` of `rows`, sorted by length, from a window of 8 `count` neighbours placed at random."""
    window = min(8 * count, len(rows))
    start = int(torch.randint(len(rows) - window + 1, (), generator=generator))
    return [rows[start + i] for i in torch.randint(window, (count,), generator=generator).tolist()]

"""Examples on disk: what an adaptation learns, texts and edits, tokenised once.

    examples/
      manifest.json              of every source: licence, weight, counts, SHA-256 of its files; the tokenizer's fingerprint
      README.md                  the same for people
      tokenizer.json ...         the tokenizer itself
      <source>.tokens.npy        uint16 (uint32 where the vocabulary needs it): context, text, draft of one example after another
      <source>.lengths.npy       int32 [examples, 3]: their lengths; -1 where there is no draft
      <source>.flags.npy         uint8 [examples]: FREE, ENDS, HELD_OUT, ANSWER

A weight says how often an epoch holds a source's examples: 2 is twice, 0.5 a half of them, which the seed draws. An edit with
the flag ANSWER is two examples: its labels, and its text as an answer. In memory ids are `array`s: as small as on disk.
"""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mezzotint.checkpoints.files import whole_file, whole_folder
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.train.canvases import Example
from mezzotint.train.tokens import fingerprint, token_type

FORMAT = 1
MANIFEST, CARD = "manifest.json", "README.md"
FREE, ENDS, HELD_OUT, ANSWER = 1, 2, 4, 8
FILES = ("tokens", "lengths", "flags")


class Record(NamedTuple):
    """An example on its way to disk. answer: of an edit, that its text is also learnt as an answer."""

    example: Example
    held_out: bool = False
    answer: bool = False


@dataclass(frozen=True)
class Part:
    """A source of records. about: whatever its entry in the manifest should say; filled in while `records` are taken, even."""

    name: str
    records: Iterable[Record]
    weight: float = 1.0
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"the weight of {self.name!r} is {self.weight}; it must be at least 0")


# -- writing -----------------------------------------------------------------------------------------------------------


def write_examples(
    folder: str | Path, parts: Iterable[Part], tokenizer: Tokenizer, about: Mapping[str, Any] | None = None,
    card: Callable[[Mapping[str, Any]], str] = lambda manifest: "",
) -> dict[str, Any]:  # fmt: skip
    """Write all parts, in their order; -> the manifest. Sources that give nothing are named in it too.

    about: of the whole, beside the sources. card: the manifest -> README.md. Raises ValueError when nothing at all is given,
    FileExistsError, OSError.
    """
    sources: dict[str, Any] = {}
    with whole_folder(folder) as place:
        for part in parts:
            found = _write(place, part, tokenizer.vocab_size)
            sources[part.name] = {"weight": part.weight, **part.about, **found}
        if not any(entry["examples"] for entry in sources.values()):
            raise ValueError("there is no example to learn")
        tokenizer.to_file(place / "tokenizer.json")
        manifest = {
            "format": FORMAT, "tokenizer": fingerprint(tokenizer), "vocab_size": tokenizer.vocab_size, **(about or {}),
            "sources": sources,
        }  # fmt: skip
        for name, text in ((MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False)), (CARD, card(manifest))):
            with whole_file(place / name) as file:
                file.write(text.encode() + b"\n")
    return manifest


def _write(place: Path, part: Part, vocab_size: int) -> dict[str, Any]:
    """The files of one source; -> what the manifest says of them."""
    tokens, lengths, flags = array("I"), array("i"), bytearray()
    for example, held_out, answer in part.records:
        draft = example.draft
        for ids in (example.context, example.text, draft or ()):
            tokens.extend(ids)
        lengths.extend((len(example.context), len(example.text), -1 if draft is None else len(draft)))
        flags.append(FREE * example.free | ENDS * example.ends | HELD_OUT * held_out | ANSWER * answer)
    made = np.frombuffer(flags, np.uint8) if flags else np.zeros(0, np.uint8)
    sizes = np.array(lengths, "<i4").reshape(-1, 3)
    arrays = {"tokens": np.array(tokens).astype(token_type(vocab_size)), "lengths": sizes, "flags": made}
    sums = {}
    for what, values in arrays.items():
        path = place / f"{part.name}.{what}.npy"
        with whole_file(path) as file:
            np.save(file, values, allow_pickle=False)
        with path.open("rb") as written:
            sums[what] = hashlib.file_digest(written, "sha256").hexdigest()
    kept = made & HELD_OUT > 0
    return {
        "examples": len(made), "edits": int((sizes[:, 2] >= 0).sum()), "held_out": int(kept.sum()), "tokens": len(tokens),
        "learnt": int(np.maximum(sizes[:, 1], sizes[:, 2])[~kept].sum()), "sha256": sums,
    }  # fmt: skip


# -- reading -----------------------------------------------------------------------------------------------------------


def read_manifest(folder: str | Path, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """The manifest; with a tokenizer, after a check that its ids mean the same. Raises ValueError, OSError."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no examples: it has no {MANIFEST}; make some with `mezzotint data examples`")
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
        theirs = manifest["tokenizer"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    if tokenizer is not None and (ours := fingerprint(tokenizer)) != theirs:
        raise ValueError(
            f"{folder} was tokenised with another vocabulary ({theirs[:12]}) than the model's ({ours[:12]})"
        )
    return manifest


def read_examples(
    folder: str | Path, tokenizer: Tokenizer | None = None, weights: Mapping[str, float] | None = None, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Examples to learn from, each as often as its source's weight says, and those held out, once, in a drawn order.

    weights: in place of the manifest's, by source; 0 leaves one out. Raises ValueError for damaged files and for unknown
    sources, OSError.
    """
    folder, manifest = Path(folder), read_manifest(folder, tokenizer)
    chosen = {name: float(entry["weight"]) for name, entry in manifest["sources"].items()}
    if unknown := set(weights or ()) - set(chosen):
        raise ValueError(f"no source is named {min(unknown)!r}; known: {', '.join(chosen)}")
    chosen |= weights or {}
    learn: list[Example] = []
    measure: list[Example] = []
    for name, weight in chosen.items():
        if weight < 0:
            raise ValueError(f"the weight of {name!r} is {weight}; it must be at least 0")
        if weight:
            some: list[Example] = []
            for example, held_out in _read(folder, name, manifest["sources"][name]):
                (measure if held_out else some).append(example)
            drawn = random.Random(f"{seed} {name}").sample(range(len(some)), round(weight % 1 * len(some)))
            learn += [*some * int(weight), *(some[i] for i in sorted(drawn))]
    random.Random(seed).shuffle(measure)
    return learn, measure


def _read(folder: Path, name: str, entry: Mapping[str, Any]) -> Iterator[tuple[Example, bool]]:
    """(example, held out?) of a source whose files are as they were written."""
    arrays = {}
    for what in FILES:
        path = folder / f"{name}.{what}.npy"
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry["sha256"][what]:
            raise ValueError(f"{path} is damaged: its SHA-256 is not the manifest's")
        arrays[what] = np.load(path, allow_pickle=False)
    tokens = arrays["tokens"]
    code = "H" if tokens.dtype.itemsize == 2 else "I"
    at = 0

    def take(count: int) -> Sequence[int]:
        nonlocal at
        at += count
        return array(code, tokens[at - count : at].tobytes())

    for (before, length, draft), flags in zip(arrays["lengths"].tolist(), arrays["flags"].tolist(), strict=True):
        context, text = take(before), take(length)
        whole = Example(context, text, bool(flags & FREE), bool(flags & ENDS), take(draft) if draft >= 0 else None)
        held_out = bool(flags & HELD_OUT)
        yield whole, held_out
        if flags & ANSWER and length:
            yield replace(whole, ends=True, draft=None), held_out

"""Tokenizers that are not byte-level, as `tokenizer.json` holds them: SentencePiece's two kinds, and WordPiece.

    Unigram, BPE    "▁Mia" is b" Mia", "<0xE4>" one byte, unknown is U+FFFD    joined, the tokens are the text
    WordPiece       "mia" is b" mia", "##s" is b"s"                            spaces and capitals are lost

* Most put a space before a text that begins. In the middle of a text, where edits happen, that would be wrong: the encoder
  here never does, and `Tokenizer.prompt` does it where a text begins.
* Special tokens are under names that no text has, so no text can become one. A Unigram's tokens are numbered by their places,
  so there they cannot be left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from mezzotint.checkpoints.errors import CheckpointError

SPACE = "\u2581"
GUARD = "\U0010ffff"  # not a character, and replaced in texts: what begins with it cannot be spelled
UNKNOWN = "\ufffd"
MOST = 1 << 24

# What changes no text: all others of these make an encoding that cannot be taken back.
KEEPING = {"Sequence", "Metaspace", "Prepend", "Replace", "Digits", "Punctuation", "Split", "UnicodeScripts"}
WORDS = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}

Fail = Callable[[str, str], CheckpointError]
Opening = Literal["", "first", "always"]


class Pieces(NamedTuple):
    """vocab: name -> id without added tokens. spelled: id -> bytes, added tokens not among them. encoder: a tokenizer.json.

    opening: where the tokenizer itself puts a space, before the text alone or after every special token; twice: even before
    a space. exact: is a text that it can spell what its tokens join to?
    """

    vocab: dict[str, int]
    spelled: dict[int, bytes]
    encoder: dict[str, Any]
    unknown: int | None
    opening: Opening
    twice: bool
    exact: bool


def is_byte_level(spec: Mapping[str, Any]) -> bool:
    """Is it a BPE whose tokens are written in the characters that stand for bytes?"""
    model = spec.get("model")
    plain = isinstance(model, Mapping) and model.get("type", "BPE") == "BPE" and not model.get("byte_fallback")
    return plain and "ByteLevel" in kinds(spec.get("pre_tokenizer"))


def kinds(part: Any) -> set[str]:
    """The types in a normalizer or pre-tokenizer."""
    if isinstance(part, Mapping):
        return {str(part.get("type")), *(kind for value in part.values() for kind in kinds(value))} - {"None"}
    return {kind for value in part for kind in kinds(value)} if isinstance(part, list) else set()


def read(spec: Mapping[str, Any], added: Mapping[str, tuple[int, bool]], fail: Fail) -> Pieces:
    """What a tokenizer.json with these added tokens (name -> id, special) says. Raises what `fail(field, problem)` makes."""
    model = spec["model"]
    kind = model.get("type", "BPE")
    normalizer, splitter = spec.get("normalizer"), spec.get("pre_tokenizer")
    found = kinds(normalizer) | kinds(splitter)
    if kind == "BPE" and not model.get("byte_fallback") and "Metaspace" not in found and "Replace" not in found:
        raise fail("pre_tokenizer", f"expected ByteLevel, or {SPACE} in the place of spaces (Metaspace, Replace)")
    names = _unigram(model, fail) if kind == "Unigram" else _named(model, fail)
    for name, (index, _) in added.items():
        if names.get(name, index) != index:
            raise fail(f"added token {name[:40]!r}", "under two ids")
    unknown = _unknown(model, kind, names, added, fail)
    hidden = {name for name, (_, special) in added.items() if special}
    vocab = {name: index for name, index in names.items() if name not in hidden}  # an added run of spaces is text
    opening: list[Opening] = [""]
    if not found & WORDS:  # there every word gets its space from Metaspace's own rule
        normalizer, splitter = _unopened(normalizer, opening), _unopened(splitter, opening)
    encoder = {
        **spec, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None, "normalizer": normalizer,
        "pre_tokenizer": splitter, "model": _guarded(model, kind, vocab, hidden, unknown, fail),
    }  # fmt: skip
    prefix = model.get("continuing_subword_prefix") if kind == "WordPiece" else None
    if kind == "WordPiece" and not isinstance(prefix, str):
        raise fail("continuing_subword_prefix", f"{str(prefix)[:40]!r}; expected a string")
    fallback = bool(model.get("byte_fallback"))
    spelled = {index: _bytes(name, prefix, fallback) for name, index in vocab.items()}
    if unknown is not None:
        spelled[unknown] = UNKNOWN.encode() if prefix is None else (" " + UNKNOWN).encode()
    exact = kind != "WordPiece" and found <= KEEPING and not _removes(splitter) and _replaces_spaces_alone(normalizer)
    vocab = {name: index for name, index in vocab.items() if name not in added}
    return Pieces(vocab, spelled, encoder, unknown, opening[0], "Prepend" in found, exact)


def _unigram(model: Mapping[str, Any], fail: Fail) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, list) or not 0 < len(vocab) < MOST:
        raise fail("model", "expected a list of pieces and scores")
    names: dict[str, int] = {}
    for index, entry in enumerate(vocab):
        name, score = entry if isinstance(entry, list) and len(entry) == 2 else (None, math.nan)
        if not isinstance(name, str) or not name or type(score) not in (int, float) or not math.isfinite(score):
            raise fail(f"token {index}", f"{str(entry)[:40]}; expected a piece and its score")
        if name in names:
            raise fail(f"token {index}", f"{name[:40]!r} appears twice")
        names[name] = index
    return names


def _named(model: Mapping[str, Any], fail: Fail) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, Mapping) or not vocab:
        raise fail("model", "expected a vocabulary of names and ids")
    for name, index in vocab.items():
        if not name or type(index) is not int or not 0 <= index < MOST:
            raise fail(f"token {name[:40]!r}", f"id {str(index)[:40]}; expected 0 to {MOST - 1}")
    return dict(vocab)


def _unknown(
    model: Mapping[str, Any], kind: str, names: Mapping[str, int], added: Mapping[str, tuple[int, bool]], fail: Fail
) -> int | None:
    """The id that stands for what has no token. Raises where there is none and something may need it."""
    if kind == "Unigram":
        index = model.get("unk_id")
        if index is None and model.get("byte_fallback"):
            return None
        if type(index) is not int or not 0 <= index < len(names):
            raise fail("unk_id", f"{str(index)[:40]}; expected 0 to {len(names) - 1}")
        return index
    name = model.get("unk_token")
    if model.get("byte_fallback") and all(f"<0x{byte:02X}>" in names for byte in range(256)):
        return None
    index = names.get(name, added.get(name, (None, False))[0]) if isinstance(name, str) else None
    if index is None:
        raise fail("unk_token", f"{str(name)[:40]!r}; expected a token for what has none")
    return index


def _unopened(part: Any, opening: list[Opening]) -> Any:
    """A normalizer or pre-tokenizer that puts no space before a text; `opening` is told where it did."""
    if isinstance(part, list):
        inner = [_unopened(value, opening) for value in part]
        return [value for value in inner if value is not None]
    if not isinstance(part, Mapping):
        return part
    if part.get("type") == "Prepend":
        opening[0] = "always"
        return None
    if part.get("type") == "Metaspace":
        scheme = part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never")
        if scheme in ("first", "always"):
            opening[0] = scheme
        return {key: value for key, value in part.items() if key != "add_prefix_space"} | {"prepend_scheme": "never"}
    return {key: _unopened(value, opening) if isinstance(value, list) else value for key, value in part.items()}


def _guarded(
    model: Mapping[str, Any], kind: str, vocab: Mapping[str, int], hidden: set[str], unknown: int | None, fail: Fail
) -> dict[str, Any]:
    """The model, special tokens (`hidden`) left out or under names that no text has."""
    if kind == "Unigram":
        pairs = enumerate(model["vocab"])
        plain = [[f"{GUARD}{i}" if name in hidden or i == unknown else name, score] for i, (name, score) in pairs]
        return {**model, "vocab": plain}
    own = {name: index for name, index in vocab.items() if index != unknown}
    own |= {} if unknown is None else {GUARD: unknown}
    made = {**model, "vocab": own, "unk_token": None if unknown is None else GUARD}
    if kind != "BPE":
        return made
    if not isinstance(merges := model.get("merges"), list):
        raise fail("model", "expected a list of merges")
    return made | {"dropout": None, "merges": [merge for merge in merges if not hidden & _parts(merge)]}


def _parts(merge: Any) -> set[str]:
    """The tokens of a merge, and what it makes of them; what is no merge is left to the library."""
    pair = merge.split(" ", 1) if isinstance(merge, str) else merge
    return {*pair, "".join(pair)} if isinstance(pair, list) and all(isinstance(part, str) for part in pair) else set()


def _bytes(name: str, prefix: str | None, fallback: bool) -> bytes:
    if prefix is not None:
        spelled = name.removeprefix(prefix) if prefix and name.startswith(prefix) else " " + name
        return spelled.encode("utf-8", "replace")
    if fallback and (byte := re.fullmatch(r"<0x([0-9A-F]{2})>", name)):
        return bytes([int(byte[1], 16)])
    return name.replace(SPACE, " ").encode("utf-8", "replace")


def _removes(part: Any) -> bool:
    """Does a pre-tokenizer throw away what it splits at?"""
    if isinstance(part, Mapping):
        return str(part.get("behavior")).lower() == "removed" or any(map(_removes, part.values()))
    return isinstance(part, list) and any(map(_removes, part))


def _replaces_spaces_alone(part: Any) -> bool:
    if isinstance(part, Mapping):
        if part.get("type") == "Replace":
            return part.get("pattern") == {"String": " "} and part.get("content") == SPACE
        return all(map(_replaces_spaces_alone, part.values()))
    return all(map(_replaces_spaces_alone, part)) if isinstance(part, list) else True

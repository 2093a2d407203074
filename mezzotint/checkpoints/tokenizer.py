"""Tokenizer: text to ids and back, and conversations to ids. Byte-level BPE; other kinds are spelled by `pieces.py`.

    user text      "a <|im_end|>"   -> the pieces a,  <, |, im, ...   never the id of a special token
    chat template  "<|im_end|>\\n"   -> the special id, where the template itself wrote it

* The encoder is built without the added tokens, so no text of a user can become one: there is nothing to escape.
* A byte that no token spells (SmolLM2 lacks 21: six control characters and the bytes of planes that Unicode has not
  assigned) would silently vanish; the character becomes U+FFFD instead, so that texts keep their length.
* Ids decode to bytes first. `stream_decoder` holds back the bytes of an unfinished character.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from mezzotint.checkpoints import pieces
from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.files import whole_file
from mezzotint.checkpoints.gguf import GGUFFile
from mezzotint.checkpoints.pieces import GUARD, Pieces, is_byte_level
from mezzotint.checkpoints.weights import read_json

MAX_FILE = 64 << 20  # bytes of tokenizer.json
END_NAMES = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>")

# tokenizer.ggml.pre -> pre-tokenizers, as tokenizer.json writes them
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTES]},
    "gpt-2": _BYTES,
    "default": _BYTES,
}


def _byte_alphabet() -> dict[str, int]:
    """The 256 printable characters that stand for bytes in byte-level vocabularies (GPT-2's `bytes_to_unicode`)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


BYTE_OF = _byte_alphabet()
CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}


class StreamDecoder:
    """Ids in pieces -> text in pieces, never half a character. All pieces joined are `Tokenizer.decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: int | Iterable[int]) -> str:
        """The text that these ids complete."""
        ids = [ids] if isinstance(ids, int) else ids
        return self._utf8.decode(self._tokenizer.decode_bytes(ids, self._skip))

    def finish(self) -> str:
        """What an unfinished character at the end turns into (U+FFFD), or nothing.

        The decoder is ready for another text.
        """
        rest = self._utf8.decode(b"", True)
        self._utf8.reset()
        return rest


class Tokenizer:
    """Text and ids of one checkpoint.

    spec: a parsed tokenizer.json: byte-level BPE, SentencePiece's Unigram or BPE, WordPiece; chat_template: Jinja source
    or None; bos, eos, pad, mask: names of tokens or None. Raises CheckpointError (naming `path`) when they do not fit together.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        chat_template: str | None = None,
        bos: str | None = None,
        eos: Sequence[str] = (),
        pad: str | None = None,
        path: str | Path = "tokenizer.json",
        mask: str | None = None,
    ) -> None:
        self.chat_template = chat_template
        self._spec, self._path = spec, Path(path)
        added = self._added_tokens(spec)
        self._pieces: Pieces | None = None
        if is_byte_level(spec):
            vocab = self._check(spec, added)
        else:
            self._pieces = pieces.read(spec, added, self._fail)
            vocab = self._pieces.vocab
        self._check_ids([*vocab.values(), *(index for index, _ in added.values())])
        self.specials: dict[str, int] = {name: index for name, (index, special) in added.items() if special}
        self._added: dict[str, int] = {name: index for name, (index, _) in added.items()}
        names = {index: name for name, index in vocab.items()}
        self.vocab_size = max(max(names, default=-1), max(self._added.values(), default=-1)) + 1
        self._ids = {**vocab, **self._added}
        self._bytes: list[bytes | None] = [None] * self.vocab_size
        for token, index in self._added.items():
            self._bytes[index] = token.encode("utf-8", "replace")
        for index, token in names.items():
            self._bytes[index] = bytes(map(BYTE_OF.__getitem__, token)) if self._pieces is None else b""
        unknown: int | None = None
        if self._pieces is not None:
            unknown = self._pieces.unknown
            for index, spelled in self._pieces.spelled.items():
                self._bytes[index] = spelled
        self._special_ids = frozenset(self.specials.values()) - {unknown}  # what it could not read shows as U+FFFD
        self.bos, self.pad, self.mask = bos, pad, mask
        for name in (bos, pad, mask, *eos):
            if name is not None and name not in self._ids:
                raise self._fail("special tokens", f"{name!r} is not in the vocabulary")
        ends = dict.fromkeys([*eos, *(name for name in END_NAMES if name in self.specials)])
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(self._ids[name] for name in ends))
        self._eos_name = next(iter(ends), None)
        plain = {**spec, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        if self._pieces is None:
            plain["model"] = {**spec["model"], "vocab": vocab, "unk_token": None, "dropout": None}
        else:
            plain = self._pieces.encoder
        try:
            self._encoder = tokenizers.Tokenizer.from_str(json.dumps(plain, ensure_ascii=False))
        except BaseException as error:  # the library's own panics are not Exceptions
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise self._fail("tokenizer", str(error)) from None
        by_bytes = CHARACTER_OF if self._pieces is None else {}
        self._missing = frozenset(byte for byte, character in by_bytes.items() if character not in vocab)
        self._hard = (
            re.compile(b"[" + b"".join(re.escape(bytes([b])) for b in sorted(self._missing)) + b"]")
            if self._missing
            else None
        )

    @classmethod
    def of_tokens(cls, tokens: Sequence[str], special: Sequence[str] = (), eos: Sequence[str] = ()) -> Tokenizer:
        """One token for each of `tokens`, then the special ones, in this order: a vocabulary that a model writes with.

        It decodes; it encodes nothing but tokens of one byte.
        """
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        spelled = ["".join(CHARACTER_OF[byte] for byte in token.encode()) for token in tokens]
        return cls({
            "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "added_tokens": [{"id": i, "content": name, **flags} for i, name in enumerate(special, len(tokens))],
            "pre_tokenizer": _BYTES, "decoder": _BYTES,
            "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(spelled)}, "merges": []},
        }, eos=eos)  # fmt: skip

    @classmethod
    def from_file(cls, path: str | Path, chat_template: str | None = None) -> Tokenizer:
        """Read tokenizer.json and, beside it, tokenizer_config.json and chat_template.jinja. Raises CheckpointError."""
        path = Path(path)
        if path.stat().st_size > MAX_FILE:
            raise CheckpointError(path, "size", f"{path.stat().st_size} bytes; at most {MAX_FILE} are read")
        spec = read_json(path.read_bytes(), lambda problem: CheckpointError(path, "tokenizer", problem, 0))
        settings = path.with_name("tokenizer_config.json")
        table: Any = {}
        if settings.is_file():
            table = read_json(settings.read_bytes(), lambda problem: CheckpointError(settings, "settings", problem, 0))
            if not isinstance(table, dict):
                raise CheckpointError(settings, "settings", "expected an object", 0)

        def name(key: str) -> str | None:
            value = table.get(key)
            value = value.get("content") if isinstance(value, dict) else value
            if not isinstance(value, str | None):
                raise CheckpointError(settings, key, "expected a token's name", 0)
            return value

        template_file = path.with_name("chat_template.jinja")
        if chat_template is None and template_file.is_file():
            try:
                chat_template = template_file.read_text("utf-8")
            except UnicodeDecodeError as error:
                raise CheckpointError(template_file, "chat template", "not UTF-8", error.start) from None
        if chat_template is None and isinstance(table.get("chat_template"), str):
            chat_template = table["chat_template"]
        eos = name("eos_token")
        ends = [eos] if eos else []
        return cls(spec, chat_template, name("bos_token"), ends, name("pad_token"), path, name("mask_token"))

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Tokenizer:
        """From `tokenizer.ggml.*` metadata of a byte-level BPE checkpoint. Raises CheckpointError."""
        table = file.metadata

        def strings(key: str) -> list[str]:
            value = table.get(key)
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise file.error(key, "expected a list of strings")
            return value

        if (model := file.scalar("tokenizer.ggml.model")) != "gpt2":
            raise file.error("tokenizer.ggml.model", f"{str(model)[:40]!r}; supported: 'gpt2' (byte-level BPE)")
        if (pre := file.scalar("tokenizer.ggml.pre", "default")) not in PRE_TOKENIZERS:
            raise file.error("tokenizer.ggml.pre", f"{str(pre)[:40]!r}; supported: {', '.join(PRE_TOKENIZERS)}")
        if table.get("tokenizer.ggml.add_space_prefix", False) is not False:
            raise file.error("tokenizer.ggml.add_space_prefix", "a prefixed space is not supported")
        tokens, merges = strings("tokenizer.ggml.tokens"), strings("tokenizer.ggml.merges")
        kinds = table.get("tokenizer.ggml.token_type")
        kinds = np.ones(len(tokens), np.int32) if kinds is None else kinds
        if not isinstance(kinds, np.ndarray) or kinds.dtype.kind not in "iu" or len(kinds) != len(tokens):
            raise file.error("tokenizer.ggml.token_type", f"expected one number for each of {len(tokens)} tokens")
        added = [
            {"id": index, "content": tokens[index], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": kind == 3}
            for index, kind in enumerate(kinds.tolist()) if kind in (3, 4)
        ]  # fmt: skip
        vocab = {token: index for index, token in enumerate(tokens)}
        if len(vocab) != len(tokens):
            twice = next(token for index, token in enumerate(tokens) if vocab[token] != index)
            raise file.error("tokenizer.ggml.tokens", f"{twice[:40]!r} appears twice")
        spec = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": PRE_TOKENIZERS[pre], "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                "ignore_merges": False, "vocab": vocab,
                "merges": [merge.split(" ", 1) for merge in merges],
            },
        }  # fmt: skip

        def name(which: str) -> str | None:
            key = f"tokenizer.ggml.{which}_token_id"
            if (index := table.get(key)) is None:
                return None
            if type(index) is not int or not 0 <= index < len(tokens):
                raise file.error(key, f"{str(index)[:40]}; expected 0 to {len(tokens) - 1}")
            return tokens[index]

        template = table.get("tokenizer.chat_template")
        if template is not None and not isinstance(template, str):
            raise file.error("tokenizer.chat_template", "expected a string")
        eos = [found for which in ("eos", "eot") if (found := name(which)) is not None]
        try:
            return cls(spec, template, name("bos"), eos, name("padding"), file.path)
        except CheckpointError as error:
            key = "tokenizer.ggml.merges" if error.field.startswith("merge") else "tokenizer.ggml.tokens"
            raise file.error(key, f"{error.field}: {error.problem}") from None

    # -- text and ids --------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; special tokens are never recognised in it. Raises ValueError for lone surrogates."""
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"character {error.start} of the text is a lone surrogate, which no encoding spells"
            ) from None
        if self._hard is not None and self._hard.search(raw):
            text = "".join("\ufffd" if self._hard.search(character.encode()) else character for character in text)
        if self._pieces is not None:
            text = text.replace(GUARD, "\ufffd")
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def prompt(self, text: str, after_marker: bool = False) -> list[int]:
        """`encode` where a text begins: some tokenizers read a space before it. after_marker: not first, but after a special
        token. Raises ValueError as `encode` does."""
        kind = self._pieces
        if kind is None or not text or (kind.opening != "always" and (after_marker or not kind.opening)):
            return self.encode(text)
        return self.encode(" " + text if kind.twice or not text.startswith(" ") else text)

    @property
    def exact(self) -> bool:
        """Are texts what their tokens join to? Without that nothing can be edited in place: WordPiece, normalised texts."""
        return self._pieces is None or self._pieces.exact

    def can_spell(self, text: str) -> bool:
        """Does `decode(encode(text))` give `text` back? False for lone surrogates and characters without tokens."""
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            return False
        if self._pieces is not None:
            return self.decode(self.encode(text)) == text
        return self._hard is None or not self._hard.search(raw)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD.

        skip_special: leave special tokens out, else their names.
        """
        return self.decode_bytes(ids, skip_special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = True) -> bytes:
        """Bytes of ids. Raises ValueError for an id that the vocabulary does not have."""
        return b"".join(self.token_bytes(i) for i in ids if not (skip_special and i in self._special_ids))

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id stands for; for special tokens those of its name.

        Raises ValueError for an unknown id.
        """
        found = self._bytes[id] if 0 <= id < self.vocab_size else None
        if found is None:
            raise ValueError(f"id {id} is not in the vocabulary of {self.vocab_size}")
        return found

    def spellings(self, without: Iterable[int] = ()) -> list[bytes | None]:
        """The bytes of every id in order; None for ids that no text holds: special and added tokens, gaps, `without`."""
        skip = {*self._added.values(), *without}
        return [None if index in skip else spelled for index, spelled in enumerate(self._bytes)]

    @property
    def longest_token(self) -> int:
        """Most bytes that one id stands for: a text of n tokens has at most n times as many."""
        return max(len(spelled) for spelled in self._bytes if spelled is not None)

    def stream_decoder(self, skip_special: bool = True) -> StreamDecoder:
        """A decoder for ids that arrive in pieces."""
        return StreamDecoder(self, skip_special)

    def id(self, name: str) -> int:
        """The id of a token by its name as the vocabulary writes it. Raises ValueError for an unknown one."""
        if name not in self._ids:
            raise ValueError(f"no token is named {name!r}; special tokens: {', '.join(self.specials)}")
        return self._ids[name]

    @property
    def spec(self) -> Mapping[str, Any]:
        """tokenizer.json as it was read. Not to be changed."""
        return self._spec

    # -- conversations -------------------------------------------------------------------------------------------------

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """Ids of a conversation, by the checkpoint's own template.

        messages: [{"role": "system" | "user" | "assistant" | "tool", "content": text}, ...]. Markers that the template
        writes become special ids; the same characters inside a message stay plain text. Raises ValueError for messages
        that are not of that form, that the template refuses, or when there is no template.
        """
        ids: list[int] = []
        begins = True  # a text does, after a marker too
        for piece in self.chat_pieces(messages, add_generation_prompt):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self.prompt(piece, bool(ids)) if begins else self.encode(piece)
            begins = isinstance(piece, int)
        return ids

    def chat_pieces(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int | str]:
        """What `chat` encodes: ids of markers, and the plain text between them."""
        from mezzotint.checkpoints.chat import render  # here, since training does without jinja2

        if self.chat_template is None:
            raise ValueError("this checkpoint has no chat template; encode a raw prompt instead")
        names = {"bos_token": self.bos or "", "eos_token": self._eos_name or "", "pad_token": self.pad or ""}
        return render(self.chat_template, messages, self._added, add_generation_prompt, names)

    # -- files ---------------------------------------------------------------------------------------------------------

    def to_file(self, path: str | Path) -> None:
        """Write tokenizer.json at `path`, and chat_template.jinja and tokenizer_config.json beside it.

        Raises OSError.
        """
        path = Path(path)
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        named = {"bos_token": self.bos, "eos_token": self._eos_name, "pad_token": self.pad, "mask_token": self.mask}
        for key, name in named.items():
            if name is not None:
                settings[key] = name
        with whole_file(path) as file:
            file.write(json.dumps(self._spec, ensure_ascii=False).encode())
        with whole_file(path.with_name("tokenizer_config.json")) as file:
            file.write(json.dumps(settings, indent=2, ensure_ascii=False).encode())
        if self.chat_template is not None:
            with whole_file(path.with_name("chat_template.jinja")) as file:
                file.write(self.chat_template.encode())

    # -- checks --------------------------------------------------------------------------------------------------------

    def _fail(self, field: str, problem: str) -> CheckpointError:
        return CheckpointError(self._path, field, problem)

    def _added_tokens(self, spec: Any) -> dict[str, tuple[int, bool]]:
        """Name -> (id, special), of a tokenizer of a kind that we know."""
        model = spec.get("model") if isinstance(spec, Mapping) else None
        if not isinstance(model, Mapping) or model.get("type", "BPE") not in ("BPE", "Unigram", "WordPiece"):
            raise self._fail("model", "expected byte-level BPE, or SentencePiece's BPE or Unigram, or WordPiece")
        tokens = spec.get("added_tokens") or []
        if not isinstance(tokens, list):
            raise self._fail("model", "expected a vocabulary, merges and added tokens")
        added: dict[str, tuple[int, bool]] = {}
        for entry in tokens:
            name, index = (entry.get("content"), entry.get("id")) if isinstance(entry, Mapping) else (None, None)
            if not isinstance(name, str) or not name or type(index) is not int or not 0 <= index < 1 << 24:
                raise self._fail("added token", "expected an id and a content")
            if name in added:
                raise self._fail(f"added token {name[:40]!r}", "listed twice or under two ids")
            added[name] = (index, bool(entry.get("special")))
        return added

    def _check_ids(self, ids: list[int]) -> None:
        if len(set(ids)) != len(ids):
            raise self._fail("vocabulary", "two tokens have one id")
        if ids and max(ids) >= 2 * len(ids) + 65536:
            raise self._fail("vocabulary", f"the largest id is {max(ids)} for {len(ids)} tokens")

    def _check(self, spec: Mapping[str, Any], added: Mapping[str, tuple[int, bool]]) -> dict[str, int]:
        """The vocabulary of a byte-level BPE without added tokens."""
        vocab, merges = spec["model"].get("vocab"), spec["model"].get("merges")
        if not isinstance(vocab, Mapping) or not isinstance(merges, list):
            raise self._fail("model", "expected a vocabulary, merges and added tokens")
        for name, (index, _) in added.items():
            if vocab.get(name, index) != index:
                raise self._fail(f"added token {name[:40]!r}", "listed twice or under two ids")
        plain = {name: index for name, index in vocab.items() if name not in added}
        alphabet = BYTE_OF.keys()
        for name, index in plain.items():
            if type(index) is not int or not 0 <= index < 1 << 24:
                raise self._fail(f"token {name[:40]!r}", f"id {str(index)[:40]}; expected 0 to {(1 << 24) - 1}")
            if not name or not alphabet >= set(name):
                raise self._fail(f"token {index}", f"{name[:40]!r} has characters that stand for no byte")
        for index, merge in enumerate(merges):
            pair = merge.split(" ", 1) if isinstance(merge, str) else merge
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                raise self._fail(f"merge {index}", f"{str(merge)[:40]!r}; expected two tokens")
            if pair[0] not in plain or pair[1] not in plain or pair[0] + pair[1] not in plain:
                raise self._fail(
                    f"merge {index}", f"{str(merge)[:40]!r} joins or makes a token that is not in the vocabulary"
                )
        return plain

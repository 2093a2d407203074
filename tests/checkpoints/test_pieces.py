"""Tokenizers that are not byte-level, trained here by the library: ids as it gives them, bytes that join to the text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import toy_folder
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

import mezzotint as mz
from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.load import load
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.edit.locks import Locks
from mezzotint.edit.source import Source

CORPUS = ["Mia has a red ball. The dog runs, and Tom sees it!\n  Yes, he said: 12 cats. It's caf\u00e9."] * 20
SPECIALS = ["<pad>", "</s>", "<unk>", "<mask>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = [
    "Mia has a ball.", " Mia", "Mia  has\n\n  two", "a\nb ", "The dog runs, and it's 12!", "", " ", "   x", "sees<mask>it",
    "caf\u00e9",
]  # fmt: skip


def unigram(scheme: str = "always", before: Any = None) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.Unigram())
    if before is not None:
        made.normalizer = before
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    made.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    )
    return made


def llama() -> tokenizers.Tokenizer:
    """As Llama 1 and 2: spaces replaced by a normalizer, bytes to fall back on."""
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=360, special_tokens=[*SPECIALS, *BYTES], show_progress=False)
    )
    spec = json.loads(made.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in BYTES]
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def gemma() -> tokenizers.Tokenizer:
    """As Gemma: no space before a text, and tokens that are added, yet text."""
    spec = json.loads(llama().to_str())
    spec["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    spec["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    spec["decoder"]["decoders"].pop()
    longest = max((name for name in spec["model"]["vocab"] if not name.startswith("<")), key=len)
    entry = {**spec["added_tokens"][0], "id": spec["model"]["vocab"][longest], "content": longest, "special": False}
    spec["added_tokens"].append(entry)
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def t5() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    )
    return made


def bert() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIALS, show_progress=False)
    )
    return made


KEEPING: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "unigram": unigram, "first": lambda: unigram("first"), "never": lambda: unigram("never"), "llama": llama,
    "gemma": gemma,
}  # fmt: skip
LOSING: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "t5": t5, "bert": bert, "nfkc": lambda: unigram(before=normalizers.NFKC()),
}  # fmt: skip
MADE: dict[str, tokenizers.Tokenizer] = {}


def both(name: str) -> tuple[tokenizers.Tokenizer, Tokenizer]:
    """(the library's, ours of the same tokenizer.json)"""
    if name not in MADE:
        MADE[name] = (KEEPING | LOSING)[name]()
    return MADE[name], Tokenizer(json.loads(MADE[name].to_str()), eos=["</s>"])


@pytest.mark.parametrize("name", [*KEEPING, *LOSING])
def test_a_prompt_has_the_ids_of_the_library(name: str) -> None:
    theirs, ours = both(name)
    for text in TEXTS:
        if "<mask>" not in text:  # theirs reads markers in text
            assert ours.prompt(text) == theirs.encode(text, add_special_tokens=False).ids, text
    for text in ("sees<mask>it", "<pad></s>", "</s> Mia"):
        assert not set(ours.encode(text)) & {ours.id(special) for special in SPECIALS if special != "<unk>"}


@pytest.mark.parametrize("name", KEEPING)
def test_tokens_join_to_the_text(name: str) -> None:
    _, ours = both(name)
    assert ours.exact
    draw = random.Random(0)
    pool = "aMi sd.\n!  12" if name not in ("llama", "gemma") else "aMi sd.\n!  12\u00e9\U0001f600\u4e2d"
    for text in (*TEXTS, *("".join(draw.choices(pool, k=draw.randrange(30))) for _ in range(100))):
        if not ours.can_spell(text):
            assert set(text) - set("".join(CORPUS)), text
            continue
        ids = ours.encode(text)
        assert ours.decode(ids) == text
        assert b"".join(map(ours.token_bytes, ids)) == text.encode()
        stream = ours.stream_decoder()
        pieces = [stream.push(i) for i in ids]
        assert "".join(pieces) + stream.finish() == text
        assert "\ufffd" not in "".join(pieces)


def test_what_has_no_token_shows(tmp_path: Path) -> None:
    for name in ("unigram", "bert", "t5"):
        ours = both(name)[1]
        assert not ours.can_spell("\U0001f600") and "\ufffd" in ours.decode(ours.encode("Mia \U0001f600 has"))
    assert not both("unigram")[1].can_spell("a\U0010ffff0")
    ours = both("llama")[1]
    assert ours.decode(ours.encode("\U0001f600\u4e2d")) == "\U0001f600\u4e2d"
    smile = ours.encode("\U0001f600")
    stream = ours.stream_decoder()
    assert [stream.push(i) for i in smile] == ["", "", "", "\U0001f600"]
    assert stream.finish() == ""


def test_a_written_text_is_the_library_s_up_to_its_spaces() -> None:
    theirs, ours = both("bert")
    ids = ours.encode("Mia has, runs!")
    assert ours.decode(ids) == " mia has , runs !"
    assert theirs.decode(ids) == "mia has, runs!"
    ours = both("t5")[1]
    assert ours.decode(ours.encode("Mia  has\na")) == " Mia has a"


def test_locks_line_up_and_lossy_ones_are_refused() -> None:
    text = "Mia has a red ball.\nThe dog runs."
    for name in KEEPING:
        ours = both(name)[1]
        source = Source.of(text, Locks.of(text, [(0, 4)]), ours)
        assert source.starts[-1] == len(text.encode())
        assert [text.encode()[a:b] for a, b in zip(source.starts, source.starts[1:], strict=False)] == [
            ours.token_bytes(i) for i in source.ids
        ]
    for name in LOSING:
        assert not both(name)[1].exact
        with pytest.raises(ValueError, match="tokenizer changes texts"):
            Source.of(text, Locks.of(text, []), both(name)[1])


def test_a_chat_opens_after_every_marker() -> None:
    template = "{% for m in messages %}{{ '<pad>' + m['content'] + '</s>' }}{% endfor %}"
    messages = [{"role": "user", "content": "Mia"}, {"role": "user", "content": "Tom <pad>"}]
    theirs, ours = both("llama")
    ours = Tokenizer(json.loads(theirs.to_str()), template, eos=["</s>"])
    ids = ours.chat(messages)
    assert ids == theirs.encode("<pad>Mia</s><pad>Tom ").ids + ours.encode("<pad>") + [ours.id("</s>")]


def test_a_checkpoint_with_one_writes_and_is_saved(tmp_path: Path) -> None:
    toy_folder.write("llada", tmp_path / "a")
    made = tokenizers.Tokenizer(models.Unigram([(c, -1.0) for c in ["<unk>", *"\u2581abcdefghijklmnopqrstuvwxyz"]], 0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.save(str(tmp_path / "a" / "tokenizer.json"))
    checkpoint = load(tmp_path / "a")
    (reply,) = mz.Engine(checkpoint).generate(mz.Request("ab c", raw=True, max_tokens=8, decode="diffusion"))
    assert reply.text == checkpoint.tokenizer.decode(reply.ids)
    checkpoint.tokenizer.to_file(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.encode("ab c") == checkpoint.tokenizer.encode("ab c")


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model", "vocab.txt"])
def test_a_vocabulary_alone_says_what_to_do(name: str, tmp_path: Path) -> None:
    toy_folder.write("llama", tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"tokenizer.json: missing; {name} alone is not read: AutoTokenizer"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("unigram", lambda s: s["model"].update(vocab={"a": 1}), "expected a list of pieces"),
        ("unigram", lambda s: s["model"]["vocab"].append(["x"]), "expected a piece and its score"),
        ("unigram", lambda s: s["model"]["vocab"].append(["", -1.0]), "expected a piece and its score"),
        ("unigram", lambda s: s["model"]["vocab"].append(["y", "low"]), "expected a piece and its score"),
        ("unigram", lambda s: s["model"]["vocab"].append(["a", -1.0]), "'a' appears twice"),
        ("unigram", lambda s: s["model"].update(unk_id=None), "unk_id"),
        ("unigram", lambda s: s["model"].update(unk_id=10**6), "unk_id"),
        ("unigram", lambda s: s["added_tokens"][0].update(id=50), "under two ids"),
        ("bert", lambda s: s["model"].update(unk_token="no"), "unk_token"),
        ("bert", lambda s: s["model"].update(continuing_subword_prefix=None), "continuing_subword_prefix"),
        ("bert", lambda s: s["model"]["vocab"].update(zz=-1), "expected 0 to"),
        ("bert", lambda s: s["model"]["vocab"].update(zz=20), "two tokens have one id"),
        ("llama", lambda s: s.update(normalizer=None) or s["model"].update(byte_fallback=False), "expected ByteLevel"),
        ("llama", lambda s: s["model"]["merges"].append(["x", "q"]), "tokenizer"),
        ("llama", lambda s: s.update(normalizer={"type": "nonsense"}), "tokenizer"),
    ],
)
def test_bad_ones(name: str, change: Callable[[Any], object], message: str) -> None:
    spec = json.loads(both(name)[0].to_str())
    change(spec)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer(spec)

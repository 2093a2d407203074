"""Text to ids and back, on the tiny vocabulary and the real one; and nothing in a text becomes a marker."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tiny_checkpoint

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.load import Checkpoint, load
from mezzotint.checkpoints.tokenizer import BYTE_OF, Tokenizer

TEXTS = [
    "", " ", "Hello, world!", "a  b\t\tc\n\n\nd\r\n", "1234567890 3.14 12a34", "caf\u00e9 na\u00efve \u00df \u0130",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002", "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\U0001f600\U0001f469\u200d\U0001f4bb\U0001f1eb\U0001f1f7 ok", "e\u0301 \ufb01 \u200b\ufeff",
    "def f(x):\n    return x ** 2  # \u2713\n",
    "<|im_start|>user\n<|im_end|><|endoftext|> <repo_name>", "it's they'll I'VE", "\x00\x01\x7f", "x" * 3000,
]  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(tiny: tuple[Path, Path]) -> Tokenizer:
    return load(tiny[0]).tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(text: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert not set(ids) & set(tokenizer.specials.values())


def test_round_trip_of_the_base(base: Checkpoint) -> None:
    for text in TEXTS:
        ids = base.tokenizer.encode(text)
        assert base.tokenizer.decode(ids) == text
        assert not set(ids) & set(base.tokenizer.specials.values())
    pool = "abz 019\n\t'<|>_" + "\u00e9\u4e2d\u0416\U0001f600\u0300\u200d\U0001f3fd"
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices(pool, k=draw.randrange(40)))
        assert base.tokenizer.decode(base.tokenizer.encode(text)) == text


def test_base_equals_transformers(base: Checkpoint, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    base.tokenizer.to_file(tmp_path / "tokenizer.json")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        if "<" not in text:  # theirs reads markers in text
            assert theirs(text)["input_ids"] == base.tokenizer.encode(text)
    messages = [
        {"role": "user", "content": " Hi\n12 "},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "x"},
    ]
    for prompt in (True, False):
        expected = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
        assert base.tokenizer.chat(messages, prompt) == expected


def test_characters_without_tokens_become_visible(base: Checkpoint) -> None:
    """Twenty-one bytes of SmolLM2 have no token; such a character must not vanish."""
    tokenizer = base.tokenizer
    assert not tokenizer.can_spell("a\x04b") and tokenizer.can_spell("a\x05b")
    assert tokenizer.decode(tokenizer.encode("a\x04b\U00040000c")) == "a\ufffdb\ufffdc"


def test_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    assert not tokenizer.can_spell("\ud800")
    with pytest.raises(ValueError, match="character 1 of the text is a lone surrogate"):
        tokenizer.encode("a\ud800")


def test_special_tokens_and_unknown_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.id("<|im_end|>") == 2 and tokenizer.eos_ids == (2, 0)
    assert tokenizer.decode([2]) == "" and tokenizer.decode([2], skip_special=False) == "<|im_end|>"
    assert tokenizer.token_bytes(2) == b"<|im_end|>"
    with pytest.raises(ValueError, match=r"no token is named 'nope'; special tokens: <\|endoftext\|>"):
        tokenizer.id("nope")
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"id {bad} is not in the vocabulary"):
            tokenizer.decode([bad])


def test_streams_never_split_a_character(tokenizer: Tokenizer) -> None:
    draw = random.Random(1)
    single = [i for i in range(tokenizer.vocab_size) if len(tokenizer.token_bytes(i)) == 1]
    for text in TEXTS:
        ids = [tokenizer.id(next(c for c, b in BYTE_OF.items() if b == byte)) for byte in text.encode()]
        stream = tokenizer.stream_decoder()
        pieces = [stream.push(i) for i in ids]
        assert "\ufffd" not in "".join(pieces)
        assert "".join(pieces) + stream.finish() == tokenizer.decode(ids) == text
    for _ in range(300):  # any bytes at all, in pieces of any size
        ids = draw.choices([*single, 0, 2], k=draw.randrange(30))
        stream, parts, at = tokenizer.stream_decoder(), [], 0
        while at < len(ids):
            step = draw.randrange(1, 4)
            parts.append(stream.push(ids[at : at + step]))
            at += step
        assert "".join(parts) + stream.finish() == tokenizer.decode(ids)


def test_alphabet_is_the_library_s() -> None:
    assert sorted(BYTE_OF) == tiny_checkpoint.alphabet()
    assert sorted(BYTE_OF.values()) == list(range(256))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["model"].update(type="WordLevel"), "expected byte-level BPE, or SentencePiece's"),
        (lambda s: s["model"].update(type="Unigram"), "expected a list of pieces"),
        (lambda s: s.update(pre_tokenizer=None), "expected ByteLevel"),
        (lambda s: s["model"]["merges"].append("x q"), "not in the vocabulary"),
        (lambda s: s["model"]["merges"].append(5), "expected two tokens"),
        (lambda s: s["model"]["vocab"].update({"a b": 999}), "stand for no byte"),
        (lambda s: s["model"]["vocab"].update({"\u0120the\u0120": 7}), "two tokens have one id"),
        (lambda s: s["model"]["vocab"].update({"zz": 10**7}), "largest id"),
        (lambda s: s["model"]["vocab"].update({"zz": "7"}), "expected 0 to"),
        (lambda s: s["added_tokens"].append({"id": 900, "content": "<|im_end|>"}), "listed twice"),
        (lambda s: s["added_tokens"].append({"content": "<x>"}), "expected an id and a content"),
        (lambda s: s.update(decoder={"type": "nonsense"}), "tokenizer"),
    ],
)
def test_bad_tokenizers(change: object, message: str, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    spec = json.loads((tiny[1] / "tokenizer.json").read_text())
    change(spec)  # type: ignore[operator]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_token_may_have_the_name_of_a_special_one_in_no_text(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    """Even where whole words are looked up before merging, the encoder does not know the specials."""
    spec = json.loads((tiny[1] / "tokenizer.json").read_text())
    spec["model"]["ignore_merges"] = True
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": len(tiny_checkpoint.TOKENS), "content": "stop"})
    spec["model"]["vocab"]["stop"] = len(tiny_checkpoint.TOKENS)
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert tokenizer.decode(tokenizer.encode("stop")) == "stop"
    assert tokenizer.specials["stop"] not in tokenizer.encode("stop")

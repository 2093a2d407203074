"""Tokens of documents and conversations, and which of them carry a loss."""

import json

import numpy as np
import pytest
from checkpoints.tiny_checkpoint import TEMPLATE, library_tokenizer

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.train.tokens import conversation, end_id, token_type


def make_tokenizer(template=TEMPLATE, **changes):
    spec = json.loads(library_tokenizer().to_str())
    return Tokenizer({**spec, **changes}, template, eos=["<|im_end|>"])


def test_only_the_assistant_is_learnt_and_encoded_as_it_writes():
    tokenizer = make_tokenizer()
    messages = [
        {"role": "system", "content": "the"}, {"role": "user", "content": "in <|im_end|>"},
        {"role": "assistant", "content": "\nand"}, {"role": "user", "content": "er"}, {"role": "assistant", "content": "ing"},
    ]  # fmt: skip
    ids, learnt = conversation(messages, tokenizer)
    said = [i for i, says in zip(ids, learnt, strict=True) if says]
    end = tokenizer.specials["<|im_end|>"]
    assert said == [*tokenizer.encode("\nand"), end, *tokenizer.encode("ing"), end]
    prompt = tokenizer.chat(messages[:2])
    assert ids[: len(prompt)] == prompt and not any(learnt[: len(prompt)]) and learnt[len(prompt)]
    assert tokenizer.decode(ids, skip_special=False) == tokenizer.decode(
        tokenizer.chat(messages, False), skip_special=False
    )

    plain, says = conversation(messages[1:3], make_tokenizer(template=None))
    assert tokenizer.decode([i for i, s in zip(plain, says, strict=True) if s]) == "\nand"
    assert plain[-1] == end_id(tokenizer) and says[-1] and not says[0]
    with pytest.raises(ValueError, match="does not write message 2 after its prompt"):
        conversation(messages, make_tokenizer("{{ messages|length }}" + TEMPLATE))
    with pytest.raises(ValueError, match="allowed: system"):
        conversation([{"role": "judge", "content": "x"}, messages[2]], tokenizer)


def test_types_follow_the_vocabulary():
    assert (token_type(49152), token_type(65536), token_type(65537)) == (np.dtype("u2"), np.dtype("u2"), np.dtype("u4"))

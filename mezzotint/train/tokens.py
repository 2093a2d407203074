"""From a document to its tokens, and which of them carry a loss.

text                      tokens <end>                     all of them
user: ... assistant: ...  the chat template's own tokens   the assistant's turns and the marker that ends each
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.train.data import Document

END_OF_TEXT = "<|endoftext|>"


class Tokens(NamedTuple):
    """ids and, for each, whether it carries a loss; both `[n]`."""

    ids: NDArray[np.unsignedinteger]
    learnt: NDArray[np.bool_]


def end_id(tokenizer: Tokenizer) -> int:
    """The token that ends a plain document. Raises ValueError when the tokenizer has none."""
    if END_OF_TEXT in tokenizer.specials:
        return tokenizer.specials[END_OF_TEXT]
    if not tokenizer.eos_ids:
        raise ValueError("the tokenizer has no end-of-text token, so documents could not be told apart")
    return tokenizer.eos_ids[0]


def token_type(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 over what every id stands for: two tokenizers that agree in it may share a corpus."""
    known = hashlib.sha256()
    for index in range(tokenizer.vocab_size):
        try:
            spelled = tokenizer.token_bytes(index)
        except ValueError:  # a gap in the vocabulary
            spelled = b""
        known.update(len(spelled).to_bytes(4, "little") + spelled)
    known.update(json.dumps(sorted(tokenizer.specials.items())).encode())
    return known.hexdigest()


def tokenise(document: Document, tokenizer: Tokenizer) -> Tokens:
    """A document's tokens. All of a text carries a loss and it ends in end-of-text; of a conversation, the assistant's turns.

    Raises ValueError for text that cannot be encoded and for a conversation that the chat template refuses.
    """
    if document.messages:
        ids, learnt = conversation(document.messages, tokenizer)
    else:
        ids = [*tokenizer.encode(document.text), end_id(tokenizer)]
        learnt = [True] * len(ids)
    return Tokens(np.array(ids, token_type(tokenizer.vocab_size)), np.array(learnt, np.bool_))


def conversation(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and which of them the assistant says: its turns and the marker that ends each.

    A turn is encoded apart from what stands before it, as it is when the model writes it. Without a chat template a
    question and its answer are plain text, and the end-of-text token ends the answer. Raises ValueError when the template
    writes an assistant's turn otherwise than after its own prompt for one.
    """
    ids: list[int] = []
    learnt: list[bool] = []

    def add(text: str, says: bool) -> None:
        new = tokenizer.encode(text)
        ids.extend(new)
        learnt.extend([says] * len(new))

    if tokenizer.chat_template is None:
        for message in messages:
            says = message["role"] == "assistant"
            add(message["content"] if says else message["content"] + "\n", says)
            if says:
                ids.append(end_id(tokenizer))
                learnt.append(True)
        return ids, learnt

    atoms = _atoms(tokenizer.chat_pieces(messages, False))
    says_at = [False] * len(atoms)
    begins = {0}
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _atoms(tokenizer.chat_pieces(messages[:index], True)) if index else []
        if atoms[: len(before)] != before:
            raise ValueError(f"the chat template does not write message {index} after its prompt for an answer")
        at = len(before)
        while at < len(atoms) and not isinstance(atoms[at], int):
            at += 1
        begins |= {len(before), at + 1}
        says_at[len(before) : at + 1] = [True] * (min(at + 1, len(atoms)) - len(before))
    run = ""
    for at, atom in enumerate([*atoms, 0]):
        if run and (at in begins or isinstance(atom, int)):
            add(run, says_at[at - 1])
            run = ""
        if at == len(atoms):
            break
        if isinstance(atom, int):
            ids.append(atom)
            learnt.append(says_at[at])
        else:
            run += atom
    return ids, learnt


def _atoms(pieces: Iterable[int | str]) -> list[int | str]:
    """Markers and single characters."""
    return [atom for piece in pieces for atom in ([piece] if isinstance(piece, int) else piece)]

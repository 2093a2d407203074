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

    pieces = merged(tokenizer.chat_pieces(messages, False))
    spans: list[tuple[tuple[int, int], int]] = []  # where an answer begins (piece, character), the piece after its end
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = merged(tokenizer.chat_pieces(messages[:index], True)) if index else []
        begin = _after(pieces, before)
        if begin is None:
            raise ValueError(f"the chat template does not write message {index} after its prompt for an answer")
        marker = next((at for at in range(begin[0], len(pieces)) if isinstance(pieces[at], int)), len(pieces))
        spans.append((begin, marker + 1))
    for at, piece in enumerate(pieces):
        span = next((span for span in spans if span[0][0] <= at < span[1]), None)
        if isinstance(piece, int):
            ids.append(piece)
            learnt.append(span is not None)
        else:
            cut = len(piece) if span is None else span[0][1] if span[0][0] == at else 0
            add(piece[:cut], False)
            add(piece[cut:], True)
    return ids, learnt


def merged(pieces: Iterable[int | str]) -> list[int | str]:
    """Markers, and the whole of the text between them."""
    found: list[int | str] = []
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(last := found[-1], str):
            found[-1] = last + piece
        elif piece != "":
            found.append(piece)
    return found


def _after(pieces: Sequence[int | str], before: Sequence[int | str]) -> tuple[int, int] | None:
    """The place (piece, character) behind `before`, or None where `pieces` do not begin with it."""
    if not before:
        return 0, 0
    *front, last = before
    at = len(front)
    if list(pieces[:at]) != front or at >= len(pieces):
        return None
    here = pieces[at]
    if isinstance(last, str) and isinstance(here, str) and here.startswith(last):
        return at, len(last)
    return (at + 1, 0) if here == last else None

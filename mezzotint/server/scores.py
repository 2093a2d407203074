"""Scores: log-probabilities as OpenAI's clients read them, let out with the text that they belong to.

A token belongs to the text once its first character is shown: those behind a stop string never are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.sampler.lens import Scored


class Placed(NamedTuple):
    """A token's score, and the character of the answer at which its text begins."""

    offset: int
    scored: Scored


class Row:
    """The scores of one answer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decoder = tokenizer.stream_decoder()
        self._length = 0  # characters that the tokens spell so far
        self._held: list[Placed] = []

    def push(self, scores: Sequence[Scored]) -> None:
        for scored in scores:
            self._held.append(Placed(self._length, scored))
            self._length += len(self._decoder.push(scored.token))

    def shown(self, length: int, whole: bool = False) -> list[Placed]:
        """Those of the first `length` characters that were not let out yet; whole: the text ends here, uncut."""
        out = [placed for placed in self._held if placed.offset < length or whole]
        self._held = self._held[len(out) :]
        return out


def chat_logprobs(tokenizer: Tokenizer, placed: Sequence[Placed]) -> dict[str, Any]:
    def told(token: int, nats: float) -> dict[str, Any]:
        spelled = tokenizer.token_bytes(token)
        return {"token": spelled.decode("utf-8", "replace"), "logprob": round(nats, 6), "bytes": list(spelled)}

    return {
        "content": [
            {**told(scored.token, scored.nats), "top_logprobs": [told(token, nats) for token, nats in scored.top]}
            for _, scored in placed
        ],
        "refusal": None,
    }


def text_logprobs(tokenizer: Tokenizer, placed: Sequence[Placed]) -> dict[str, Any]:
    def name(token: int) -> str:
        return tokenizer.token_bytes(token).decode("utf-8", "replace")

    return {
        "tokens": [name(scored.token) for _, scored in placed],
        "token_logprobs": [round(scored.nats, 6) for _, scored in placed],
        "top_logprobs": [{name(token): round(nats, 6) for token, nats in scored.top} for _, scored in placed],
        "text_offset": [offset for offset, _ in placed],
    }

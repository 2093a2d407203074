"""Tokens: /tokenize and /detokenize, as llama.cpp and vLLM have them; /v1/embeddings, texts as vectors.

An embedding is the mean over a text of what the causal pass knows behind each token (after the last norm), of length 1.
"""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from fastapi import FastAPI, Request
from pydantic import BeforeValidator, Field

from mezzotint.edit.ask import Report
from mezzotint.engine.engine import Engine
from mezzotint.model.visibility import CLEAN, Places, context_causal
from mezzotint.server.errors import bad
from mezzotint.server.orders import TOO_LONG, fits
from mezzotint.server.service import Service, ignored
from mezzotint.server.settings import MOST_INPUTS
from mezzotint.server.wire import Body, Message, default


class Tokenize(Body):
    """One of prompt (vLLM), content (llama.cpp) and messages."""

    prompt: str | None = None
    content: str | None = None
    messages: list[Message] | None = None
    with_pieces: Annotated[bool, default(False)] = False


class Detokenize(Body):
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=1_000_000)]


def _inputs(given: Any) -> Any:
    """One text or ids of one, as several."""
    alone = isinstance(given, str) or (isinstance(given, list) and given and all(type(i) is int for i in given))
    return [given] if alone else given


class Embeddings(Body):
    """input: a text, its ids, or several of either."""

    input: Annotated[
        list[str | list[Annotated[int, Field(ge=0)]]], BeforeValidator(_inputs), Field(min_length=1, max_length=MOST_INPUTS)
    ]  # fmt: skip
    encoding_format: Annotated[Literal["float", "base64"], default("float")] = "float"
    dimensions: int | None = None


def embeddings_order(engine: Engine, body: Embeddings) -> tuple[list[list[int]], Callable[..., list[list[float]]]]:
    """The ids of every text, and what makes a vector of each. Raises ApiError."""
    width, longest = engine.denoiser.config.width, engine.denoiser.config.max_length
    if body.dimensions not in (None, width):
        raise bad(f"dimensions is {body.dimensions}; this model's vectors have {width}", "dimensions")
    texts = []
    for number, given in enumerate(body.input):
        param = f"input[{number}]" if len(body.input) > 1 else "input"
        if isinstance(given, str):
            fits(engine, given, param)
        ids = engine.tokenizer.encode(given) if isinstance(given, str) else given
        if not ids:
            raise bad("a text to embed is empty; give some text", param)
        if unknown := [i for i in ids if i >= engine.tokenizer.vocab_size]:
            raise bad(f"{param} has the id {unknown[0]}; ids are 0 to {engine.tokenizer.vocab_size - 1}", param)
        ids = [0] * engine.denoiser.config.prefix + ids
        if len(ids) > longest:
            raise bad(
                f"{param} has {len(ids)} tokens, more than the {longest} of this model's context", param, TOO_LONG
            )
        texts.append(ids)

    def run(engine: Engine, report: Report) -> list[list[float]]:
        vectors = []
        for number, ids in enumerate(texts):
            report("embedding", number, len(texts))
            vectors.append(embed(engine, ids))
        return vectors

    return texts, run


@torch.inference_mode()
def embed(engine: Engine, ids: list[int]) -> list[float]:
    position = torch.arange(len(ids))[None]
    places = Places.of(position, torch.full_like(position, CLEAN))
    states = engine.denoiser(torch.tensor([ids]), places, context_causal(), logits=False).hidden[0]  # [T, D]
    mean = states[engine.denoiser.config.prefix :].to(torch.float64).mean(0)
    vector: list[float] = (mean / mean.norm().clamp(min=1e-12)).tolist()
    return vector


def _spelled(vector: list[float], form: str) -> Any:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if form == "base64" else vector


def add(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize")
    async def tokenize(body: Tokenize) -> dict[str, Any]:
        """The ids of a text."""
        engine = service.engine_for(body)
        given = [text for text in (body.prompt, body.content) if text is not None]
        if len(given) + (body.messages is not None) != 1:
            raise bad("give one of prompt, content and messages", "prompt")
        if body.messages is not None:
            messages = [message.model_dump() for message in body.messages]
            ids = await asyncio.to_thread(engine.tokenizer.chat, messages)
        else:
            ids = await asyncio.to_thread(engine.tokenizer.encode, given[0])
        tokens: list[Any] = list(ids)
        if body.with_pieces:
            spelled = [engine.tokenizer.token_bytes(i) for i in ids]
            pieces = [raw.decode("utf-8", "replace") if _whole(raw) else list(raw) for raw in spelled]
            tokens = [{"id": i, "piece": piece} for i, piece in zip(ids, pieces, strict=True)]
        return {"tokens": tokens, "count": len(ids), "max_model_len": engine.denoiser.config.max_length}

    @app.post("/detokenize")
    async def detokenize(body: Detokenize) -> dict[str, Any]:
        """The text of ids."""
        engine = service.engine_for(body)
        try:
            text = await asyncio.to_thread(engine.tokenizer.decode, body.tokens)
        except ValueError as error:
            raise bad(str(error), "tokens") from None
        return {"content": text, "prompt": text}

    @app.post("/v1/embeddings")
    async def embeddings(body: Embeddings, request: Request) -> dict[str, Any]:
        """Texts as vectors of length 1."""
        texts, work = await asyncio.to_thread(embeddings_order, service.engine_for(body), body)
        vectors = await service.first(request, service.worker.call(work, service.settings.deadline))
        read = sum(map(len, texts))
        service.metrics.worked(read, 0, 0, 0)
        data = [
            {"object": "embedding", "index": i, "embedding": _spelled(vector, body.encoding_format)}
            for i, vector in enumerate(vectors)
        ]
        told = {"warning": "; ".join(notes)} if (notes := ignored(body)) else {}
        usage = {"prompt_tokens": read, "total_tokens": read}
        return {"object": "list", "data": data, "model": service.name, "usage": usage, **told}


def _whole(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True

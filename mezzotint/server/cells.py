"""Cells: a canvas as the playground shows it, one cell a token, and what may be asked of one.

    [[" the", "committed"], [" cat", "draft"], ["", "mask"], [" moon", "guess"]]

mask         noise that looks like noise            draft        accepted; it may still change
guess        noise that looks like text, or what    overwritten  accepted, then decided otherwise
             a verifying call said behind its draft locked       given: nothing writes there
                                                    committed    text for good
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from mezzotint.edit.infill import split_holes
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Request
from mezzotint.sampler.canvas import ACCEPTED, GIVEN, OPEN
from mezzotint.sampler.trace import Frame, Trace
from mezzotint.sampler.verify import pad

HOLE = 4  # tokens of a hole whose length is not given
NAMES = {GIVEN: "locked", ACCEPTED: "draft"}
END = "\u25a0"  # an end token, which text does not show
Cell = list[Any]


def cells(engine: Engine, tokens: Sequence[int], status: Sequence[int], committed: int = 0) -> list[Cell]:
    """[text, state] of every token. A character spelled by several tokens stands in the last of their cells."""
    decoder, mask = engine.tokenizer.stream_decoder(), engine.checkpoint.facts.mask_id
    found: list[Cell] = []
    for index, (token, state) in enumerate(zip(tokens, status, strict=True)):
        if state == OPEN and token == mask:
            found.append([decoder.finish(), "mask"])
            continue
        name = NAMES.get(state, "guess" if state == OPEN else "overwritten")
        name = "committed" if index < committed and name == "draft" else name
        found.append([END if token in engine.stop_ids else decoder.push(token), name])
    if found and (rest := decoder.finish()):
        found[-1][0] += rest
    return found


def view(engine: Engine, trace: Trace) -> dict[str, Any]:
    """A trace as the page reads it. `text` of a frame is what was committed before it, as a length of the whole text.

    Raises ValueError for ids that the model does not have.
    """
    frames, done, text = [], 0, ""
    decoder = engine.tokenizer.stream_decoder()
    for frame in trace.frames:
        made = cells(engine, frame.tokens, frame.status, frame.committed)
        frames.append({
            "kind": frame.kind, "block": frame.block, "step": frame.step, "calls": frame.calls, "seconds": frame.seconds,
            "positions": frame.positions, "committed": frame.committed, "text": len(text), "at": done, "cells": made,
        })  # fmt: skip
        text += decoder.push(frame.tokens[: frame.committed])
        done += frame.committed
    text += decoder.finish()
    return {"header": trace.header, "frames": frames, "text": text, **counts(trace)}


def counts(trace: Trace) -> dict[str, Any]:
    return {
        "calls": trace.num_calls, "tokens": trace.num_tokens, "positions": trace.num_positions,
        "tokens_per_call": round(trace.tokens_per_call, 3), "seconds": trace.frames[-1].seconds if trace.frames else 0.0,
    }  # fmt: skip


def parsed(engine: Engine, text: str) -> Trace:
    """A saved trace. Raises ValueError for what is none, and for one of a model with other tokens."""
    trace = Trace.parse(text, "the file")
    most = max((token for frame in trace.frames for token in frame.tokens), default=0)
    if most >= engine.tokenizer.vocab_size:
        raise ValueError(f"the file holds token {most}, but {engine.checkpoint.name} has {engine.tokenizer.vocab_size}")
    return trace


def _before(trace: Trace, number: int) -> tuple[list[int], Frame]:
    """What was committed before a frame, and the frame. Raises ValueError for a number that there is not."""
    if not 0 <= number < len(trace.frames):
        raise ValueError(f"there is no frame {number}; this trace has {len(trace.frames)}, counted from 0")
    done: list[int] = []
    for frame in trace.frames[:number]:
        done += frame.tokens[: frame.committed]
    return done, trace.frames[number]


def branch(
    engine: Engine, request: Request, trace: Trace, number: int, seed: int, typed: Mapping[int, str], told: str = ""
) -> Request:  # fmt: skip
    """The request that goes on from a frame: what had been decided is locked, and so is what a user typed.

    typed: {offset in answer tokens: text}; where that is empty the token is decided again. told: what is asked from here on, in
    place of the last message, or of the text that was continued. Raises ValueError for an unknown frame.
    """
    done, frame = _before(trace, number)
    decided = {offset: (token,) for offset, token in enumerate(done) if token not in engine.stop_ids}
    for offset, (token, state) in enumerate(zip(frame.tokens, frame.status, strict=True), len(done)):
        if state != OPEN and token not in engine.stop_ids:
            decided[offset] = (token,)
    written = {offset: engine.tokenizer.encode(text) for offset, text in typed.items()}
    over = {offset + n for offset, ids in written.items() for n in range(len(ids) or 1)}
    kept = {offset: ids for offset, ids in decided.items() if offset not in over}
    prompt = request.prompt
    if told.strip():
        prompt = told if isinstance(prompt, str) else [*prompt[:-1], {**prompt[-1], "content": told}]
    locks = {**kept, **{offset: ids for offset, ids in written.items() if ids}}
    return replace(request, prompt=prompt, seed=seed, locks=locks)


def holes(engine: Engine, text: str) -> tuple[str, dict[int, tuple[int, ...]], int]:
    """Text with holes -> what stands before the first, the locks of what stands between and behind them, their length.

    A hole of no given length has `HOLE` tokens; one behind a space takes the space into its first token, as most
    vocabularies do. Raises ValueError for text without a hole, and for one that begins with a hole.
    """
    pieces, lengths = split_holes(text)
    if not pieces[0].strip():
        raise ValueError("the text begins with a hole; begin with a word")
    locks, at = {}, 0
    for piece, length in zip(pieces[1:], lengths, strict=True):
        at += length or HOLE
        last = piece is pieces[-1]
        if ids := engine.tokenizer.encode(piece if last else piece.rstrip(" ") or piece):
            locks[at] = tuple(ids)
            at += len(ids)
    return pieces[0].rstrip(" "), locks, at


def alternatives(
    engine: Engine, request: Request, trace: Trace, number: int, place: int, most: int = 8
) -> list[tuple[str, float]]:
    """What the network says of one cell of a frame, all others as they stand: [text, probability], likeliest first.

    Raises ValueError for a frame or a cell that there is not.
    """
    done, frame = _before(trace, number)
    if not 0 <= place < len(frame.tokens):
        raise ValueError(f"there is no cell {place}; this frame has {len(frame.tokens)}, counted from 0")
    before = [*engine.prompt_ids(request), *done]
    canvas = frame.kind in ("denoise", "commit")
    before += [] if canvas else frame.tokens[:place]
    with torch.inference_mode():
        network = engine.denoiser
        cache = network.new_cache(1, len(before) + len(frame.tokens))
        ids, counts = pad([before])
        read = network.read(ids, counts, cache)
        if canvas:
            tokens = torch.tensor([frame.tokens])
            positions = len(before) + torch.arange(len(frame.tokens))[None]
            logits = network.denoise(tokens, positions, torch.ones_like(tokens, dtype=torch.bool), cache)[0, place]
        else:
            logits = read.logits[0, -1]
        logits = logits.to(torch.float64)
        illegal = [i for i in {*engine.banned, engine.checkpoint.facts.mask_id} if i is not None]
        logits[illegal] = -torch.inf
        best = logits.softmax(-1).topk(min(most, len(logits)))
    return list(_told(engine, best.indices.tolist(), best.values.tolist()))


def _told(engine: Engine, ids: Sequence[int], chances: Sequence[float]) -> Iterator[tuple[str, float]]:
    for token, chance in zip(ids, chances, strict=True):
        yield END if token in engine.stop_ids else engine.tokenizer.decode([token]), round(chance, 6)

"""A family's stock decoding, token for token: our policies on the tiny checkpoints of `tests/golden/families`.

Recorded by `make_samplers.py` with shared randomness: the reference was handed our counted draws.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import toy_folder

from mezzotint.checkpoints.load import Checkpoint, load
from mezzotint.draws import Draws
from mezzotint.sampler.blocks import block_frames
from mezzotint.sampler.decoding import (
    Decoding,
    LinearTemperature,
    above,
    by_confidence,
    by_entropy,
    by_margin,
    dream,
    entropy_bound_everywhere,
    everything,
    fixed_steps,
    fixed_steps_in_blocks,
    in_blocks,
    mean_entropy,
    stable,
    the_others,
)  # fmt: skip
from mezzotint.sampler.loop import Sampler

PROMPT = [3, 17, 8, 30, 5, 22]
MASK = 39
SCORES = {"maskgit_plus": by_confidence, "topk_margin": by_margin, "entropy": by_entropy}
NAMES = [name for name in toy_folder.NAMES if "samplers" in toy_folder.golden(name)]


def decoding(r: dict[str, Any]) -> Decoding:
    """Our policy with the settings of a record."""
    if r["policy"] == "llada":
        rule = fixed_steps() if r["block"] == r["length"] else fixed_steps_in_blocks(r["block"])
        return Decoding(rule, num_steps=r["steps"], canvas_length=r["length"])
    if r["policy"] == "dream":
        return Decoding(dream(SCORES[r["alg"]]()), num_steps=r["steps"], canvas_length=r["length"])
    if r["policy"] == "fast-dllm-v2":
        rule = in_blocks(r["sub"], above(r["threshold"]))
        return Decoding(rule, canvas_length=r["size"], first_from_commit=True)
    if r["policy"] == "diffusion-gemma":
        return Decoding(
            entropy_bound_everywhere(r["bound"]), the_others(), stable() & mean_entropy(r["confidence"]),
            num_steps=r["steps"], canvas_length=8, temperature=LinearTemperature(0.4, 0.8), settle=everything(),
        )  # fmt: skip
    return Decoding(above(r["threshold"]), canvas_length=r["size"], temperature=1.0 if r["policy"] == "sdar" else 0.0)


def written(checkpoint: Checkpoint, r: dict[str, Any]) -> tuple[list[int], int]:
    """(tokens of the answer, calls of the denoiser)"""
    network = checkpoint.denoiser()
    if network.reader is not None and "size" in r:
        network.reader = type(network.reader)(r["size"])
    sampler = Sampler(network, checkpoint.process, decoding(r))
    prompt, count = r.get("prompt", PROMPT), max(len(r["tokens"]), r.get("length", 0))
    count = 24 if r["policy"] == "diffusion-gemma" else count
    tokens: list[int] = []
    calls = 0
    with torch.inference_mode():
        stops = frozenset({r["end"]} if "end" in r else ())
        for frame in block_frames(sampler, network, [prompt], count, Draws.of(r.get("seed", 0)), stop_ids=stops):
            tokens += frame.tokens[: frame.committed] if frame.committed else []
            calls += frame.kind == "denoise"
    return tokens, calls


@pytest.mark.parametrize("name", NAMES)
def test_stock_decoding(name: str, tmp_path: Path) -> None:
    toy_folder.write(name, tmp_path, mask_token_id=None if name == "diffusion_gemma" else MASK)
    checkpoint = load(tmp_path)
    for r in toy_folder.golden(name)["samplers"]:
        tokens, calls = written(checkpoint, r)
        assert tokens == r["tokens"], {k: v for k, v in r.items() if k != "tokens"}
        if "calls" in r and r["end"] == 40:
            assert calls == r["calls"]

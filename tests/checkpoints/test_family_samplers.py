"""A family's stock decoding, token for token: our policies on the tiny checkpoints of `tests/golden/families`.

Recorded by `make_samplers.py` with shared randomness: the reference was handed our counted draws.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_folder

import mezzotint as mz
from mezzotint.checkpoints.load import Checkpoint, load
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.draws import Draws
from mezzotint.model.condition import Condition
from mezzotint.sampler.blocks import block_frames
from mezzotint.sampler.decoding import (
    POLICIES,
    Decoding,
    LinearTemperature,
    Until,
    above,
    ancestral,
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
    rounded_steps,
    rounded_steps_in_blocks,
    score_ratios,
    stable,
    the_others,
)  # fmt: skip
from mezzotint.sampler.guidance import Branches
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
        warmth = LinearTemperature(r.get("low", 0.4), r.get("high", 0.8))
        return Decoding(
            entropy_bound_everywhere(r["bound"]), the_others(), stable(r["stability"]) & mean_entropy(r["confidence"]),
            num_steps=r["steps"], canvas_length=8, temperature=warmth, settle=everything(),
        )  # fmt: skip
    if r["policy"] == "sedd":
        return Decoding(
            score_ratios(),
            temperature=1.0,
            num_steps=r["steps"] + 1,
            canvas_length=r["length"],
            levels=Until(clean=True),
        )
    if r["policy"] == "udlm":
        guidance = r.get("guidance", 1.0)
        return Decoding(
            ancestral(),
            temperature=1.0,
            num_steps=r["steps"],
            canvas_length=r["length"],
            levels=Until(),
            guidance=guidance,
        )
    if r["policy"] == "first-hitting":
        return replace(POLICIES["first-hitting"](), canvas_length=r.get("size", r["length"]))
    if r["policy"] == "a2d":
        rule = rounded_steps_in_blocks(r["block"]) if r.get("block", r["length"]) < r["length"] else rounded_steps()
        return Decoding(rule, num_steps=r["steps"], canvas_length=r.get("size", r["length"]))
    return Decoding(above(r["threshold"]), canvas_length=r["size"], temperature=1.0 if r["policy"] == "sdar" else 0.0)


def written(checkpoint: Checkpoint, r: dict[str, Any]) -> tuple[list[int], int]:
    """(tokens of the answer, calls of the denoiser)"""
    network: Any = checkpoint.denoiser()
    if network.reader is not None and ("size" in r or "whole" in r):
        network.reader = replace(network.reader, size=r.get("size"))
    if "class" in r:
        told = [Condition(class_label=r["class"])]
        network = network.following(told) if r["guidance"] == 1 else Branches(network, told)
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
    own = name in ("diffusion_gemma", "a2d")  # whose MASK is not in config.json
    toy_folder.write(name, tmp_path, mask_token_id=None if own else MASK)
    if name == "a2d":
        tokens = [chr(ord("A") + i) for i in range(MASK)]
        Tokenizer.of_tokens(tokens, special=["<|mask|>"]).to_file(tmp_path / "tokenizer.json")
        (tmp_path / "tokenizer_config.json").write_text('{"mask_token": {"content": "<|mask|>"}}')
    checkpoint = load(tmp_path)
    for r in toy_folder.golden(name)["samplers"]:
        tokens, calls = written(checkpoint, r)
        assert tokens == r["tokens"], {k: v for k, v in r.items() if k != "tokens"}
        if "calls" in r and r["end"] == 40:
            assert calls == r["calls"]


def test_networks_that_are_told_the_level_run_in_the_engine(tmp_path: Path) -> None:
    """With their own policy, another, a class and guidance; seeds repeat; what cannot tell the level says so."""
    asked = mz.Request("AB", raw=True, decode="diffusion", max_tokens=8, seed=1, policy="sedd")
    texts = set()
    for name in ("sedd", "sedd_uniform", "udlm_classes"):
        toy_folder.write(name, tmp_path / name)
        Tokenizer.of_tokens([chr(ord("A") + i) for i in range(40)]).to_file(tmp_path / name / "tokenizer.json")
        engine = mz.Engine(load(tmp_path / name))
        told = {"condition": Condition(class_label=2)} if name == "udlm_classes" else {}
        for policy in ("sedd", "ancestral", "top"):
            one = [engine.generate(replace(asked, policy=policy, **told))[0].ids for _ in range(2)]
            assert one[0] == one[1] and len(one[0]) == 8
            texts.add(tuple(one[0]))
        if told:
            guided = engine.generate(replace(asked, policy="ancestral", guidance=3.0, **told))[0].ids
            assert guided != engine.generate(replace(asked, policy="ancestral"))[0].ids
    assert len(texts) >= 7  # nine, but for chance
    with pytest.raises(ValueError, match="only plain diffusion does: generate"):
        mz.infill(engine, "A[[ ]]B")

"""Record what a family's own sampler writes with the tiny checkpoint of `make.py`, as `samplers` in the same golden.

    python make_samplers.py FAMILY... [--ref FOLDER] [--sampler FOLDER]     FOLDER of --sampler: where generate.py lies

Randomness is shared: where the sampler draws, it is handed our counted draws at the same block, step and position. One
thing is imposed on it: MASK's logit is minus infinity, as it always is in ours.
"""

# ruff: noqa: C408, B023, RUF005  # calls as configurations; closures that are called before their loop goes on; sums of lists

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from make import FAMILIES, HERE, MASK, V, compact, package

PROMPT = [3, 17, 8, 30, 5, 22]
Record = dict[str, Any]


def without_mask(model: Any) -> None:
    """Every logit of MASK that leaves the model is minus infinity."""
    inner = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if (seen := kwargs.get("attention_mask")) is not None and seen.dtype == torch.bfloat16:
            kwargs["attention_mask"] = seen.float()  # LLaDA2's loop makes it for weights in bfloat16
        out = inner(*args, **kwargs)
        out.logits[..., MASK] = -torch.inf
        return out

    model.forward = forward


def script(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("stock", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draws() -> Any:
    """Our counted draws, without the rest of the package: its dependencies need not be where the reference runs."""
    package(HERE.parents[2] / "mezzotint", "mezzotint")
    return importlib.import_module("mezzotint.draws")


def llada(model: Any, sampler: Path) -> list[Record]:
    without_mask(model)
    generate = script(sampler / "generate.py").generate
    found = []
    for length, blocks, steps in ((12, 12, 4), (12, 4, 6), (12, 4, 12)):
        out = generate(model, torch.tensor([PROMPT]), None, steps, length, blocks, mask_id=MASK)
        found.append(
            {"policy": "llada", "block": blocks, "steps": steps, "length": length, "tokens": out[0, 6:].tolist()}
        )
    return found


def dream(model: Any, sampler: Path) -> list[Record]:
    found = []
    for alg in ("maskgit_plus", "topk_margin", "entropy"):
        for steps in (4, 12):
            told = SimpleNamespace(
                output_history=False, return_dict_in_generate=False, max_length=18, mask_token_id=MASK, steps=steps, eps=1e-3,
                alg=alg, alg_temp=0.0, temperature=0.0, top_p=None, top_k=None,
            )  # fmt: skip

            def hook(step: Any, x: Any, logits: torch.Tensor) -> torch.Tensor:
                logits[..., MASK] = -torch.inf
                return logits

            out = model._sample(torch.tensor([PROMPT]), None, told, lambda step, x, logits: x, hook)
            found.append({"policy": "dream", "alg": alg, "steps": steps, "length": 12, "tokens": out[0, 6:].tolist()})
    return found


def llada2(model: Any, sampler: Path) -> list[Record]:
    without_mask(model)
    found = []
    for threshold in (0.95, 0.2):
        out = model.generate(
            torch.tensor([PROMPT]), block_length=4, steps=4, gen_length=10, threshold=threshold, mask_id=MASK, eos_id=V
        )
        found.append({"policy": "llada2", "size": 4, "threshold": threshold, "length": 10, "tokens": out[0].tolist()})
    return found


def sdar(model: Any, sampler: Path) -> list[Record]:
    """Greedy by its confidences is what top_k=1 makes impossible (all are 1), so temperature 1 with shared draws."""
    without_mask(model)
    stock, ours = script(sampler / "generate.py"), draws()
    at = SimpleNamespace(block=-1, step=-1, positions=None)
    inner = model.forward

    def forward(x: torch.Tensor, **kwargs: Any) -> Any:
        if kwargs["store_kv"]:
            at.block, at.step = at.block + 1, -1
        else:
            at.step, at.positions = at.step + 1, kwargs["position_ids"]
        return inner(x, **kwargs)

    def multinomial(probs: torch.Tensor, num_samples: int) -> torch.Tensor:
        uniform = ours.Draws.of(11).at(block=at.block, step=at.step).uniform("token", at.positions)
        return ours.categorical(probs[None].double(), uniform)[0, :, None]

    found = []
    for threshold in (0.85, 0.15):
        at.block, at.step = -1, -1
        model.forward, torch.multinomial, kept = forward, multinomial, torch.multinomial
        out = stock.block_diffusion_generate(
            model, {"input_ids": torch.tensor([PROMPT])}, MASK, gen_length=10, block_length=4, denoising_steps=4,
            temperature=1.0, confidence_threshold=threshold,
        )  # fmt: skip
        model.forward, torch.multinomial = inner, kept
        found.append(
            {
                "policy": "sdar",
                "size": 4,
                "threshold": threshold,
                "length": 10,
                "seed": 11,
                "tokens": out[0, 6:].tolist(),
            }
        )
    return found


def fast_dllm_v2(model: Any, sampler: Path) -> list[Record]:
    without_mask(model)
    found = []
    prompt = PROMPT + [11, 2, 27, 14, 9, 33, 12, 7, 25, 4]
    for threshold in (0.9, 0.2):
        for known, count in ((6, 10), (10, 14), (16, 16)):  # not 8: a prompt of one whole block is not read at all
            kwargs = dict(mask_id=MASK, threshold=threshold, small_block_size=4, block_size=8, stop_token=V)
            out = model.generate(torch.tensor([prompt[:known]]), 16, **kwargs)
            out = (out[0] if isinstance(out, tuple) else out)[0, known:].tolist()  # this copy returns more beside
            out = out[:count]  # the rest begins a block that is not written
            found.append(
                {
                    "policy": "fast-dllm-v2",
                    "size": 8,
                    "sub": 4,
                    "threshold": threshold,
                    "prompt": prompt[:known],
                    "tokens": out,
                }
            )
    return found


def diffusion_gemma(model: Any, sampler: Path) -> list[Record]:
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as stock

    from mezzotint.draws import Draws, categorical
    from mezzotint.noise import Uniform

    process, found = Uniform(range(30), V), []
    for settings in (
        dict(steps=4, bound=4.0, stability=1, confidence=1e-9, end=V),
        dict(steps=6, bound=60.0, stability=1, confidence=3.5, end=V),
        dict(steps=4, bound=4.0, stability=1, confidence=1e-9, end=None),
    ):
        at = SimpleNamespace(block=-1, step=-1, start=6)
        seeded = Draws.of(5)

        def here() -> tuple[Any, torch.Tensor]:
            positions = (at.start + 8 * at.block + torch.arange(8))[None]
            return seeded.at(block=at.block, step=max(at.step, 0)), positions

        def initialize(self: Any, batch_size: int, device: Any) -> torch.Tensor:
            if at.step < 0:
                at.block += 1
                drawn, positions = seeded.at(block=at.block), here()[1]
                return process.prior((1, 8), drawn, positions)
            drawn, positions = here()
            return process.prior((1, 8), drawn, positions)

        def multinomial(probs: torch.Tensor, num_samples: int) -> torch.Tensor:
            at.step += 1
            drawn, positions = here()
            return categorical(probs[None].double(), drawn.uniform("token", positions))[0, :, None]

        first = stock.EntropyBoundSampler.initialize_canvas
        kept, prepare = torch.multinomial, model._prepare_denoiser_inputs

        def fresh(**kwargs: Any) -> Any:
            at.step = -1
            return prepare(**kwargs)

        stock.EntropyBoundSampler.initialize_canvas, torch.multinomial = initialize, multinomial
        model._prepare_denoiser_inputs = fresh
        end = settings["end"]
        if end is None:  # a token of the second canvas of the first record ends it
            end = found[0]["tokens"][10]
        out = model.generate(
            torch.tensor([PROMPT]), max_new_tokens=24, max_denoising_steps=settings["steps"], eos_token_id=end, pad_token_id=0,
            sampler_config=stock.EntropyBoundSamplerConfig(entropy_bound=settings["bound"]),
            stability_threshold=settings["stability"], confidence_threshold=settings["confidence"],
        )  # fmt: skip
        stock.EntropyBoundSampler.initialize_canvas, torch.multinomial = first, kept
        model._prepare_denoiser_inputs = prepare
        tokens = out.sequences[0, 6:].tolist()
        tokens = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        calls = round(len([t for t in out.sequences[0, 6:].tolist() if t != 0]) / float(out.tokens_per_forward[0]))
        found.append({"policy": "diffusion-gemma", **settings, "end": end, "seed": 5, "calls": calls, "tokens": tokens})
    return found


SAMPLERS: dict[str, Callable[[Any, Path], list[Record]]] = {
    "llada": llada, "dream": dream, "llada2": llada2, "sdar": sdar, "sdar_moe": sdar, "fast_dllm_v2": fast_dllm_v2,
    "diffusion_gemma": diffusion_gemma,
}  # fmt: skip


def record(family: str, ref: Path | None, sampler: Path | None) -> None:
    path = HERE / f"{family}.json"
    golden = json.loads(path.read_text())
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model, _, _ = FAMILIES[family][0](Path(folder), ref)
        golden["samplers"] = SAMPLERS[family](model, sampler or Path())
    if sampler is not None:
        digest = hashlib.sha256((sampler / "generate.py").read_bytes()).hexdigest()
        golden["reference"]["sampler"] = {"generate.py": digest}
    path.write_text(compact(golden))
    print(family, [len(r["tokens"]) for r in golden["samplers"]], path.stat().st_size, "bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="+", choices=SAMPLERS)
    parser.add_argument("--ref", type=Path)
    parser.add_argument("--sampler", type=Path)
    given = parser.parse_args()
    sys.path.insert(0, str(HERE))
    for name in given.families:
        record(name, given.ref, given.sampler)

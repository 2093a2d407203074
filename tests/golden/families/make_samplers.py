"""Record what a family's own sampler writes with the tiny checkpoint of `make.py`, as `samplers` in the same golden.

    python make_samplers.py FAMILY... [--ref FOLDER] [--sampler FOLDER]     FOLDER of --sampler: where its sampler's files lie

Randomness is shared: where the sampler draws, it is handed our counted draws at the same block, step and position. One
thing is imposed on it: MASK's logit is minus infinity, as it always is in ours.
"""

# ruff: noqa: C408, B023, RUF005  # calls as configurations; closures that are called before their loop goes on; sums of lists

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

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


# (seed, steps that the argmax must stay): a canvas of the random network comes to rest before its last step, and the stock
# sampler writes the same in float64. Random weights make chaotic canvases: with other seeds its own text depends on the rounding.
STOPS = ((3, 1), (4, 1), (18, 1), (26, 1), (26, 2), (32, 1))


def diffusion_gemma(model: Any, sampler: Path) -> list[Record]:
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as stock

    from mezzotint.draws import Draws, categorical
    from mezzotint.noise import Uniform

    process, found = Uniform(range(30), V), []
    for settings in (
        dict(steps=4, bound=4.0, stability=1, confidence=1e-9, end=V),
        dict(steps=6, bound=60.0, stability=1, confidence=3.5, end=V),
        dict(steps=4, bound=4.0, stability=1, confidence=1e-9, end=None),
        *(
            dict(steps=24, bound=60.0, stability=s, confidence=2.0, end=V, seed=n, low=1e-3, high=1e-2)
            for n, s in STOPS
        ),
    ):
        at = SimpleNamespace(block=-1, step=-1, start=6)
        seeded = Draws.of(settings.setdefault("seed", 5))

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
            t_min=settings.get("low", 0.4), t_max=settings.get("high", 0.8),
            stability_threshold=settings["stability"], confidence_threshold=settings["confidence"],
        )  # fmt: skip
        stock.EntropyBoundSampler.initialize_canvas, torch.multinomial = first, kept
        model._prepare_denoiser_inputs = prepare
        tokens = out.sequences[0, 6:].tolist()
        tokens = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        calls = round(len([t for t in out.sequences[0, 6:].tolist() if t != 0]) / float(out.tokens_per_forward[0]))
        found.append({"policy": "diffusion-gemma", **settings, "end": end, "calls": calls, "tokens": tokens})
    return found


def here(ours: Any, seed: int, at: Any, positions: torch.Tensor, purpose: str = "token") -> torch.Tensor:
    return ours.Draws.of(seed).at(block=at.block, step=at.step).uniform(purpose, positions[None])


def sedd(model: Any, sampler: Path) -> list[Record]:
    """Its predictor and corrector; the prompt is projected in at every step, as its run_sample_cond.py does."""
    import catsample  # noqa: F401  # of the folder that make.py has put on the path
    import graph_lib
    import noise_lib
    import sampling

    ours, config = (
        draws(),
        SimpleNamespace(**{k: SimpleNamespace(**v) for k, v in model.config.items() if k in ("graph", "noise")}),
    )
    config.tokens = model.config["tokens"]
    graph, noise = graph_lib.get_graph(config, "cpu"), noise_lib.get_noise(config)
    at, positions, found = SimpleNamespace(block=0, step=0), torch.arange(18), []

    def categorical(probs: torch.Tensor) -> torch.Tensor:
        token = ours.categorical(probs.double().clamp(min=0), here(ours, 3, at, positions))
        at.step += 1
        return token

    def prompted(x: torch.Tensor) -> torch.Tensor:
        x[:, :6] = torch.tensor(PROMPT)
        return x

    def limit(rows: int, count: int) -> torch.Tensor:
        if graph.absorb:
            return torch.full((rows, count), graph.dim - 1)
        return (here(ours, 3, at, positions, "noise-token") * graph.dim).long()

    sampling.sample_categorical, graph.sample_limit = categorical, limit
    for steps in (4, 16):
        at.step = 0
        x = sampling.get_pc_sampler(graph, noise, (1, 18), "analytic", steps, proj_fun=prompted)(model)
        found.append({"policy": "sedd", "steps": steps, "length": 12, "seed": 3, "tokens": x[0, 6:].tolist()})
    return found


def stub(*names: str) -> None:
    """Modules that a file imports and its sampler does not use."""
    for name in names:
        made = MagicMock()
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        made.__path__ = []
        sys.modules[name] = made


def lightning(*names: str) -> None:
    stub("hydra", "hydra.utils", "torchmetrics", "dataloader", "models", "omegaconf", *names)
    made = sys.modules["lightning"] = types.ModuleType("lightning")
    made.LightningModule = object


def udlm(model: Any, sampler: Path) -> list[Record]:
    """Its `_diffusion_sample`, without weights of its own: the network is told the prompt at every call."""
    lightning("mamba_ssm", "mamba_ssm.utils", "mamba_ssm.utils.generation", "classifier", "torchmetrics.aggregation")
    sys.modules["torchmetrics"].aggregation.MeanMetric = object
    sys.path.insert(0, str(sampler))
    stock, noise = script(sampler / "diffusion.py"), script(sampler / "noise_schedule.py")
    ours, positions, found = draws(), torch.arange(18), []
    at, process = SimpleNamespace(block=0, step=0), stock.Diffusion

    def backbone(x: torch.Tensor, sigma: torch.Tensor, cond: Any, x_emb: Any) -> torch.Tensor:
        x = x.clone()
        x[:, :6] = torch.tensor(PROMPT)
        return model(x, sigma, cond=cond).logits

    def categorical(probs: torch.Tensor) -> torch.Tensor:
        token = ours.categorical(probs.double(), here(ours, 3, at, positions))
        at.step += 1
        return token

    stock._sample_categorical = categorical
    classes = model.config.cfg_num_classes
    for steps, gamma in ((4, 1.0), (16, 1.0)) if classes < 0 else ((8, 1.0), (8, 2.5)):
        at.step = 0
        told = {} if classes < 0 else {"guidance": SimpleNamespace(method="cfg", gamma=gamma)}
        config = SimpleNamespace(
            sampling=SimpleNamespace(batch_size=1, steps=steps, use_float64=False, use_cache=False),
            model=SimpleNamespace(length=18), data=SimpleNamespace(num_classes=classes), **told,
        )  # fmt: skip
        it = SimpleNamespace(
            config=config, device="cpu", T=0, noise=noise.LogLinearNoise(), diffusion="uniform", vocab_size=V,
            limiting_distribution=1 / V, parameterization="d3pm", subs_masking=False, time_conditioning=True, backbone=backbone,
            _sample_prior=lambda rows, count: (here(ours, 3, at, positions, "noise-token") * V).long(),
        )  # fmt: skip
        for name in ("forward", "_process_sigma", "_compute_posterior", "_ddpm_denoise", "_cfg_denoise"):
            setattr(it, name, types.MethodType(getattr(process, name), it))
        x = process._diffusion_sample(it, cond=None if classes < 0 else torch.tensor([1]))
        record = {"policy": "udlm", "steps": steps, "length": 12, "seed": 3, "tokens": x[0, 6:].tolist()}
        found.append(record if classes < 0 else record | {"class": 1, "guidance": gamma})
    return found


def bd3lm(model: Any, sampler: Path) -> list[Record]:
    """Its `_semi_ar_sampler`, first hitting: of the time it only needs that one position a step is revealed. Prompt: BOS.

    Blocks, and the whole text as one block (MDLM).
    """
    lightning("metrics", "utils")
    sys.path.insert(0, str(sampler))
    stock, noise = script(sampler / "diffusion.py"), script(sampler / "noise_schedule.py")
    ours, found, process = draws(), [], stock.Diffusion
    for seed, size in ((3, 4), (4, 4), (3, 12)):
        at = SimpleNamespace(block=0, step=0, first=0)

        def categorical(probs: torch.Tensor) -> torch.Tensor:
            return ours.categorical(probs, here(ours, seed, at, at.first + torch.arange(size)))

        def randint(low: int, high: torch.Tensor, shape: Any) -> torch.Tensor:
            """Which of the masked positions: the one whose uniform number is the largest."""
            masked = (at.seen == MASK).nonzero()[:, 0]
            chance = here(ours, seed, at, at.first + torch.arange(size), "order")[0, masked]
            at.step += 1
            return chance.argmax()[None]

        def backbone(x: torch.Tensor, sigma: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            at.seen = x[0, -size:]
            if (first := x.shape[1] - size) != at.first:
                at.first, at.block, at.step = first, at.block + 1, 0
            if size == 12:
                return model.alone(x, sigma).logits
            return model(x, sigma, sample_mode=True).logits

        it = SimpleNamespace(
            config=SimpleNamespace(
                algo=SimpleNamespace(name="bd3lm", backbone="hf_dit"), model=SimpleNamespace(length=12),
                sampling=SimpleNamespace(kv_cache=False, first_hitting=True, nucleus_p=1.0, var_length=False),
            ),
            device="cpu", dtype=torch.float32, block_size=size, cross_attn=size < 12, parameterization="subs", mask_index=MASK,
            neg_infinity=-1e6, time_conditioning=False, noise=noise.LogLinearNoise(), backbone=backbone,
            tokenizer=SimpleNamespace(bos_token_id=PROMPT[0]),
        )  # fmt: skip
        for name in ("forward", "_process_sigma", "_subs_parameterization", "_sample_prior", "_nucleus_sample",
                     "_sigma_from_p", "_ddpm_caching_update"):  # fmt: skip
            setattr(it, name, types.MethodType(getattr(process, name), it))
        stock._sample_categorical, torch.randint, kept = categorical, randint, torch.randint
        x, _ = process._semi_ar_sampler(it, 1, 100, 12 // size, 12)
        torch.randint = kept
        record = {
            "policy": "first-hitting",
            "prompt": PROMPT[:1],
            "length": 11,
            "seed": seed,
            "tokens": x[0, 1:].tolist(),
        }
        found.append(record | ({"size": size} if size < 12 else {"whole": True}))
    return found


def a2d(model: Any, sampler: Path) -> list[Record]:
    """dllm's two samplers, for models trained over blocks and over whole texts; prompts that fill no block."""
    without_mask(model)
    for name in ("", "/core"):
        package(sampler / f"dllm{name}", f"dllm{name}".replace("/", "."))
    stock, found = importlib.import_module("dllm.core.samplers"), []
    named = SimpleNamespace(mask_token_id=MASK, bos_token_id=1, eos_token_id=0, pad_token_id=0)
    for steps, known in ((3, 6), (4, 5), (7, 4)):
        out = stock.BD3LMSampler(model, named).sample(
            [PROMPT[:known]], max_new_tokens=10, block_size=4, steps_per_block=steps
        )
        tokens = out[0, -10:].tolist()
        found.append(
            {"policy": "a2d", "size": 4, "steps": steps, "prompt": PROMPT[:known], "length": 10, "tokens": tokens}
        )
    for steps, size in ((5, 12), (18, 12), (9, 4)):
        out = stock.MDLMSampler(model, named).sample([PROMPT], max_new_tokens=12, block_size=size, steps=steps)
        record = {"policy": "a2d", "whole": True, "block": size, "steps": steps, "length": 12}
        found.append(record | {"tokens": out[0, 6:].tolist()})
    return found


SAMPLERS: dict[str, Callable[[Any, Path], list[Record]]] = {
    "llada": llada, "dream": dream, "llada2": llada2, "sdar": sdar, "sdar_moe": sdar, "fast_dllm_v2": fast_dllm_v2,
    "diffusion_gemma": diffusion_gemma, "sedd": sedd, "sedd_uniform": sedd, "udlm": udlm, "udlm_classes": udlm, "bd3lm": bd3lm,
    "a2d": a2d,
}  # fmt: skip


# where a sampler does not lie in a generate.py
FILES = {
    "bd3lm": ("diffusion.py", "noise_schedule.py"), "udlm": ("diffusion.py", "noise_schedule.py"),
    "udlm_classes": ("diffusion.py", "noise_schedule.py"),
    "a2d": tuple(f"dllm/core/samplers/{name}.py" for name in ("bd3lm", "mdlm", "utils")) + ("dllm/core/schedulers/alpha.py",),
} | dict.fromkeys(("sedd", "sedd_uniform"), ("sampling.py", "graph_lib.py", "noise_lib.py"))  # fmt: skip


def record(family: str, ref: Path | None, sampler: Path | None) -> None:
    path = HERE / f"{family}.json"
    golden = json.loads(path.read_text())
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model, _, _ = FAMILIES[family][0](Path(folder), ref)
        golden["samplers"] = SAMPLERS[family](model, sampler or Path())
    if sampler is not None:
        files = {
            name: hashlib.sha256((sampler / name).read_bytes()).hexdigest()
            for name in FILES.get(family, ("generate.py",))
        }
        golden["reference"]["sampler"] = files
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

"""Our engine and other people's samplers on the same weights: pairs of processes that take turns.

    python benchmarks/engine.py --peers FOLDER [--pairs 5]                    (make bench-engine PEERS=FOLDER)

FOLDER holds a virtual environment a peer, by its name: transformers (DiffusionGemma, 5.24), dllm (BD3LMSampler), diffusers
(LLaDA2Pipeline), dlmserve (denoise). One that is missing, or that does not run, is left out, and the report says why.

Both sides read one tiny checkpoint of random weights (Llama, or DiffusionGemma in its own layout), get the same prompts, one
number of threads, float32, and decode by the same rule: same canvases, same calls, and where nothing is drawn by chance the
same text, which is compared. A process measures every cell (rows x context); timed is the whole answer, prompt included.
The costliest cells write less (`Work`), on both sides alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from math import log2
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple

import report
import torch
from torch import Tensor

VOCABULARY, CANVAS = 2048, 32
MASK = VOCABULARY - 1
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "rope_theta": 10000.0, "attention_bias": False, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GEMMA = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 8192, "sliding_window": 512, "num_experts": 8,
    "top_k_experts": 2, "moe_intermediate_size": 256, "global_head_dim": 64, "num_global_key_value_heads": 2,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
VISION = {
    "model_type": "gemma4_vision", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
COLOURS = ("#1f6f8b", "#c0562b", "#6b7a3a", "#555555", "#8a4f9e", "#b8860b")
SHORT = 0.4  # seconds: cells that take less are run again until this much is measured


class Work(NamedTuple):
    """What a cell asks of both sides: canvases of CANVAS tokens, and steps a canvas."""

    canvases: int
    steps: int


Asked = tuple[int, int]  # a cell: rows, context
Answer = tuple[list[list[int]], int]  # tokens a row, calls of the network that denoise a canvas
Decode = Callable[[list[list[int]], Work], Answer]


@dataclass(frozen=True)
class Peer:
    """goal: ratio asked for, at `context` where one is named. cached: does it keep what is read, at least for a canvas? drawn: is
    its text by chance? why: what decides the ratio."""

    open: Callable[[Path], Decode]
    what: str
    why: str
    goal: float
    cached: bool
    visibility: str = ""  # of our side, in the checkpoint's facts
    context: int | None = None
    drawn: bool = False


def work_of(peer: Peer, rows: int, context: int) -> Work:
    """Four canvases of 8 steps, fewer where a batch reads much; less still where a side reads all the text at every step."""
    positions = rows * context
    if peer.cached:
        return Work(4, 8) if positions <= 8192 else Work(2, 8)
    return Work(2, 8) if positions <= 1024 else Work(2, 4) if positions <= 8192 else Work(1, 3)


# -- the checkpoint ----------------------------------------------------------------------------------------------------


def write_llama(folder: Path, visibility: str) -> None:
    """A Llama that both sides read; what only we are told lies under `mezzotint` in config.json.

    MASK's logit is far below every other, since ours never writes it: one coordinate of the stream is constant, and only
    MASK's row of the head listens to it.
    """
    from safetensors.torch import save_file

    from mezzotint.checkpoints.tokenizer import Tokenizer
    from mezzotint.model.config import ModelConfig
    from mezzotint.train.trainer import initialise

    s = SHAPE
    config = ModelConfig(
        VOCABULARY, s["hidden_size"], s["num_hidden_layers"], s["num_attention_heads"], s["num_key_value_heads"], s["head_dim"],
        s["intermediate_size"], s["max_position_embeddings"], rope_theta=s["rope_theta"], norm_eps=s["rms_norm_eps"],
        tied_head=False,
    )  # fmt: skip
    made = {name: x.detach().clone().contiguous() for name, x in initialise(config, 0).slots().items()}
    random = torch.Generator().manual_seed(0)
    for name, x in made.items():
        if x.dim() == 2:
            x.normal_(0, x.shape[-1] ** -0.5, generator=random)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            x[0] = 0
    made["model.embed_tokens.weight"][:, 0] = 1
    made["lm_head.weight"][:, 0] = 0
    made["lm_head.weight"][MASK, 0] = -1e4
    folder.mkdir(parents=True)
    save_file(made, folder / "model.safetensors", {"format": "pt"})
    facts = {
        "family": "a2d", "visibility": visibility, "shift": 0, "canvas_length": CANVAS, "trained_canvas": True, "policy": "a2d",
        "mask_id": MASK,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(SHAPE | {"model_type": "a2d-llama", "mezzotint": facts}))
    Tokenizer.of_tokens([chr(ord("A") + i) for i in range(30)]).to_file(folder / "tokenizer.json")


def write_gemma(folder: Path) -> None:
    """In the peer's environment: transformers writes DiffusionGemma as it starts it."""
    import transformers

    config = transformers.DiffusionGemmaConfig(text_config=GEMMA, vision_config=VISION, canvas_length=CANVAS)
    torch.manual_seed(0)
    transformers.DiffusionGemmaForBlockDiffusion(config).save_pretrained(folder)


# -- theirs ------------------------------------------------------------------------------------------------------------


def counted(network: torch.nn.Module) -> Callable[[], int]:
    """How often this module has been called since the last question."""
    calls = [0]
    network.register_forward_pre_hook(lambda *args: calls.__setitem__(0, calls[0] + 1))

    def since() -> int:
        found, calls[0] = calls[0], 0
        return found

    return since


def llama(folder: Path, cls: Any, config: Any) -> Any:
    """Their Llama `cls` with the checkpoint's weights."""
    from safetensors.torch import load_file

    network = cls(config(**SHAPE, attn_implementation="sdpa"))
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.eval()


def transformers_gemma(folder: Path) -> Decode:
    """DiffusionGemma's `generate`; it stops by entropy, which random weights never do."""
    import transformers

    network = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(folder).eval()
    calls = counted(network.model.decoder)

    def decode(prompts: list[list[int]], work: Work) -> Answer:
        torch.manual_seed(0)
        out = network.generate(
            torch.tensor(prompts),
            max_new_tokens=work.canvases * CANVAS,
            max_denoising_steps=work.steps,
            eos_token_id=None,
        )
        return out.sequences[:, len(prompts[0]) :].tolist(), calls()

    return decode


def dllm_blocks(folder: Path) -> Decode:
    from dllm.core.samplers import BD3LMSampler, BD3LMSamplerConfig
    from dllm.pipelines.a2d import A2DLlamaConfig, A2DLlamaLMHeadModel

    network = llama(folder, A2DLlamaLMHeadModel, A2DLlamaConfig)
    # the sampler asks a tokenizer for these alone; prompts are whole blocks, so nothing is padded
    sampler = BD3LMSampler(
        network, SimpleNamespace(mask_token_id=MASK, pad_token_id=-1, bos_token_id=None, eos_token_id=None)
    )
    calls = counted(network)

    def decode(prompts: list[list[int]], work: Work) -> Answer:
        asked = BD3LMSamplerConfig(
            max_new_tokens=work.canvases * CANVAS, block_size=CANVAS, steps_per_block=work.steps, return_dict=False
        )
        out = sampler.sample(prompts, asked)
        return out[:, len(prompts[0]) :].tolist(), calls() - work.canvases  # it reads all there is before every block

    return decode


class BlockMasked(torch.nn.Module):
    """A Llama under LLaDA2's mask: a position sees its own block and those before. The pipeline's own mask names padding only."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.device = network, torch.device("cpu")
        self.masks: dict[int, Tensor] = {}

    def forward(self, tokens: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        length = tokens.shape[1]
        if length not in self.masks:
            block = torch.arange(length) // CANVAS
            self.masks[length] = (block[:, None] >= block)[None, None]
        mask = self.masks[length].expand(len(tokens), -1, -1, -1)
        return self.network(tokens, attention_mask=mask, position_ids=position_ids, use_cache=False)


def diffusers_pipeline(folder: Path) -> Decode:
    import transformers
    from diffusers import BlockRefinementScheduler, LLaDA2Pipeline

    network = BlockMasked(llama(folder, transformers.LlamaForCausalLM, transformers.LlamaConfig))
    pipeline = LLaDA2Pipeline(network, BlockRefinementScheduler(block_length=CANVAS))
    pipeline.set_progress_bar_config(disable=True)
    calls = counted(network)

    def decode(prompts: list[list[int]], work: Work) -> Answer:
        out = pipeline(
            input_ids=torch.tensor(prompts), gen_length=work.canvases * CANVAS, block_length=CANVAS,
            num_inference_steps=work.steps, threshold=0.95, editing_threshold=None, temperature=0.0, mask_token_id=MASK,
            eos_token_id=None, output_type="seq", use_chat_template=False,
        )  # fmt: skip
        return out.sequences.tolist(), calls()

    return decode


def dlmserve_denoise(folder: Path) -> Decode:
    import transformers
    from dlmserve.denoise_loop import denoise
    from dlmserve.sampler import SamplingParams

    network = llama(folder, transformers.LlamaForCausalLM, transformers.LlamaConfig)
    for layer in network.model.layers:  # a LLaDA reads both ways
        layer.self_attn.is_causal = False
    calls = counted(network)

    def decode(prompts: list[list[int]], work: Work) -> Answer:
        asked = SamplingParams(
            num_denoising_steps=work.canvases * work.steps, gen_length=work.canvases * CANVAS, block_length=CANVAS
        )
        out = denoise(network, torch.tensor(prompts), None, asked, MASK)
        return out[:, len(prompts[0]) :].tolist(), calls()

    return decode


PEERS = {
    "transformers": Peer(
        transformers_gemma, "`DiffusionGemmaForBlockDiffusion.generate`; our policy `diffusion-gemma`",
        "Both read a prompt once, keep it, and then compute canvases alone in float32: the products are the same, and more than "
        "half of either side's time at this width, so three times is out of reach without other arithmetic. What lies around "
        "them costs us about what it costs them: of it, our logits in float64 and draws that give a row the same text in any "
        "batch are what theirs does without.",
        3, cached=True, drawn=True,
    ),
    "dllm": Peer(
        dllm_blocks, "`BD3LMSampler`; our policy `a2d`",
        "It reads the whole text anew for every canvas and copies its cache at every step; we read once and keep. The longer "
        "the text beside the canvas, the more that is worth; where it is short, both compute the same canvases.",
        5, cached=True, visibility="blocks-after-prompt", context=1024,
    ),
    "diffusers": Peer(
        diffusers_pipeline, "`LLaDA2Pipeline`; our policy `llada2`, equally many a step at least",
        "It reads the whole text at every step, we once. So the ratio grows with the text and is at most about the number of "
        "calls, which the costliest cells keep small.",
        5, cached=False, visibility="blocks-after-prompt",
    ),
    "dlmserve": Peer(
        dlmserve_denoise, "`denoise`; our policy `llada-blocks`",
        "A LLaDA sees the whole text at every step, so neither side can keep anything without changing what is written: products "
        "and attention are the same, for all positions. What we save is the head and the softmax over the prompt, and that is "
        "not a multiple.",
        3, cached=False, visibility="full",
    ),
}  # fmt: skip


# -- ours --------------------------------------------------------------------------------------------------------------


def ours(folder: Path, name: str, threads: int) -> Decode:
    import mezzotint as mz
    from mezzotint.draws import Draws
    from mezzotint.sampler.blocks import block_frames
    from mezzotint.sampler.decoding import POLICIES, Decoding, fixed_steps, fixed_steps_in_blocks
    from mezzotint.sampler.loop import Sampler

    engine = mz.Engine(mz.load(folder), threads=threads)
    network, process = engine.denoiser, engine.checkpoint.process

    def policy(work: Work) -> Decoding:
        if name == "dlmserve":
            whole, steps = work.canvases * CANVAS, work.canvases * work.steps
            return Decoding(fixed_steps_in_blocks(CANVAS), num_steps=steps, canvas_length=whole)
        own = {"transformers": "diffusion-gemma", "dllm": "a2d", "diffusers": "llada2"}[name]
        found = replace(POLICIES[own](), num_steps=work.steps, canvas_length=CANVAS)
        return replace(found, accept=found.accept | fixed_steps()) if name == "diffusers" else found

    def decode(prompts: list[list[int]], work: Work) -> Answer:
        sampler = Sampler(network, process, policy(work), engine.banned)
        tokens: list[list[int]] = [[] for _ in prompts]
        calls = 0
        draws = Draws.of(list(range(len(prompts))))
        with torch.inference_mode():
            for frame in block_frames(sampler, network, prompts, work.canvases * CANVAS, draws):
                tokens[frame.row] += frame.tokens[: frame.committed]
                calls += frame.kind == "denoise" and frame.row == 0
        return tokens, calls

    return decode


# -- a process ---------------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """Of one process: seconds an answer of all rows, calls that denoise, tokens a row, the share of products and attention in
    those seconds (None: not asked)."""

    seconds: float
    calls: int
    tokens: list[list[int]]
    products: float | None


def measure(cells: Sequence[Asked], args: argparse.Namespace) -> dict[str, Any]:
    name, side, work, threads = args.only, args.side, args.work, args.threads
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    torch.set_num_threads(threads)
    prompts = json.loads((work / "prompts.json").read_text())
    peer = PEERS[name]
    decode = ours(work / name, name, threads) if side == "ours" else peer.open(work / name)
    decode([prompts[0][:CANVAS]], Work(1, 2))
    found = []
    for rows, context in cells:
        given, asked, times = [row[:context] for row in prompts[:rows]], work_of(peer, rows, context), list[float]()
        while not times or (sum(times) < SHORT and len(times) < 5):
            began = clock()
            tokens, calls = decode(given, asked)
            times.append(clock() - began)
        share = products(lambda g=given, a=asked: decode(g, a)) / min(times) if args.shares and min(times) < 2 else None
        found.append(Cell(min(times), calls, tokens, share))
    names = {"ours": ("torch",)}.get(side, (name, "transformers", "torch"))
    return {"cells": found, "versions": " ".join(f"{n} {v}" for n in dict.fromkeys(names) if (v := version(n)))}


def products(run: Callable[[], object]) -> float:
    """Seconds of matrix products and attention."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    names = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
    counted = [
        e for e in seen.key_averages() if e.key in names or "scaled_dot_product" in e.key or "_grouped_mm" in e.key
    ]
    return sum(e.self_cpu_time_total for e in counted) / 1e6


def version(name: str) -> str:
    """Of an installed package, "" for a folder of source."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as find

    try:
        return find(name)
    except PackageNotFoundError:
        return ""


# -- pairs and the report ----------------------------------------------------------------------------------------------


def child(python: Path | str, words: Sequence[object], limit: float) -> Any:
    """What a process of this script says last, parsed. Raises RuntimeError with the end of what it said if it fails."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"PYTHONPATH": str(report.ROOT)} if str(python) == sys.executable else {}
    command = [str(python), __file__, *map(str, words)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=env)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"it took longer than {limit:.0f} s") from error
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def prepare(name: str, python: Path, work: Path, limit: float) -> None:
    if name != "transformers":
        write_llama(work / name, PEERS[name].visibility)
        return
    from mezzotint.checkpoints.tokenizer import Tokenizer

    child(python, ["--side", "write", "--work", work, "--only", name], limit)
    Tokenizer.of_tokens([chr(ord("A") + i) for i in range(30)]).to_file(work / name / "tokenizer.json")


@dataclass
class Found:
    """Of one peer: pairs (ours, theirs) a cell, and what ran."""

    pairs: dict[Asked, list[tuple[Cell, Cell]]]
    versions: str

    def ratios(self, cell: Asked) -> list[float]:
        return [theirs.seconds / ours.seconds for ours, theirs in self.pairs[cell]]


def pair_up(name: str, python: Path, work: Path, cells: Sequence[Asked], args: argparse.Namespace) -> Found:
    """Raises RuntimeError where one side does not run."""
    prepare(name, python, work, args.limit)
    found = Found({cell: [] for cell in cells}, "")
    asked = [
        "--work",
        work,
        "--only",
        name,
        "--threads",
        args.threads,
        "--batches",
        args.batches,
        "--contexts",
        args.contexts,
    ]
    for number in range(args.pairs):
        order = ("theirs", "ours") if number % 2 == 0 else ("ours", "theirs")
        more = ["--shares"] if number == 0 else []
        run = {
            side: child(sys.executable if side == "ours" else python, ["--side", side, *asked, *more], args.limit)
            for side in order
        }
        found.versions = run["theirs"]["versions"]
        for cell, a, b in zip(cells, run["ours"]["cells"], run["theirs"]["cells"], strict=True):
            found.pairs[cell].append((Cell(*a), Cell(*b)))
        shown = ", ".join(f"{rows}x{context} {found.ratios((rows, context))[-1]:.2f}" for rows, context in cells)
        print(f"{name}, pair {number + 1} of {args.pairs}: {shown}", file=sys.stderr, flush=True)
    return found


def same(peer: Peer, ours: Cell, theirs: Cell) -> str:
    """Did both write the same?"""
    if peer.drawn:
        return "drawn by chance"
    equal = [
        a == b for mine, other in zip(ours.tokens, theirs.tokens, strict=True) for a, b in zip(mine, other, strict=True)
    ]
    return "the same" if all(equal) else f"{sum(equal) / len(equal):.0%} of the tokens"


def section(name: str, found: Found) -> list[str]:
    peer, rows = PEERS[name], []
    for (batch, context), pairs in found.pairs.items():
        ours, theirs = pairs[0]
        work, ratios = work_of(peer, batch, context), found.ratios((batch, context))
        done = batch * work.canvases
        rows.append([
            batch, context, f"{work.canvases} x {work.steps}", f"{ours.calls}, {theirs.calls}", same(peer, ours, theirs),
            f"{median(done / a.seconds for a, _ in pairs):.3g}", f"{median(done / b.seconds for _, b in pairs):.3g}",
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            *("" if cell.products is None else f"{cell.products:.0%}" for cell in (ours, theirs)),
        ])  # fmt: skip
    head = [
        "rows", "context", "canvases x steps", "calls: ours, theirs", "text", "ours, canvases/s", "theirs", "ratio",
        "products: ours", "theirs",
    ]  # fmt: skip
    return [
        f"## {name}",
        "",
        f"{peer.what}. {found.versions}.",
        "",
        *report.table(head, rows),
        "",
        verdict(name, found),
    ]


def verdict(name: str, found: Found) -> str:
    peer = PEERS[name]
    cells = [cell for cell in found.pairs if peer.context is None or cell[1] == peer.context] or list(found.pairs)
    middle = {cell: median(found.ratios(cell)) for cell in cells}
    below = [f"{b} x {c}" for (b, c), ratio in middle.items() if ratio < peer.goal]
    lost = [f"{b} x {c}" for (b, c) in found.pairs if median(found.ratios((b, c))) < 1]
    where = "" if peer.context is None else f" at context {peer.context}"
    said = f"Goal {peer.goal:g} times{where}: reached in {len(middle) - len(below)} of {len(middle)} cells"
    said += f", not in {', '.join(below)}." if below else "."
    return (
        said
        + (f" Slower than theirs in {', '.join(lost)}." if lost else " Nowhere slower than theirs.")
        + f" {peer.why}"
    )


def draw(found: dict[str, Found]) -> str:
    """Ratios by context, a line for every number of rows. -> its path from the report."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "engine"
    figure, axes = plt.subplots(
        1, len(found), figsize=(2.6 * len(found) + 0.6, 3), sharey=True, squeeze=False, constrained_layout=True
    )
    for axis, (name, one) in zip(axes[0], found.items(), strict=True):
        contexts = sorted({context for _, context in one.pairs})
        for rows, colour in zip(sorted({rows for rows, _ in one.pairs}), COLOURS, strict=False):
            all_ratios = [one.ratios((rows, context)) for context in contexts]
            middle = [median(ratios) for ratios in all_ratios]
            spread = [[m - min(r) for m, r in zip(middle, all_ratios, strict=True)],
                      [max(r) - m for m, r in zip(middle, all_ratios, strict=True)]]  # fmt: skip
            places = [log2(context) for context in contexts]
            axis.errorbar(
                places, middle, spread, marker="o", markersize=4, capsize=2, color=colour, label=f"{rows} rows"
            )
        axis.axhline(PEERS[name].goal, linestyle=":", color="grey")
        axis.axhline(1, linewidth=0.8, color="black")
        axis.set(title=name, xlabel="context", yscale="log")
        axis.set_xticks([log2(context) for context in contexts], [str(context) for context in contexts])
        axis.spines[["top", "right"]].set_visible(False)
    ticks = [1, 2, 3, 5, 10, 20]
    axes[0][0].set_yticks(ticks, [str(t) for t in ticks], minor=False)
    axes[0][0].set_ylabel("ours over theirs (dotted: goal)")
    axes[0][0].legend(frameon=False, fontsize=8)
    path = report.ROOT / "docs" / "images" / "engine.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return os.path.relpath(path, report.RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder with a virtual environment a peer")
    parser.add_argument("--only", default=",".join(PEERS), help="peers, by name")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batches", default="1,4,8")
    parser.add_argument("--contexts", default="128,1024,4096", help=f"multiples of {CANVAS}")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: with one thread, on a busy machine"
    )
    parser.add_argument("--limit", type=float, default=600, help="seconds a process may take")
    parser.add_argument("--side", choices=("ours", "theirs", "write"), help=argparse.SUPPRESS)
    parser.add_argument("--shares", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    cells = [(int(rows), int(context)) for context in args.contexts.split(",") for rows in args.batches.split(",")]
    if args.side == "write":
        write_gemma(args.work / args.only)
        print("null")
        return
    if args.side:
        with redirect_stdout(sys.stderr):
            found = measure(cells, args)
        print(json.dumps(found))
        return
    if args.peers is None:
        raise SystemExit("give --peers, a folder with a virtual environment a peer (make bench-engine PEERS=FOLDER)")
    if wrong := [context for _, context in cells if context < CANVAS or context % CANVAS]:
        raise SystemExit(f"context {wrong[0]} is no multiple of {CANVAS}")
    compare(args, cells)


def compare(args: argparse.Namespace, cells: Sequence[Asked]) -> None:
    found: dict[str, Found] = {}
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        random = torch.Generator().manual_seed(0)
        shape = (max(rows for rows, _ in cells), max(context for _, context in cells))
        (work / "prompts.json").write_text(json.dumps(torch.randint(3, MASK, shape, generator=random).tolist()))
        for name in args.only.split(","):
            python = (args.peers / name).absolute() / "bin" / "python"
            try:
                if not python.exists():
                    raise RuntimeError("its environment is not there")
                found[name] = pair_up(name, python, work, cells, args)
            except RuntimeError as error:
                left_out.append(f"Left out: {name}: {error}.")
                print(left_out[-1], file=sys.stderr)
    if not found:
        raise SystemExit("no peer ran; nothing is written")
    lines = [
        f"Pairs of processes that take turns: {args.pairs} a peer, {args.threads} threads, {args.clock} time, float32, the same "
        f"weights: width {SHAPE['hidden_size']}, {SHAPE['num_hidden_layers']} layers, vocabulary {VOCABULARY}, canvases of "
        f"{CANVAS}; DiffusionGemma has {GEMMA['num_experts']} experts, {GEMMA['top_k_experts']} a token. Timed: the whole "
        "answer, prompt included. A ratio is ours over theirs in canvases a second, the median of pairs (least to most). "
        "Products: the share of matrix products and attention in a side's time.", "",
    ]  # fmt: skip
    for name, one in found.items():
        lines += [*section(name, one), ""]
    lines += [*left_out, *([""] if left_out else []), f"![Ratios by context]({draw(found)})"]
    report.write("engine", "Our engine and other people's samplers", lines)


if __name__ == "__main__":
    main()

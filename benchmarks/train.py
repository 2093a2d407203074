"""Speed of training: our Trainer against a plain loop around transformers' Llama and, if given, against dllm's trainer.

    python benchmarks/train.py [--dllm FOLDER] [--repeats 5] [--steps 200] [--threads 2]      (make bench-train DLLM=FOLDER)

One network (Llama, 6 layers, width 256, vocabulary 8,192), one start, one order of data (batches of 8 x 256 tokens of the
standard library's source), one objective (each row hides a share t of its tokens, t even over [0.001, 1]; cross-entropy of
the hidden ones over t, a mean over all tokens), AdamW, bfloat16 autocast over float32 weights where the processor multiplies
bfloat16, else float32. Arms alternate, each run in a process of its own; repeat r has seed r modulo 3. Counted are the
tokens of steps 20 to the last; the loss afterwards is on the same held-out rows with the same tokens hidden, in float32.

dllm runs from FOLDER, with FOLDER/.venv/bin/python where that exists (it pins its own transformers).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import report
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

VOCABULARY, LENGTH, ROWS, HELD_OUT = 8192, 256, 8, 64
MASK, PAD = VOCABULARY - 1, VOCABULARY - 2
LOWEST = 1e-3  # level
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 8, "max_position_embeddings": LENGTH, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "rope_theta": 10000.0,
}  # fmt: skip
RATE, WARMUP, BETAS, CLIP = 1e-3, 20, (0.9, 0.98), 1.0
SEEDS = 3
FIRST = 20  # steps that are not counted
BFLOAT16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def hide(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """noisy int64 `[B, T]`, hidden bool `[B, T]`, level `[B, 1]`."""
    level = LOWEST + (1 - LOWEST) * torch.rand(len(clean), 1, generator=generator)
    hidden = torch.rand(clean.shape, generator=generator) < level
    return clean.masked_fill(hidden, MASK), hidden, level


def nats(logits: Tensor, clean: Tensor, hidden: Tensor, level: Tensor) -> Tensor:
    """The objective of whole logits `[B, T, V]`, a scalar."""
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), clean, reduction="none")
    return (each * hidden / level).sum() / clean.numel()


# -- arms: each trains and returns the moment at which each step ended, and the logits of noisy rows --------------------

Logits = Callable[[Tensor], Tensor]


def ours(rows: Tensor, start: dict[str, Tensor], seed: int) -> tuple[list[float], Logits]:
    from mezzotint.model.config import ModelConfig
    from mezzotint.model.denoiser import Denoiser
    from mezzotint.model.visibility import CANVAS, Places, context_causal
    from mezzotint.train.batch import Batch
    from mezzotint.train.loss import loss_of
    from mezzotint.train.recipe import Optimizer, Recipe
    from mezzotint.train.trainer import Trainer, by_rows

    denoiser = Denoiser(ModelConfig(VOCABULARY, 256, 6, 8, 8, 32, 688, LENGTH)).load(start.items())

    def places(count: int) -> Places:
        position = torch.arange(LENGTH).expand(count, -1)
        return Places.of(position, torch.full_like(position, CANVAS))

    def batch(step: int) -> Batch:
        clean = rows[step * ROWS : (step + 1) * ROWS]
        noisy, hidden, level = hide(clean, torch.Generator().manual_seed((seed << 32) + step))
        return Batch(noisy, places(ROWS), clean, hidden / level)

    def loss(network: Denoiser, batch: Batch) -> Tensor:
        return loss_of(network, batch) * (batch.weight.sum() / batch.tokens.numel())

    steps = len(rows) // ROWS
    optimizer = Optimizer("adamw", RATE, WARMUP, decay=0.0, weight_decay=0.0, clip=CLIP)
    trainer = Trainer(
        denoiser, Recipe("speed", denoiser.config, max_steps=steps, optimizer=optimizer), by_rows(batch), loss
    )
    ends = [time.perf_counter() for _ in trainer.run()]
    return ends, lambda noisy: denoiser(noisy, places(len(noisy)), context_causal()).logits


def plain(rows: Tensor, start: dict[str, Tensor], seed: int) -> tuple[list[float], Logits]:
    """What one writes in an hour: transformers' Llama with a mask of zeros, PyTorch's optimizer, whole logits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    network = LlamaForCausalLM(LlamaConfig(**SHAPE))
    network.load_state_dict(start, strict=False)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, BETAS, weight_decay=0.0)
    ends, generator = [], torch.Generator().manual_seed(seed)

    def logits(noisy: Tensor) -> Tensor:
        return network(input_ids=noisy, attention_mask=torch.zeros(len(noisy), 1, LENGTH, LENGTH)).logits

    for step, clean in enumerate(rows.split(ROWS)):
        noisy, hidden, level = hide(clean, generator)
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / WARMUP)
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            loss = nats(logits(noisy), clean, hidden, level)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    network.eval()
    return ends, logits


def theirs(rows: Tensor, start: dict[str, Tensor], seed: int) -> tuple[list[float], Logits]:
    """dllm's MDLMTrainer and its bidirectional Llama, with dllm's own defaults where nothing is said."""
    import transformers
    from dllm.core.trainers import MDLMConfig, MDLMTrainer
    from dllm.pipelines.a2d import A2DLlamaConfig, A2DLlamaLMHeadModel
    from tokenizers import Tokenizer, models

    names = {f"t{i}": i for i in range(VOCABULARY - 2)} | {"<pad>": PAD, "<mask>": MASK}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(names, "t0")), pad_token="<pad>", mask_token="<mask>",
        padding_side="right",
    )  # fmt: skip
    network = A2DLlamaLMHeadModel(A2DLlamaConfig(**SHAPE))
    network.load_state_dict(start, strict=False)
    network.tie_weights()
    ends: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **more: Any) -> None:
            ends.append(time.perf_counter())

    class InOrder(MDLMTrainer):
        def _get_train_sampler(self, *args: Any) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    with tempfile.TemporaryDirectory() as folder:
        args = MDLMConfig(
            output_dir=folder, report_to="none", seed=seed, use_cpu=True, bf16=BFLOAT16, per_device_train_batch_size=ROWS,
            num_train_epochs=1, learning_rate=RATE, lr_scheduler_type="constant_with_warmup", warmup_steps=WARMUP,
            adam_beta1=BETAS[0], adam_beta2=BETAS[1], weight_decay=0.0, max_grad_norm=CLIP, save_strategy="no",
            eval_strategy="no", disable_tqdm=True, time_epsilon=LOWEST,
        )  # fmt: skip
        trainer = InOrder(
            model=network, args=args, processing_class=tokenizer, callbacks=[Clock()],
            train_dataset=[{"input_ids": row, "labels": row} for row in rows.tolist()],
            data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, return_tensors="pt", padding=True),
        )  # fmt: skip
        trainer.train()
    network.eval()
    return ends, lambda noisy: network(input_ids=noisy).logits


ARMS = {"mezzotint": ours, "transformers": plain, "dllm": theirs}


def measure(arm: str, seed: int, work: Path, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    text = load_file(work / "text.safetensors")
    ends, logits = ARMS[arm](text["train"], load_file(work / f"start-{seed}.safetensors"), seed)
    total, parts = 0.0, text["held_out"].split(ROWS)
    with torch.no_grad():
        for clean, noisy, level in zip(parts, text["noisy"].split(ROWS), text["level"].split(ROWS), strict=True):
            total += float(nats(logits(noisy), clean, noisy == MASK, level))
    speed = ROWS * LENGTH * (len(ends) - FIRST) / (ends[-1] - ends[FIRST - 1])
    return {"speed": speed, "loss": total / len(parts)}


# -- text and start ----------------------------------------------------------------------------------------------------


def prepare(work: Path, steps: int) -> None:
    """The standard library's source as ids of a byte-level BPE learnt on it; and a start for each seed."""
    import sysconfig

    from tokenizers import ByteLevelBPETokenizer

    from mezzotint.model.config import ModelConfig
    from mezzotint.train.trainer import initialise

    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=PAD, show_progress=False)
    ids = torch.tensor([i for one in tokenizer.encode_batch(texts) for i in one.ids])
    rows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    held_out, train = rows[:HELD_OUT], rows[HELD_OUT : HELD_OUT + steps * ROWS]
    if len(train) < steps * ROWS:
        raise SystemExit(f"the standard library has text for {len(train) // ROWS} steps; --steps is {steps}")
    level = LOWEST + (1 - LOWEST) * (torch.arange(HELD_OUT)[:, None] + 0.5) / HELD_OUT
    hidden = torch.rand(held_out.shape, generator=torch.Generator().manual_seed(1)) < level
    noisy = held_out.masked_fill(hidden, MASK)
    save_file({"train": train, "held_out": held_out, "noisy": noisy, "level": level}, work / "text.safetensors")
    for seed in range(SEEDS):
        slots = initialise(ModelConfig(VOCABULARY, 256, 6, 8, 8, 32, 688, LENGTH), seed).slots()
        save_file({name: x.contiguous().clone() for name, x in slots.items()}, work / f"start-{seed}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dllm", type=Path, help="folder of dllm's source; without it, only the plain loop")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps <= FIRST + 1:
        raise SystemExit(f"--steps is {args.steps}; the first {FIRST} are not counted, so give more")
    if args.arm:
        sys.path[:0] = [str(args.dllm)] if args.arm == "dllm" else []
        print(json.dumps(measure(args.arm, args.seed, args.work, args.threads)))
        return
    if args.dllm and not (args.dllm / "dllm" / "core" / "trainers").is_dir():
        raise SystemExit(f"{args.dllm} does not hold dllm's source (no dllm/core/trainers)")
    found: dict[str, list[dict[str, float]]] = {
        arm: [] for arm in (*(["dllm"] if args.dllm else []), "mezzotint", "transformers")
    }
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.steps)
        for repeat in range(args.repeats):
            for arm in list(found) if repeat % 2 == 0 else reversed(list(found)):
                found[arm].append(_run(arm, repeat % SEEDS, Path(folder), args))
                print(f"{arm} {repeat}: {found[arm][-1]}", flush=True)
    _report(found, args)


def _run(arm: str, seed: int, work: Path, args: argparse.Namespace) -> dict[str, float]:
    own = args.dllm and args.dllm.resolve() / ".venv" / "bin" / "python"
    python = own if arm == "dllm" and own.exists() else sys.executable
    command = [
        str(python), __file__, "--arm", arm, "--seed", str(seed), "--work", str(work), "--threads", str(args.threads),
        "--steps", str(args.steps), *(["--dllm", str(args.dllm.resolve())] if arm == "dllm" else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arm} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _report(found: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    seeds = min(SEEDS, args.repeats)
    losses = {arm: [run["loss"] for run in runs[:seeds]] for arm, runs in found.items()}
    rows = [
        [arm, median(run["speed"] for run in runs), min(run["speed"] for run in runs), max(run["speed"] for run in runs),
         ", ".join(f"{x:.3f}" for x in losses[arm]), f"{mean(losses[arm]):.3f}"]
        for arm, runs in found.items()
    ]  # fmt: skip
    lines = report.table(
        ["arm", "tokens/s, median", "least", "most", f"loss after {args.steps} steps, a seed", "mean"], rows
    )
    rivals = [arm for arm in found if arm != "mezzotint"]
    for rival in rivals:
        ratios = [a["speed"] / b["speed"] for a, b in zip(found["mezzotint"], found[rival], strict=True)]
        gap = mean(losses["mezzotint"]) / mean(losses[rival]) - 1
        lines += [
            "",
            f"Over {rival}, ratio of paired runs: median {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, "
            f"{len(ratios)} alternating repeats, {args.threads} threads, "
            f"{'bfloat16 autocast' if BFLOAT16 else 'float32'}). Loss {100 * gap:+.1f}% (mean of {seeds} seeds).",
        ]
    report.write("train", f"Speed of training, against {' and '.join(rivals)}", lines)


if __name__ == "__main__":
    main()

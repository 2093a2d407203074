"""Peak memory of a training step: two streams against AR at equal positions processed, head included.

    python benchmarks/train_memory.py [--rows 8] [--length 256] [--vocabulary 8192] [--bfloat16]

Both arms compute `rows` x 2 `length` positions and have a loss at each: AR reads rows of twice the length; two streams read
the clean text and canvases of 16 over it. A third arm is the usual AR step: transformers' Llama of the same shape, with its
logits whole. Each runs in a process of its own: warm up, note what is resident, forget the peak, take steps, read the peak
(Linux: VmHWM after writing 5 to clear_refs).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import report

ARMS = ("two streams", "ar", "transformers ar")
STEPS = 1


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def measure(arm: str, rows: int, length: int, vocabulary: int, bfloat16: bool) -> dict[str, float]:
    """Bytes above what is resident before any step (the weights), and above what stays after one (and the optimizer)."""
    import torch

    from mezzotint.model.config import ModelConfig
    from mezzotint.model.visibility import two_stream_places
    from mezzotint.train.corruption import causal_batch
    from mezzotint.train.recipe import Optimizer, Recipe
    from mezzotint.train.trainer import Batch, Trainer, by_rows, initialise

    torch.set_num_threads(1)
    config = ModelConfig(vocabulary, 256, 6, 8, 8, 32, 688, 2 * length, canvas_role=True)
    generator = torch.Generator().manual_seed(0)

    def batch(step: int) -> Batch:
        if arm == "ar":
            clean = torch.randint(vocabulary, (rows, 2 * length + 1), generator=generator)
            made = causal_batch(clean, torch.ones_like(clean, dtype=torch.bool))
            places = type(made.places)(*(x[:, :-1] for x in made.places))
            return Batch(made.tokens[:, :-1], places, made.target[:, :-1], made.weight[:, :-1])
        clean = torch.randint(vocabulary, (rows, length), generator=generator)
        noisy = torch.where(torch.rand(clean.shape, generator=generator) < 0.5, 0, clean)
        places = two_stream_places(length, 16, rows)
        weight = torch.ones(rows, 2 * length)
        return Batch(torch.cat((noisy, clean), 1), places, torch.cat((clean, clean.roll(-1, 1)), 1), weight)

    if arm == "transformers ar":
        from transformers import LlamaConfig, LlamaForCausalLM

        network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=256,
                intermediate_size=688,
                num_hidden_layers=6,
                num_attention_heads=8,
                max_position_embeddings=2 * length,
                tie_word_embeddings=True,
            )
        )
        optimizer = torch.optim.AdamW(network.parameters())

        def step() -> None:
            ids = torch.randint(vocabulary, (rows, 2 * length), generator=generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = network(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    else:
        recipe = Recipe("memory", config, max_steps=100, optimizer=Optimizer("adamw"), bfloat16=bfloat16)
        trainer = Trainer(initialise(config, 0), recipe, by_rows(batch))

        def step() -> None:
            trainer.step()

    weights = _status("VmRSS")
    step()
    held = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(STEPS):
        step()
    peak = _status("VmHWM")
    return {"peak": peak, "step": peak - weights, "activations": peak - held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--arm", choices=ARMS)
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(measure(args.arm, args.rows, args.length, args.vocabulary, args.bfloat16)))
        return
    found = {}
    for arm in ARMS:
        command = [sys.executable, __file__, *sys.argv[1:], "--arm", arm]
        found[arm] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
    rows = [(arm, f"{found[arm]['step'] / 1e6:.0f}", found["two streams"]["step"] / found[arm]["step"]) for arm in ARMS]
    report.write(
        "train-memory",
        "Peak memory of a training step",
        [
            f"{args.rows} rows of {2 * args.length} positions, vocabulary {args.vocabulary}, 6 layers of width 256, AdamW, one "
            f"thread, {'bfloat16 autocast' if args.bfloat16 else 'float32'}; above what the weights take.",
            "",
            *report.table(["arm", "MB of a step", "two streams over it"], rows),
        ],
    )


if __name__ == "__main__":
    main()

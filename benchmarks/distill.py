"""Few-step distillation of the tiny model: what it writes at half the calls, before and after.

    python benchmarks/distill.py [--steps 200] [--rounds 2] [--documents 200]

A canvas of 32 tokens follows the first 16 of each held-out document, decoded greedily, the surest first, in 32, 16, 8, 4 and 2
calls. Distillation goes from 16 calls to 8, then from 8 to 4, on other documents' text. The judge of a text is the causal pass
of the undistilled weights, nats a token up to the first <end>; texts that say little please it, so unigram entropy and repetition
stand beside it. `agrees`: tokens equal to what the undistilled model writes one token a call. Needs MEZZOTINT_DATA.
"""

from __future__ import annotations

import argparse
import copy
import time
from statistics import mean
from typing import NamedTuple

import report
import torch
from tiny import hash_of

import mezzotint as mz
from mezzotint.draws import Draws
from mezzotint.eval.metrics import bootstrap, repetition, unigram_entropy
from mezzotint.model.denoiser import Denoiser
from mezzotint.noise import Absorbing
from mezzotint.objective import autoregressive_nll
from mezzotint.recipes import tiny
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import Decoding, fixed_steps
from mezzotint.sampler.loop import Sampler
from mezzotint.train.corruption import Corruption, pad_rows
from mezzotint.train.data import Rows, data_folder
from mezzotint.train.distill import distill
from mezzotint.train.trainer import Batch, Optimizer, Recipe

PROMPT, SIZE, CALLS = 16, 32, (32, 16, 8, 4, 2)


class Written(NamedTuple):
    """A text a prompt, up to its first <end>, and what the judge thinks of it, nats a token."""

    texts: list[list[int]]
    canvases: torch.Tensor  # int64 [B, SIZE]
    nats: list[float]


class Bench:
    def __init__(self, checkpoint: mz.Checkpoint, prompts: list[list[int]]) -> None:
        self.checkpoint, self.prompts, self.judge = checkpoint, torch.tensor(prompts), checkpoint.denoiser()
        self.end = checkpoint.tokenizer.specials[tiny.END]
        self.banned = tuple(checkpoint.facts.control_ids.values())
        mask = checkpoint.facts.mask_id
        assert mask is not None
        self.process = Absorbing(mask, checkpoint.tokenizer.vocab_size)

    @torch.inference_mode()
    def write(self, denoiser: Denoiser, calls: int) -> Written:
        rows = len(self.prompts)
        cache = denoiser.new_cache(rows, PROMPT + SIZE)
        denoiser.read(self.prompts, torch.full((rows,), PROMPT), cache)
        decoding = Decoding(accept=fixed_steps(), num_steps=calls, canvas_length=SIZE)
        draws = Draws.of(0, rows)
        canvas = Canvas.blank(self.process, torch.full((rows,), PROMPT), SIZE, draws)
        tokens = Sampler(denoiser, self.process, decoding, self.banned).run(canvas, cache, draws).tokens
        nats = autoregressive_nll(self.judge, torch.cat((self.prompts, tokens), 1))[:, PROMPT - 1 :]
        ends = [row.index(self.end) + 1 if self.end in row else SIZE for row in tokens.tolist()]
        texts = [row[:end] for row, end in zip(tokens.tolist(), ends, strict=True)]
        return Written(texts, tokens, [float(row[:end].mean()) for row, end in zip(nats, ends, strict=True)])

    def train(self, rows: Rows, steps: int, rounds: int) -> tuple[Denoiser, float]:
        """The student, and the seconds it took."""
        corruption = Corruption(self.process, holes=0, errors=0)

        def batches(step: int) -> Batch:
            generator = rows.generator(step)
            draws = Draws.of(rows.seed, 8).at(step=step)
            return corruption.blocks(rows.draw(8, generator), self.end, SIZE, draws, generator, ar=0.3)

        student = copy.deepcopy(self.judge)
        recipe = Recipe(
            "distil tiny", student.config, max_steps=steps, optimizer=Optimizer(learning_rate=1e-3), bfloat16=False
        )
        began = time.process_time()
        for progress in distill(
            student, recipe, batches, self.process.mask_id or 0, 16, rounds=rounds, banned=self.banned
        ):
            if progress.step % 20 == 0:
                print(f"{progress.share:.0%} {progress.loss:.3f} {progress.seconds:.0f} s", flush=True)
        return student, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--documents", type=int, default=200)
    args = parser.parse_args()
    checkpoint = mz.load("tiny")
    corpus = tiny.documents(data_folder())
    order = sorted(corpus.held_out, key=lambda document: hash_of(document.text))
    held = [row for row in tiny.tokenise(order, checkpoint.tokenizer) if len(row) >= PROMPT + 8][: args.documents]
    bench = Bench(checkpoint, [row[:PROMPT] for row in held])
    student, seconds = bench.train(Rows(tiny.tokenise(corpus.train, checkpoint.tokenizer), 1), args.steps, args.rounds)
    before = {calls: bench.write(bench.judge, calls) for calls in CALLS}
    after = {calls: bench.write(student, calls) for calls in CALLS}
    slow = before[CALLS[0]]
    table = []
    for name, written in (("undistilled", before), ("student", after)):
        for calls, w in written.items():
            agrees = float((w.canvases == slow.canvases).double().mean())
            pooled = unigram_entropy([token for text in w.texts for token in text])
            each, length = mean(map(unigram_entropy, w.texts)), mean(map(len, w.texts))
            table.append([name, calls, mean(w.nats), agrees, pooled, each, mean(map(repetition, w.texts)), length])
    gains = []
    for calls in CALLS[1:]:
        for what, other in (("the same calls", calls), ("twice the calls", 2 * calls)):
            apart = [x - y for x, y in zip(after[calls].nats, before[other].nats, strict=True)]
            low, high = bootstrap(apart)
            gains.append(
                [f"student at {calls}, undistilled at {other} ({what})", mean(apart), f"{low:.3f} to {high:.3f}"]
            )
    real, valid = pad_rows([row[PROMPT : PROMPT + SIZE] for row in held], bench.end)
    with torch.inference_mode():
        nats = autoregressive_nll(bench.judge, torch.cat((bench.prompts, real), 1))[:, PROMPT - 1 :]
    truth = float((nats * valid).sum() / valid.sum())
    head = [
        "",
        "calls",
        "judge, nats a token",
        "agrees",
        "entropy, pooled",
        "a text's",
        "4-grams repeated",
        "tokens a text",
    ]
    lines = [
        f"{len(held)} held-out prompts of {PROMPT} tokens; {args.rounds} rounds of {args.steps} steps, {seconds:.0f} "
        f"CPU seconds. The judge gives the held-out text itself {truth:.3f} nats a token.", "", *report.table(head, table), "",
        *report.table(["judge's nats, lower is better", "paired difference", "95% interval"], gains), "",
    ]  # fmt: skip
    report.write("distill", "Few-step distillation of the tiny model", lines)


if __name__ == "__main__":
    main()

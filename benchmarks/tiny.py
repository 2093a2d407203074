"""The tiny model against its AR twin: same shape, text, optimizer and minutes. Generation, holes, repair, on held-out documents.

    python benchmarks/tiny.py [--ar FOLDER] [--minutes 9] [--count 500]

--ar: the twin, as `mezzotint train tiny --objective ar --out FOLDER` leaves it; without it the twin is trained first. The
documents are `count` held out by source; thresholds are chosen on 200 others. Needs MEZZOTINT_DATA, as training did.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import report
import torch
from torch import Tensor

import mezzotint as mz
from mezzotint.draws import Draws
from mezzotint.edit.infill import Look, fit
from mezzotint.edit.repair import doubts, repair_tokens
from mezzotint.eval.metrics import auroc, bootstrap, f_beta, repetition, unigram_entropy, wilson
from mezzotint.eval.planted import plant
from mezzotint.model.denoiser import Denoiser
from mezzotint.recipes import tiny
from mezzotint.sampler.blocks import block_frames
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import Decoding, above, ancestral, by_chance, fixed_steps, left_to_right
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.verify import Verified
from mezzotint.shapes import Tokens, Where
from mezzotint.train.corruption import pad_rows
from mezzotint.train.data import data_folder

MOST = 8  # tokens of a hole
LONGEST = 12  # looked for
WINDOW = 8  # tokens right of a hole that say which length fits
RATES = (0.02, 0.05, 0.1)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
ROWS = 50  # documents in one forward


@dataclass(frozen=True)
class Bench:
    checkpoint: mz.Checkpoint
    denoiser: Denoiser
    ar: Denoiser
    rows: list[list[int]]  # test documents, [<end>] text [<end>]
    genres: list[str]
    dev: list[list[int]]
    before: tuple[int, ...] = ()  # what every document that is repaired stands behind, where the weights are shifted
    at_once: int = ROWS  # documents in one forward
    causal: float = 0.0  # power of the causal law in a repair

    @property
    def banned(self) -> list[int]:
        return sorted(self.checkpoint.tokenizer.specials.values())

    @property
    def end(self) -> int:
        return self.checkpoint.tokenizer.specials[tiny.END]


# -- generation --------------------------------------------------------------------------------------------------------


def generation(b: Bench) -> list[str]:
    """Unconditional texts at temperature 1 against the held-out ones and the AR twin's."""
    texts = {"held-out text": [row[1:-1] if row[-1] == b.end else row[1:] for row in b.rows]}
    draws = Draws.of(1, len(b.rows))
    controls = tuple(b.checkpoint.facts.control_ids.values())
    calls: dict[str, float] = {}

    def collect(name: str, frames: object) -> None:
        written: list[list[int]] = [[] for _ in b.rows]
        count = 0
        for frame in frames:  # type: ignore[attr-defined]
            written[frame.row] += frame.tokens[: frame.committed]
            count += frame.calls
        texts[name] = [text[:-1] if text and text[-1] == b.end else text for text in written]
        calls[name] = sum(map(len, texts[name])) / count

    stop = frozenset({b.end})
    prompts, most = [[b.end]] * len(b.rows), tiny.LENGTH - 1
    decoding = mz.Decoding(accept=above(0.9), temperature=1.0, canvas_length=32, num_steps=64)
    policies = {
        "diffusion, one a call": replace(decoding, accept=left_to_right()),
        "diffusion, random order, 16 steps": replace(decoding, accept=fixed_steps(by_chance()), num_steps=16),
        "diffusion, ancestral, 32 steps": replace(decoding, accept=ancestral(), num_steps=32),
        "diffusion, above 0.9": decoding,
    }
    for name, policy in policies.items():
        sampler = Sampler(b.denoiser, b.checkpoint.process, policy, controls)
        collect(name, block_frames(sampler, b.denoiser, prompts, most, draws, stop_ids=stop))
    verified = Verified(b.ar, None, 0, 1.0, stop_ids=stop, banned=controls)
    collect("AR twin", verified.frames(prompts, most, draws))
    rows = []
    for name, written in texts.items():
        pooled = unigram_entropy([token for text in written for token in text])
        each = sum(map(unigram_entropy, written)) / len(written)
        repeated = sum(map(repetition, written)) / len(written)
        length = sum(map(len, written)) / len(written)
        rows.append([name, pooled, each, repeated, length, calls.get(name, "")])
    head = ["", "unigram entropy, pooled", "mean of a text's", "4-grams repeated", "tokens a text", "tokens a call"]
    samples = [f"- {b.checkpoint.tokenizer.decode(text)!r}" for text in texts["diffusion, one a call"][:6]]
    return ["## Generation", "", *report.table(head, rows), "", "Samples:", "", *samples, ""]


# -- holes -------------------------------------------------------------------------------------------------------------


def holes(rows: list[list[int]], seed: int) -> list[tuple[int, int]]:
    """A hole in each row: first token and length, 1 to MOST, never the ends."""
    r = random.Random(seed)
    found = []
    for row in rows:
        length = min(r.randint(1, MOST), len(row) - 3)
        found.append((r.randint(1, len(row) - 1 - length), length))
    return found


def fill(b: Bench, rows: list[list[int]], spans: list[tuple[int, int]]) -> list[list[int]]:
    """What the denoiser puts at `start, length` of each row, all else given: threshold 0.9, one canvas a row."""
    out: list[list[int]] = []
    for first in range(0, len(rows), ROWS):
        some, where = rows[first : first + ROWS], spans[first : first + ROWS]
        tokens, valid = pad_rows(some, b.end)
        index = torch.arange(tokens.shape[1])
        start = torch.tensor([s for s, _ in where])[:, None]
        hole = (index >= start) & (index < start + torch.tensor([n for _, n in where])[:, None])
        draws = Draws.of([0] * len(some))
        canvas = Canvas.blank(
            b.checkpoint.process, torch.zeros(len(some), dtype=torch.int64), tokens.shape[1], draws,
            torch.where(hole, -1, tokens),
        )  # fmt: skip
        canvas.valid = valid
        canvas.tokens = torch.where(hole, b.checkpoint.facts.mask_id, canvas.tokens)
        cache = b.denoiser.new_cache(*tokens.shape)
        sampler = Sampler(
            b.denoiser, b.checkpoint.process, Decoding(accept=above(0.9), num_steps=MOST * 2), tuple(b.banned)
        )
        done = sampler.run(canvas, cache, draws)
        out += [done.tokens[i, s : s + n].tolist() for i, (s, n) in enumerate(where)]
    return out


def find_lengths(b: Bench, rows: list[list[int]], spans: list[tuple[int, int]]) -> list[int]:
    """Each hole's length by search, as `edit/infill.py` does: one call a candidate, the text on the right fits best at one."""
    found = []
    mask = b.checkpoint.facts.mask_id
    assert mask is not None
    for row, (start, length) in zip(rows, spans, strict=True):
        left, right = row[:start], row[start + length :]
        hidden = min(WINDOW, len(right))
        tried = [left + [mask] * (n + hidden) + right[hidden:] for n in range(1, LONGEST + 1)]
        tokens, valid = pad_rows(tried, b.end)
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        logits = b.denoiser.denoise(tokens, positions, valid, b.denoiser.new_cache(*tokens.shape)).double()
        logits[..., list(b.checkpoint.facts.control_ids.values())] = -torch.inf
        scores = []
        for n in range(1, LONGEST + 1):
            law = logits[n - 1, start : start + n + hidden].log_softmax(-1)
            truth = torch.tensor(right[:hidden])
            scores.append(fit(Look(law[:n], law[n:].gather(-1, truth[:, None])[:, 0])))
        found.append(1 + max(range(LONGEST), key=scores.__getitem__))
    return found


def continue_ar(b: Bench, rows: list[list[int]], spans: list[tuple[int, int]]) -> list[list[int]]:
    """The AR twin's greedy continuation of what stands left of the hole, as many tokens as it has."""
    prompts = [row[:start] for row, (start, _) in zip(rows, spans, strict=True)]
    texts: list[list[int]] = [[] for _ in rows]
    draws = Draws.of([0] * len(rows))
    for frame in Verified(b.ar, banned=tuple(b.banned)).frames(prompts, MOST, draws):
        texts[frame.row] += frame.tokens[: frame.committed]
    return [text[:n] for text, (_, n) in zip(texts, spans, strict=True)]


def infilling(b: Bench) -> list[str]:
    spans = holes(b.rows, 2)
    truth = [row[s : s + n] for row, (s, n) in zip(b.rows, spans, strict=True)]
    left_only = [row[: s + n] for row, (s, n) in zip(b.rows, spans, strict=True)]
    lengths = find_lengths(b, b.rows, spans)
    resized = [row[:s] + [b.end] * k + row[s + n :] for row, (s, n), k in zip(b.rows, spans, lengths, strict=True)]
    arms = {
        "AR twin, left side only, length given": continue_ar(b, b.rows, spans),
        "diffusion, left side only, length given": fill(b, left_only, spans),
        "diffusion, both sides, length given": fill(b, b.rows, spans),
        "diffusion, both sides, length searched": fill(
            b, resized, [(s, k) for (s, _), k in zip(spans, lengths, strict=True)]
        ),
    }
    hits = {name: [float(text == true) for text, true in zip(arm, truth, strict=True)] for name, arm in arms.items()}
    rows = []
    for name, hit in hits.items():
        low, high = wilson(int(sum(hit)), len(hit))
        by = [f"{genre} {sum(h for h, g in zip(hit, b.genres, strict=True) if g == genre) / b.genres.count(genre):.3f}"
              for genre in sorted(set(b.genres))]  # fmt: skip
        rows.append([name, sum(hit) / len(hit), f"{low:.3f} to {high:.3f}", ", ".join(by)])
    names = list(hits)
    pairs = {
        "both sides over left side, same weights, length given": (names[2], names[1]),
        "both sides, length searched, over the AR twin": (names[3], names[0]),
        "both sides, length given, over the AR twin": (names[2], names[0]),
    }
    gains = []
    for name, (one, other) in pairs.items():
        difference = [x - y for x, y in zip(hits[one], hits[other], strict=True)]
        low, high = bootstrap(difference)
        gains.append([name, sum(difference) / len(difference), f"{low:.3f} to {high:.3f}"])
    right = sum(k == n for k, (_, n) in zip(lengths, spans, strict=True)) / len(spans)
    return [
        "## Holes", "", f"One hole of 1 to {MOST} tokens a document; exact match of all its tokens. The length search looked "
        f"at 1 to {LONGEST} and found the right one in {right:.1%}.", "",
        *report.table(["", "exact match", "95% interval", "by kind of text"], rows), "",
        *report.table(["paired gain", "", "95% interval"], gains), "",
    ]  # fmt: skip


# -- repair ------------------------------------------------------------------------------------------------------------


def counts(clean: Tokens, spoiled: Tokens, fixed: Tokens) -> tuple[int, int, int]:
    """Errors made right, places changed, errors there were."""
    changed = fixed != spoiled
    return int((changed & (fixed == clean)).sum()), int(changed.sum()), int((spoiled != clean).sum())


def ar_doubts(ar: Denoiser, tokens: Tokens, valid: Where, banned: list[int]) -> tuple[Tensor, Tokens, Tensor]:
    """1 - p(token | left side), the likeliest token there and its probability; the first token is never doubted."""
    cache = ar.new_cache(*tokens.shape)
    logits = ar.read(tokens, valid.sum(-1), cache, every=True).logits.double()
    logits[..., banned] = -torch.inf
    probs = logits.softmax(-1)[:, :-1]
    doubt = 1 - probs.gather(-1, tokens[:, 1:, None])[..., 0]
    best = probs.max(-1)
    first = tokens[:, :1]
    pad = torch.nn.functional.pad
    return pad(doubt, (1, 0)), torch.cat((first, best.indices), 1), pad(best.values, (1, 0))


class Repairs(NamedTuple):
    """F0.5, precision and recall by arm; detection AUROC by arm; calls of a repair, mean over documents."""

    scores: dict[str, tuple[float, float, float]]
    auroc: dict[str, float]
    calls: float


def repairs(b: Bench, rows: list[list[int]], rate: float, seed: int, thresholds: Sequence[float]) -> Repairs:
    """Plant errors and mend them in every way."""
    pool = [token for row in b.dev for token in row[1:-1]]
    totals: dict[str, list[int]] = {}
    doubted: dict[str, list[Tensor]] = {"diffusion": [], "AR twin": []}
    planted: list[Tensor] = []
    calls = 0
    for first in range(0, len(rows), b.at_once):
        clean, spoiled, valid, wrong = plant(rows[first : first + b.at_once], rate, pool, seed + first)
        index = torch.arange(clean.shape[1])
        editable = valid & (index > 0) & (index < valid.sum(-1, keepdim=True) - 1)
        planted.append(wrong[editable])
        judged = {
            "diffusion": doubts(b.denoiser, spoiled, valid, b.banned, b.before, b.causal),
            "AR twin": ar_doubts(b.ar, spoiled, valid, b.banned),
        }
        arms = {}
        for name, (doubt, best, p) in judged.items():
            doubted[name].append(doubt[editable])
            least = torch.zeros_like(wrong)
            for i in range(len(clean)):
                order = doubt[i].masked_fill(~editable[i], -1).argsort(descending=True)
                least[i, order[: max(1, round(rate * int(valid[i].sum())))]] = True
            arms[f"replacing every least likely token, {name}"] = torch.where(least, best, spoiled)
            if name == "AR twin":
                for t in thresholds:
                    arms[f"{name}, threshold {t:g}"] = torch.where((p > t) & editable, best, spoiled)
        for t in thresholds:
            fixed, _, count = repair_tokens(
                b.denoiser, spoiled, valid, editable, b.banned, t, before=b.before, causal=b.causal
            )
            arms[f"diffusion, threshold {t:g}"] = fixed
            calls += int(count.sum())
        for name, fixed in arms.items():
            total = totals.setdefault(name, [0, 0, 0])
            for k, n in enumerate(counts(clean, spoiled, fixed)):
                total[k] += n
    truth = torch.cat(planted)
    return Repairs(
        {name: (f_beta(*t), t[0] / max(t[1], 1), t[0] / t[2]) for name, t in totals.items()},
        {name: auroc(torch.cat(scores), truth) for name, scores in doubted.items()},
        calls / len(rows) / len(thresholds),
    )


def repairing(
    b: Bench, rates: Sequence[float] = RATES, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[list[str], dict[float, dict[str, float]]]:
    """Lines of the report; and by rate the F0.5 of every arm that has its threshold."""
    rows, detection = [], []
    scores: dict[float, dict[str, float]] = {}
    for rate in rates:
        tried = repairs(b, b.dev, rate, 77, thresholds).scores
        chosen = {
            arm: max(thresholds, key=lambda t, arm=arm, tried=tried: tried[f"{arm}, threshold {t:g}"][0])  # type: ignore[misc]  # mypy reads defaults of a lambda as Any
            for arm in ("diffusion", "AR twin")
        }
        found = repairs(b, b.rows, rate, 7, sorted(set(chosen.values())))
        told = [*(f"{arm}, threshold {t:g}" for arm, t in chosen.items()),
                *(f"replacing every least likely token, {arm}" for arm in chosen)]  # fmt: skip
        scores[rate] = {name: found.scores[name][0] for name in told}
        for arm, t in chosen.items():
            rows.append([f"{rate:.0%}", f"{arm}, threshold {t:g}", *found.scores[f"{arm}, threshold {t:g}"]])
        rows.append([f"{rate:.0%}", "doing nothing", 0.0, "", 0.0])
        for arm in chosen:
            name = f"replacing every least likely token, {arm}"
            rows.append([f"{rate:.0%}", name, *found.scores[name]])
        detection.append([f"{rate:.0%}", found.auroc["diffusion"], found.auroc["AR twin"], found.calls])
    return [
        "## Repair", "", f"Errors planted in {len(b.rows)} held-out documents: tokens of other documents. Thresholds chosen on "
        f"{len(b.dev)} other documents. Who replaces the least likely tokens is told how many errors there are.", "",
        *report.table(["errors", "", "F0.5", "precision", "recall"], rows), "",
        *report.table(["errors", "detection AUROC, diffusion", "AR twin (left side only)", "calls of a repair"], detection), "",
    ], scores  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--ar", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--count", type=int, default=500)
    args = parser.parse_args()
    corpus = tiny.documents(data_folder())
    checkpoint = mz.load(args.model)
    train = functools.partial(tiny.train, corpus, args.minutes, None, objective="ar", tokenizer=checkpoint.tokenizer)
    twin = mz.load(args.ar) if args.ar else train()
    order = sorted(corpus.held_out, key=lambda document: hash_of(document.text))
    rows = tiny.tokenise(order, checkpoint.tokenizer)
    genres = [document.source.split(":")[0] for document in order]
    with torch.inference_mode():
        bench = Bench(
            checkpoint, checkpoint.denoiser(), twin.denoiser(), rows[: args.count], genres[: args.count],
            rows[args.count : args.count + 200],
        )  # fmt: skip
        lines = [*generation(bench), *infilling(bench), *repairing(bench)[0]]
    head = [f"{args.count} documents held out by source, {len(bench.dev)} others to choose thresholds on.", ""]
    report.write("tiny", "The tiny model and its AR twin", head + lines)


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    main()

"""What an adapter on the default base has learnt, and whether it may be shipped.

    python benchmarks/adapter.py ADAPTER EXAMPLES [--count 100] [--tokens 2000] [--draws 16] [--only drafts,repair]

ADAPTER: a folder that `mezzotint adapt` has written. EXAMPLES: a folder of `mezzotint data examples`, whose held-out part is
measured. Chat prompts are self-instruct's user-oriented ones, which never enter training, and prose prompts the first halves
of held-out paragraphs (both from MEZZOTINT_DATA); those of edits are what an edit is asked by, its text included.

    ar       logits of the clean stream with and without the adapter
    bound    NELBO of canvases of 4, 8 and 16 beside AR's exact value, in nats a token, standard error by document
    drafts   tokens that a verifying call accepts, and tokens a call, when the canvas drafts; `count` prompts each
    speed    a prompt at a time, all ways in turn, in --compute: tokens/s over those of `ar`; a quarter of the prompts
    curve    held-out loss over tokens seen, of the run in --run (`adapt .. evaluate_every=50`), its fit and forecast
    repair   planted errors: F0.5 and AUROC beside replacing what the base itself finds least likely, which is told how many
             errors there are; with the canvas alone, and with the causal law beside it as `repair` uses it

It may be shipped when more than 1.5 tokens a round are accepted on code and on chat, both intervals above 1.3, and repair
at 5% has a larger F0.5 than every arm of the base.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import report
import tiny
import torch
from torch import Tensor

import mezzotint as mz
from mezzotint.checkpoints.adapter import adapter_sha256
from mezzotint.draws import Draws
from mezzotint.edit.repair import CAUSAL
from mezzotint.eval.edit_items import Stock
from mezzotint.eval.metrics import bootstrap
from mezzotint.model.cache import KVCache
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, Places, context_causal
from mezzotint.noise import Absorbing
from mezzotint.objective import Predict, by_count, likelihood
from mezzotint.recipes.mixture import Prompts
from mezzotint.sampler.speculate import SelfSpeculation
from mezzotint.train.canvases import Example
from mezzotint.train.corruption import pad_rows
from mezzotint.train.data import data_folder, read_rows
from mezzotint.train.examples import read_examples, read_manifest
from mezzotint.train.monitor import METRICS, read_metrics

CODE = ("python-functions", "js-functions", "thealgorithms-python-functions", "30seconds-js", "neetcode-parallel-code",
        "neetcode-code-from-description", "neetcode-parallel-solutions")  # fmt: skip
SIZES = (4, 8, 16)
CONTINUED = 48  # tokens that are written behind a prompt
PROMPT, SHORTEST = 200, 16  # most tokens of one; fewest of one of prose
ROWS = 10
MEASURED, AHEAD = 6, (1e6, 1e7, 1e8, 1e9)  # points that a curve needs; positions that it is drawn out to
AT_ONCE = 4  # noisy texts of one call
THRESHOLDS = (0.5, 0.7, 0.9, 0.97)
POWERS = (0.0, CAUSAL)  # of the causal law; the second is what `repair` uses under an adapter
REPAIRED = (24, 96)  # tokens of a text that is repaired
SPEEDS: dict[str, dict[str, Any]] = {
    "ar": {"decode": "ar"}, "verified": {}, "drafts of the canvas": {"draft": "self"},
    "drafts of the canvas, two calls": {"draft": "self-two-call"},
}  # fmt: skip
SHIPPED = (1.5, 1.3)  # accepted a round, its interval


def held_out(folder: Path, checkpoint: mz.Checkpoint, names: Sequence[str], edits: bool = False) -> list[Example]:
    known = read_manifest(folder)["sources"]
    weights = {name: 1.0 if name in names else 0.0 for name in known}
    return [e for e in read_examples(folder, checkpoint.tokenizer, weights)[1] if (e.draft is not None) == edits]


def chat_requests() -> list[str]:
    """Self-instruct's user-oriented requests, which never enter training; none without MEZZOTINT_DATA."""
    data = data_folder()
    rows = read_rows(data / "seed-instructions.jsonl.zst") if data else ()
    asked = [row for row in rows if row.get("task") == "user-oriented"]
    return ["\n\n".join(part for part in (row["instruction"], row.get("input")) if part) for row in asked]


def domains(folder: Path, checkpoint: mz.Checkpoint, count: int) -> dict[str, list[list[int]]]:
    """Prompts by kind of text."""
    ask = Prompts(checkpoint.tokenizer).ask
    code = [list(e.context) for e in held_out(folder, checkpoint, CODE) if e.context]
    data = data_folder()
    prose = (
        [checkpoint.tokenizer.encode(text) for text in Stock(checkpoint.tokenizer, texts=data).prose] if data else []
    )
    prose = [ids[: len(ids) // 2] for ids in prose if len(ids) >= 2 * SHORTEST]
    edits = [list(e.context) for e in held_out(folder, checkpoint, list(read_manifest(folder)["sources"]), edits=True)]
    chat = [ask(text) for text in chat_requests()]
    found = {"code": code, "chat": chat, "prose": prose, "edits": edits}
    for rows in found.values():
        rows[:] = [row for row in rows if 4 <= len(row) <= PROMPT]
        random.Random(0).shuffle(rows)
    return {name: rows[:count] for name, rows in found.items()}


# -- parts -------------------------------------------------------------------------------------------------------------


def ar(base: Denoiser, adapted: Denoiser, texts: Sequence[Example]) -> list[str]:
    tokens, valid = pad_rows([[*e.context, *e.text][:64] for e in texts[:8]], 0)
    same = []
    for network in (base, adapted):
        cache = network.new_cache(*tokens.shape)
        same.append(network.read(tokens, valid.sum(-1), cache, every=True).logits)
    return [
        "## AR",
        "",
        f"Logits of 8 held-out texts bit-equal with and without the adapter: {torch.equal(*same)}.",
        "",
    ]


def behind_cache(network: Denoiser, cache: KVCache, read: Tensor, first: int, size: int) -> Predict:
    """`two_stream` for a text that `cache` has read once, whose causal logits are `read` `[1, L, V]`: canvases of `size` from
    the block on that holds place `first`; a canvas sees what stands before it. For weights that are shifted."""
    begin = first // size * size

    def predict(noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        rows, length = noisy.shape
        some = torch.zeros(cache.lengths.shape[0], length - begin, dtype=torch.int64)
        some[:rows] = noisy[:, begin:]
        position = torch.arange(begin, length).expand_as(some)
        places = Places.of(position, torch.full_like(position, CANVAS), position // size * size)
        said = network(some, places, context_causal(), cache).logits[:rows]
        logits = torch.cat((read.expand(rows, -1, -1)[:, :begin], said), 1).roll(1, 1)  # row i - 1 speaks about place i
        opening = torch.arange(begin, length, size)
        opening = opening[opening > 0]
        logits[:, opening] = read[:, opening - 1]
        return logits

    return predict


def bound(network: Denoiser, checkpoint: mz.Checkpoint, texts: Sequence[Example], tokens: int, draws: int) -> list[str]:
    """Gap of the canvas bound to AR on the answers' tokens (of running text, all but the first)."""
    mask = checkpoint.facts.mask_id
    assert mask is not None
    process = Absorbing(mask, checkpoint.config.vocab_size)
    some, total = [], 0
    for e in texts:
        if total < tokens:
            some.append(e)
            total += len(e.text)
    exact: list[float] = []
    gaps: dict[int, list[float]] = {size: [] for size in SIZES}
    counts = []
    for number, e in enumerate(some):
        row = torch.tensor([[*e.context, *e.text]])
        first = max(1, len(e.context))
        editable = torch.arange(row.shape[1])[None] >= first
        cache = network.new_cache(AT_ONCE, 2 * row.shape[1])
        read = network.read(row.expand(AT_ONCE, -1), torch.tensor([row.shape[1]] * AT_ONCE), cache, every=True).logits[
            :1
        ]
        law = read[:, first - 1 : -1].double()
        law[..., mask] = -torch.inf
        nll = -law.log_softmax(-1).gather(-1, row[:, first:, None])
        exact.append(float(nll.sum()))
        counts.append(int(editable.sum()))
        for size in SIZES:
            found = likelihood(
                process, behind_cache(network, cache, read, first, size), row, editable, draws, Draws.of([number]),
                estimator=by_count(), size=size, rows_at_once=AT_ONCE,
            )  # fmt: skip
            gaps[size].append(float(found.nats) - exact[-1])
        if number % 10 == 9:
            print(f"{number + 1} of {len(some)} texts", flush=True)
    n = sum(counts)
    rows = []
    for size in SIZES:
        low, high = bootstrap([gap / count for gap, count in zip(gaps[size], counts, strict=True)])
        rows.append(
            [size, sum(exact) / n, (sum(exact) + sum(gaps[size])) / n, sum(gaps[size]) / n, f"{low:.2f} to {high:.2f}"]
        )
    head = ["canvas", "AR, nats a token", "bound", "gap", "95% of documents' gaps"]
    return [
        "## Bound", "", f"{n} tokens of {len(some)} held-out texts, {draws} mask counts a block, stratified.", "",
        *report.table(head, rows), "",
    ]  # fmt: skip


def curve(folder: Path) -> list[str]:
    """Held-out loss of a run over tokens seen; a + b n^-c by least squares, and what it says of more tokens.

    c and a are sought on a grid, b follows. The interval leaves out each point in turn (the jackknife's range, no more).
    """
    rows = read_metrics(folder / METRICS)
    points = [(row["positions"], row["held_out"]) for row in rows if row.get("held_out") is not None]
    if len(points) < MEASURED:
        return ["## Curve", "", f"{len(points)} measurements of held-out text in this run; {MEASURED} are needed.", ""]

    def fit(some: Sequence[tuple[int, float]]) -> tuple[float, float, float]:
        n, loss = torch.tensor(some, dtype=torch.float64).unbind(-1)
        best = (math.inf, 0.0, 0.0, 0.0)
        for power in torch.linspace(0.02, 1.5, 75).tolist():
            x = (n / 1e5) ** -power
            for floor in torch.linspace(0.0, float(loss.min()), 60).tolist():
                b = float((x * (loss - floor)).sum() / (x * x).sum())
                best = min(best, (float(((floor + b * x - loss) ** 2).sum()), floor, b, power))
        return best[1:]

    def at(law: tuple[float, float, float], n: float) -> float:
        return law[0] + law[1] * (n / 1e5) ** -law[2]

    law = fit(points)
    others = [fit([*points[:i], *points[i + 1 :]]) for i in range(len(points))]
    off = (sum((at(law, n) - loss) ** 2 for n, loss in points) / len(points)) ** 0.5
    seen, ahead = [(n, loss, at(law, n)) for n, loss in points], []
    for n in AHEAD:
        others_say = sorted(at(other, n) for other in others)
        ahead.append((f"{n:.0e}", at(law, n), f"{others_say[0]:.2f} to {others_say[-1]:.2f}"))
    return [
        "## Curve", "", f"Nats a hidden token at half masking: {law[0]:.2f} + {law[1]:.2f} (n / 100,000)^-{law[2]:.2f}, off by "
        f"{off:.3f} (root mean square).", "", *report.table(["positions seen", "measured", "fit"], seen),
        "", *report.table(["positions", "forecast", "each point left out in turn"], ahead), "",
    ]  # fmt: skip


def drafts(
    network: Denoiser, checkpoint: mz.Checkpoint, prompts: dict[str, list[list[int]]], lengths: Sequence[int]
) -> tuple[list[str], bool]:
    rows, good = [], True
    for name, some in prompts.items():
        if not some:
            rows.append([name, 0, "no data", "", "", "", ""])
            good = good and name in ("prose", "edits")
            continue
        for length in lengths:
            each: list[float] = []
            tokens = calls = computed = 0
            for first in range(0, len(some), ROWS):
                part = some[first : first + ROWS]
                drafting = SelfSpeculation(
                    network, checkpoint.process, length, "none", stop_ids=frozenset(checkpoint.tokenizer.eos_ids),
                    controls=tuple(checkpoint.facts.control_ids.values()),
                )  # fmt: skip
                rounds: list[list[int]] = [[] for _ in part]
                for frame in drafting.frames(part, CONTINUED, Draws.of(list(range(len(part))))):
                    tokens, calls, computed = tokens + frame.committed, calls + frame.calls, computed + frame.positions
                    if frame.kind == "verify":
                        rounds[frame.row].append(frame.committed)
                each += [sum(row) / len(row) for row in rounds if row]
            low, high = bootstrap(each)
            rows.append(
                [
                    name,
                    len(each),
                    length,
                    sum(each) / len(each),
                    f"{low:.2f} to {high:.2f}",
                    tokens / calls,
                    computed / tokens,
                ]
            )
            if length == 8 and name in ("code", "chat"):
                good = good and sum(each) / len(each) > SHIPPED[0] and low > SHIPPED[1]
    head = ["prompts", "", "drafted", "accepted a round", "95% interval", "tokens a call", "positions a token"]
    return [
        "## Drafts", "", f"`verified`, {CONTINUED} tokens a prompt, two calls a round (one drafts, one verifies), greedy.", "",
        *report.table(head, rows), "",
    ], good  # fmt: skip


def speed(engine: mz.Engine, prompts: dict[str, list[list[int]]], count: int) -> list[str]:
    """Tokens a second of `verified` over `ar`'s, behind the prompt; medians of paired ratios."""
    rows = []
    for name, some in prompts.items():
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in SPEEDS}  # tokens/s, tokens a call
        for number, prompt in enumerate(some[: max(2, count // 4)]):
            ways = list(SPEEDS)
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                asked = mz.Request(engine.tokenizer.decode(prompt), raw=True, max_tokens=CONTINUED, **SPEEDS[way])
                (reply,) = engine.generate(asked)
                frames, trace = reply.trace.frames, reply.trace
                tokens = trace.num_tokens - frames[0].committed
                found[way].append(
                    (tokens / max(frames[-1].seconds - frames[0].seconds, 1e-9), tokens / max(trace.num_calls, 1))
                )
        for way, each in found.items():
            kept = [(a, b) for a, b in zip(each, found["ar"], strict=True) if a[0] and b[0]]
            ratios = [a[0] / b[0] for a, b in kept]
            low, high = bootstrap(ratios)
            rows.append([name, len(kept), way, median(a[1] for a, _ in kept), median(a[0] for a, _ in kept), median(ratios),
                         f"{low:.2f} to {high:.2f}"])  # fmt: skip
    head = ["prompts", "", "way", "tokens a call", "tokens/s", "over ar", "95% interval of the mean ratio"]
    return [
        "## Speed",
        "",
        f"Compute {engine.compute}, {CONTINUED} tokens, batch 1.",
        "",
        *report.table(head, rows),
        "",
    ]


def repair(
    base: Denoiser, network: Denoiser, checkpoint: mz.Checkpoint, texts: Sequence[Example], count: int, rates: Sequence[float]
) -> tuple[list[str], bool]:  # fmt: skip
    """As for `tiny`, the base in its AR twin's place; the base's own proposals are what rescoring starts from."""
    short, long = REPAIRED
    rows = [list(e.text[:long]) for e in texts if len(e.text) >= short][: count + count // 3]
    tokenizer = checkpoint.tokenizer
    start = tokenizer.id(tokenizer.bos) if tokenizer.bos else tokenizer.eos_ids[0]
    bench = tiny.Bench(checkpoint, network, base, rows[:count], [], rows[count:], (start,), ROWS)
    lines: list[str] = []
    good = False
    for causal in POWERS:
        more, scores = tiny.repairing(dataclasses.replace(bench, causal=causal), rates, THRESHOLDS)
        lines += [f"### Causal law to the power {causal:g}", "", *more]
        found = scores.get(0.05, {})
        ours = [score for arm, score in found.items() if arm.startswith("diffusion, threshold")]
        theirs = [score for arm, score in found.items() if "AR twin" in arm]
        good = good or (causal == CAUSAL and bool(found) and max(ours) > max(theirs))
    return lines, good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--count", type=int, default=100, help="prompts of a kind, texts to repair")
    parser.add_argument("--tokens", type=int, default=2000, help="answer tokens whose bound is taken")
    parser.add_argument("--draws", type=int, default=16, help="noisy texts of each")
    parser.add_argument("--lengths", default="4,8", help="drafted tokens")
    parser.add_argument("--rates", default="0.02,0.05,0.1")
    parser.add_argument("--only", default="ar,bound,drafts,repair")
    parser.add_argument("--run", type=Path, help="folder of the run, for the curve")
    parser.add_argument("--compute", default="int8", help="of the speeds; the rest is float32")
    args = parser.parse_args()
    checkpoint = mz.load("base", adapter=args.adapter)
    assert checkpoint.adapter is not None
    wanted, verdicts = args.only.split(","), {}
    made = ", ".join(f"{key} {value}" for key, value in checkpoint.adapter.made.items())
    lines = [f"Adapter `{adapter_sha256(args.adapter)[:16]}`: rank {checkpoint.adapter.rank}; {made}.", ""]
    texts = held_out(args.examples, checkpoint, list(read_manifest(args.examples)["sources"]))
    with torch.inference_mode():
        base, network = mz.load("base").denoiser(), checkpoint.denoiser()
        if "ar" in wanted:
            lines += ar(base, network, texts)
        if "bound" in wanted:
            lines += bound(network, checkpoint, texts, args.tokens, args.draws)
        prompts = domains(args.examples, checkpoint, args.count) if {"drafts", "speed"} & set(wanted) else {}
        if "drafts" in wanted:
            lengths = [int(n) for n in args.lengths.split(",")]
            more, verdicts["drafts"] = drafts(network, checkpoint, prompts, lengths)
            lines += more
        if "repair" in wanted:
            rates = [float(rate) for rate in args.rates.split(",")]
            more, verdicts["repair"] = repair(base, network, checkpoint, texts, args.count, rates)
            lines += more
    if "curve" in wanted:
        if args.run is None:
            parser.error("the curve needs --run, the folder with the run's metrics.jsonl")
        lines += curve(args.run)
    if "speed" in wanted:
        lines += speed(mz.Engine(checkpoint, compute=args.compute), prompts, args.count)
    lines += [f"May be shipped, as far as was measured: {verdicts}."]
    report.write("adapter", "What the adapter has learnt", lines)


if __name__ == "__main__":
    main()

"""What an adapter on the default base has learnt, and whether it may be shipped.

    python benchmarks/adapter.py ADAPTER EXAMPLES [--count 100] [--tokens 2000] [--draws 16] [--only drafts,repair]

ADAPTER: a folder that `mezzotint adapt` has written. EXAMPLES: a folder of `mezzotint data examples`, whose held-out part is
measured. Chat prompts are self-instruct's user-oriented ones, which never enter training (MEZZOTINT_DATA).

    ar       logits of the clean stream with and without the adapter
    bound    NELBO of canvases of 4, 8 and 16 beside AR's exact value, in nats a token, standard error by document
    drafts   tokens that a verifying call accepts, and tokens a call, when the canvas drafts; `count` prompts each
    repair   planted errors: F0.5 and AUROC beside replacing what the base itself finds least likely, which is told how many
             errors there are; with the canvas alone, and with the causal law beside it as `repair` uses it

It may be shipped when more than 1.5 tokens a round are accepted on code and on chat, both intervals above 1.3, and repair
at 5% has a larger F0.5 than every arm of the base.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import report
import tiny
import torch

import mezzotint as mz
from mezzotint.checkpoints.adapter import adapter_sha256
from mezzotint.draws import Draws
from mezzotint.edit.repair import CAUSAL
from mezzotint.eval.metrics import bootstrap
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CLEAN, Places, context_causal
from mezzotint.noise import Absorbing
from mezzotint.objective import by_count, likelihood, two_stream
from mezzotint.recipes.mixture import Prompts
from mezzotint.sampler.speculate import SelfSpeculation
from mezzotint.train.canvases import Example
from mezzotint.train.corruption import pad_rows
from mezzotint.train.data import data_folder, read_rows
from mezzotint.train.examples import read_examples, read_manifest

CODE = ("python-functions", "js-functions", "thealgorithms-python-functions", "30seconds-js", "neetcode-parallel-code",
        "neetcode-code-from-description", "neetcode-parallel-solutions")  # fmt: skip
PROSE = ("docs-corpus", "npm-readme-corpus")
SIZES = (4, 8, 16)
CONTINUED = 48  # tokens that are written behind a prompt
PROMPT = 200  # most tokens of one
ROWS = 10
THRESHOLDS = (0.5, 0.7, 0.9, 0.97)
POWERS = (0.0, CAUSAL)  # of the causal law; the second is what `repair` uses under an adapter
REPAIRED = (24, 96)  # tokens of a text that is repaired
SHIPPED = (1.5, 1.3)  # accepted a round, its interval


def held_out(folder: Path, checkpoint: mz.Checkpoint, names: Sequence[str]) -> list[Example]:
    known = read_manifest(folder)["sources"]
    weights = {name: 1.0 if name in names else 0.0 for name in known}
    return [e for e in read_examples(folder, checkpoint.tokenizer, weights)[1] if e.draft is None]


def domains(folder: Path, checkpoint: mz.Checkpoint, count: int) -> dict[str, list[list[int]]]:
    """Prompts by kind of text."""
    ask = Prompts(checkpoint.tokenizer).ask
    code = [list(e.context) for e in held_out(folder, checkpoint, CODE) if e.context]
    prose = [list(e.text[: len(e.text) // 2]) for e in held_out(folder, checkpoint, PROSE)]
    chat = []
    data = data_folder()
    for row in read_rows(data / "seed-instructions.jsonl.zst") if data else ():
        if row.get("task") == "user-oriented":
            chat.append(ask("\n\n".join(part for part in (row["instruction"], row.get("input")) if part)))
    found = {"code": code, "chat": chat, "prose": prose}
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
        place = torch.arange(row.shape[1])[None]
        editable = place >= max(1, len(e.context))
        clean = Places.of(place[:, :-1], torch.full_like(place[:, :-1], CLEAN))
        law = network(row[:, :-1], clean, context_causal()).logits.double()
        law[..., mask] = -torch.inf
        nll = -law.log_softmax(-1).gather(-1, row[:, 1:, None])[..., 0]
        exact.append(float(nll[editable[:, 1:]].sum()))
        counts.append(int(editable.sum()))
        for size in SIZES:
            found = likelihood(
                process, two_stream(network, size), row, editable, draws, Draws.of([number]), estimator=by_count(), size=size,
                rows_at_once=4,
            )  # fmt: skip
            gaps[size].append(float(found.nats) - exact[-1])
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


def drafts(
    network: Denoiser, checkpoint: mz.Checkpoint, prompts: dict[str, list[list[int]]], lengths: Sequence[int]
) -> tuple[list[str], bool]:
    rows, good = [], True
    for name, some in prompts.items():
        if not some:
            rows.append([name, 0, "no data", "", "", "", ""])
            good = good and name == "prose"
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
        if "drafts" in wanted:
            more, verdicts["drafts"] = drafts(
                network,
                checkpoint,
                domains(args.examples, checkpoint, args.count),
                [int(n) for n in args.lengths.split(",")],
            )
            lines += more
        if "repair" in wanted:
            rates = [float(rate) for rate in args.rates.split(",")]
            more, verdicts["repair"] = repair(base, network, checkpoint, texts, args.count, rates)
            lines += more
    lines += [f"May be shipped, as far as was measured: {verdicts}."]
    report.write("adapter", "What the adapter has learnt", lines)


if __name__ == "__main__":
    main()

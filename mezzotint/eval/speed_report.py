"""The page of `mezzotint bench speed`: Markdown and a plot of steps against difficulty, which says whether they go together."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mezzotint.checkpoints.files import whole_file
from mezzotint.eval.report import COLOURS, SPEEDS
from mezzotint.eval.speed import KINDS, Figures, Found, correlation, same_quality

BINS = 6
LEAST = 0.1  # a correlation below this is not called adaptive compute, however sure it is
HEAD = (
    "way", "prompts", "right", "tokens", "tokens/s", "end to end, s: median, P95", "first draft, s", "first committed text, s",
    "half, nine tenths settled, s", "overhead, s", "tokens/s without it", "tokens a call", "positions a token",
    "ms a call: median, P95", "steps a canvas", "revised", "processor ms a token",
)  # fmt: skip


def number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None or math.isnan(value) else format(value, form)


def row(name: str, kind: str, one: Figures) -> list[str]:
    return [
        name, kind, f"{one.right} of {one.requests}", f"{one.tokens:,}", number(one.speed, ".1f"),
        f"{number(one.end_p50)}, {number(one.end_p95)}", number(one.first_draft), number(one.first_text),
        f"{number(one.half)}, {number(one.nine_tenths)}", number(one.overhead), number(one.sampling_speed, ".1f"),
        number(one.tokens_per_call), number(one.positions_per_token, ".1f"),
        f"{number(1000 * one.call_p50, '.1f')}, {number(1000 * one.call_p95, '.1f')}", number(one.steps_per_canvas, ".1f"),
        number(one.revised, ".1%"), number(1000 * one.processor_per_token, ".1f"),
    ]  # fmt: skip


def equal_quality(found: Sequence[Found]) -> list[str]:
    """Every way beside the first, where it is right as often."""
    first, lines = found[0].of(), []
    for other in found[1:]:
        second = other.of()
        same = sum(a.text == b.text for a, b in zip(found[0].samples, other.samples, strict=True))
        told = f"the same text in {same} of {len(other.samples)}; right {second.right} of {second.requests}, "
        told += f"{found[0].name} {first.right}"
        if same_quality(first, second):
            ratio = second.speed / first.speed
            lines.append(
                f"{other.name}: equal quality, {ratio:.2f} times the speed of {found[0].name} end to end ({told})."
            )
        else:
            lines.append(f"{other.name}: not of equal quality, so its speed is no gain ({told}).")
    return lines


def adaptive(found: Sequence[Found]) -> list[str]:
    """Does each way spend more steps where the text is harder?"""
    lines = []
    for one in (one for one in found if one.canvases):
        value, low, high = correlation(one.canvases)
        kinds = {
            kind: statistics.fmean(s.calls / max(s.tokens, 1) for s in one.samples if s.kind == kind)
            for kind in KINDS if any(s.kind == kind for s in one.samples)
        }  # fmt: skip
        calls = ", ".join(f"{kind} {mean:.2f}" for kind, mean in kinds.items())
        if math.isnan(value):
            lines.append(
                f"{one.name}: every canvas took as many steps, so compute is not adaptive (calls a token: {calls})."
            )
            continue
        works = low > 0 and value >= LEAST
        said = "adaptive compute is at work" if works else "adaptive compute does NOT work here"
        lines.append(
            f"{one.name}: {said}: rank correlation of a canvas's steps with its difficulty {value:.2f} "
            f"({low:.2f} to {high:.2f}), {len(one.canvases)} canvases; calls a token: {calls}."
        )
    return lines or ["No way here works on canvases, so there are no steps to compare."]


def cost(found: Sequence[Found], price: float | None) -> tuple[list[str], list[list[str]]]:
    """What serving takes: tokens a second and processor time by requests answered together. price: of the machine, an hour."""
    head = ["way", "requests together", "tokens/s, all", "processor ms a token"] + (
        ["price of a million tokens"] if price else []
    )
    rows = []
    for one in found:
        for load in one.loads:
            cells = [one.name, str(load.rows), number(load.speed, ".1f"), number(1000 * load.processor, ".1f")]
            rows.append(cells + ([number(price / (3600 * load.speed) * 1e6)] if price else []))
    return head, rows


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def markdown(found: Sequence[Found], about: Mapping[str, Any], price: float | None, plot: str) -> str:
    kinds = [kind for kind in KINDS if any(sample.kind == kind for sample in found[0].samples)]
    rows = [row(one.name, kind, one.of(kind)) for one in found for kind in kinds]
    ahead = (
        "Text left to right is readable from its first token; a canvas's first committed text comes when the canvas is done, and "
        "its drafts before that may change. Time to the first token and the price belong to a figure as tokens a second do."
    )
    return "\n".join([
        "# Speed of ways of decoding", "", *table(["", ""], [[key, str(value)] for key, value in about.items()]), "",
        "One request at a time. Easy: repeat a list of words. Hard: a word problem. Definitions: `mezzotint/eval/speed.py`.", "",
        *table(HEAD, rows), "", "## At equal quality", "",
        f"Quality: right answers, all prompts, within one standard error of {found[0].name}.", "",
        *(f"- {line}" for line in equal_quality(found)), "", "## Steps against difficulty", "",
        *(f"- {line}" for line in adaptive(found)), "",
        f"![Steps of a canvas against its difficulty]({plot})", "", "## What serving costs", "", ahead, "",
        *table(*cost(found, price)), "", "## Published speeds, for reference", "", *(f"- {line}" for line in SPEEDS), "",
    ])  # fmt: skip


def binned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float]]:
    """(mean difficulty, mean steps, standard error) of equal groups by difficulty."""
    ordered, groups = sorted(points), []
    for index in range(min(BINS, len(ordered))):
        some = (
            ordered[index * len(ordered) // BINS : (index + 1) * len(ordered) // BINS]
            if len(ordered) >= BINS
            else ordered
        )
        xs, ys = zip(*some, strict=True)
        error = statistics.stdev(ys) / math.sqrt(len(ys)) if len(ys) > 1 else 0.0
        groups.append((statistics.fmean(xs), statistics.fmean(ys), error))
    return groups


def plot(found: Sequence[Found]) -> str:
    """An SVG: a dot a canvas, and the mean of equal groups with its 95% interval."""
    some = [one for one in found if one.canvases]
    wide, height, left, low = 760, 400, 60, 350
    points = [point for one in some for point in one.canvases]
    most_x, most_y = max((x for x, _ in points), default=1.0) or 1.0, max((y for _, y in points), default=1.0)

    def x(value: float) -> float:
        return left + value / most_x * (wide - left - 20)

    def y(value: float) -> float:
        return low - value / most_y * (low - 50)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {height}" width="{wide}" '
        f'font-family="system-ui,sans-serif" font-size="12" fill="#555"><rect width="{wide}" height="{height}" fill="#fff"/>'
        f'<text x="{wide - 20}" y="{height - 12}" text-anchor="end">entropy of a canvas\'s text, nats a token</text>'
        f'<text x="8" y="40">steps of a canvas</text><path d="M{left} 50V{low}H{wide - 20}" fill="none" stroke="#888"/>'
    ]
    for tick in range(5):
        out.append(
            f'<text x="{x(most_x * tick / 4):.0f}" y="{low + 18}" text-anchor="middle">{most_x * tick / 4:.1f}</text>'
        )
        out.append(
            f'<text x="{left - 8}" y="{y(most_y * tick / 4) + 4:.0f}" text-anchor="end">{most_y * tick / 4:.1f}</text>'
        )
    for index, one in enumerate(some):
        colour = COLOURS[index % len(COLOURS)]
        out.append(f'<text x="{left + 160 * index}" y="18" fill="{colour}">{html.escape(one.name)}</text>')
        out += [
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2" fill="{colour}" fill-opacity="0.25"/>'
            for a, b in one.canvases
        ]
        groups = binned(one.canvases)
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b, _ in groups)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for a, b, e in groups:
            ends = y(min(b + 1.96 * e, most_y)), y(max(b - 1.96 * e, 0.0))
            out.append(f'<path d="M{x(a):.1f} {ends[0]:.1f}V{ends[1]:.1f}" stroke="{colour}" stroke-width="2"/>')
    return "".join(out) + "</svg>\n"


def write(found: Sequence[Found], about: Mapping[str, Any], price: float | None, out: str | Path) -> list[Path]:
    """OUT.md and OUT.svg, each whole or not at all. Raises OSError."""
    stem = Path(out).with_suffix("") if Path(out).suffix in (".md", ".svg") else Path(out)
    stem.parent.mkdir(parents=True, exist_ok=True)
    image = stem.with_name(stem.name + ".svg")
    texts = {stem.with_name(stem.name + ".md"): markdown(found, about, price, image.name), image: plot(found)}
    for path, text in texts.items():
        with whole_file(path) as file:
            file.write(text.encode())
    return list(texts)

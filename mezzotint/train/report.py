"""A training run as one page: report.html, plots as inline SVG, nothing from elsewhere.

    report(rows of metrics.jsonl) -> HTML         chart({name: [(x, y), ...]}) -> SVG

Long runs are thinned to means of neighbouring steps; a gap in a line is a step where nothing was measured.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mezzotint.train.monitor import BINS, METRICS, PARTS, Average, duration, read_metrics

REPORT = "report.html"
COLOURS = ("#1f6f8b", "#c2571a", "#5b8c2a", "#7a4fa3", "#a63d57", "#777777")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 230, 56, 30, 12
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.5em} h2{font-size:1.05em;margin:0 0 .3em} svg{width:100%;height:auto}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:1.6em}
td,th{padding:.1em 1.2em .1em 0;text-align:left}
pre{background:#f5f4f1;padding:.8em;overflow-x:auto;font-size:13px}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#242424}svg text{fill:#bbb}}
""".strip()
Points = Sequence[tuple[float, float | None]]


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span a range."""
    raw = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.4g}"


def chart(lines: Mapping[str, Points], across: str = "step", faint: str = "") -> str:
    """Lines (name -> points) as one SVG with axes and a legend; a gap where a value is None. faint: a line drawn pale."""
    known = [(x, y) for points in lines.values() for x, y in points if y is not None and math.isfinite(y)]
    if not known:
        return "<p>nothing measured</p>"
    x0, x1 = min(x for x, _ in known), max(x for x, _ in known)
    y0, y1 = min(y for _, y in known), max(y for _, y in known)
    x1 = x1 if x1 > x0 else x0 + 1
    margin = (y1 - y0) * 0.05 or abs(y1) * 0.1 or 1.0
    y0, y1 = (0.0 if 0 <= y0 < 0.3 * y1 else y0 - margin), y1 + margin

    def at(x: float, y: float) -> tuple[float, float]:
        across_ = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - 12)
        return across_, TOP + (y1 - y) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="system-ui,sans-serif" font-size="11" fill="#555">'
    ]
    for tick in _ticks(y0, y1):
        v = at(x0, tick)[1]
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{v:.1f}" y2="{v:.1f}" stroke="#8884" stroke-width="1"/>')
        out.append(f'<text x="{LEFT - 6}" y="{v + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    for tick in _ticks(x0, x1, 6):
        h = at(tick, y0)[0]
        out.append(f'<text x="{h:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_short(tick)}</text>')
    out.append(f'<text x="{WIDTH - 12}" y="{HEIGHT - 2}" text-anchor="end">{html.escape(across)}</text>')
    for index, (name, points) in enumerate(lines.items()):
        colour, path, pen = COLOURS[index % len(COLOURS)], [], "M"
        usable = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
        for x, y in points:
            if y is None or not math.isfinite(y):
                pen = "M"
                continue
            h, v = at(x, y)
            path.append(f"{pen}{h:.1f} {v:.1f}")
            pen = "L"
        pale = ' opacity="0.35"' if name == faint else ""
        out.append(f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="1.6"{pale}/>')
        if len(usable) <= 40:
            dots = (at(x, y) for x, y in usable)
            out += [f'<circle cx="{h:.1f}" cy="{v:.1f}" r="2.2" fill="{colour}"/>' for h, v in dots]
        if len(lines) > 1:
            h = LEFT + 8 + 92 * index
            out.append(f'<rect x="{h}" y="2" width="9" height="9" fill="{colour}"/>')
            out.append(f'<text x="{h + 13}" y="10">{html.escape(name)}</text>')
    return "".join(out) + "</svg>"


def _thin(points: Points, most: int = 600) -> Points:
    """At most `most` points: means of neighbours."""
    if len(points) <= most:
        return points
    size, thinned = math.ceil(len(points) / most), list[tuple[float, float | None]]()
    for begin in range(0, len(points), size):
        group = [(x, y) for x, y in points[begin : begin + size] if y is not None and math.isfinite(y)]
        if group:
            thinned.append((group[-1][0], sum(y for _, y in group) / len(group)))
    return thinned


def _series(rows: Iterable[dict[str, Any]], name: str) -> Points:
    return _thin([(row["step"], row[name]) for row in rows if row.get(name) is not None])


def report(rows: Sequence[dict[str, Any]], title: str = "run") -> str:
    """A run as a page. Raises ValueError when it has no rows."""
    if not rows:
        raise ValueError(f"{title} has no row of metrics")
    last, probes = rows[-1], [row for row in rows if "parts" in row]
    average = Average()
    smooth = [(row["step"], average.add(math.nan if row["loss"] is None else row["loss"])) for row in rows]
    level = smooth[-1][1]
    loss = {"each step": _series(rows, "loss"), "smoothed": _thin(smooth)}
    if held_out := _series(rows, "held_out"):
        loss["held out"] = held_out
    plots = {"Loss, nats a weighted token": chart(loss, faint="each step")}
    if probes:
        by_part = {n: [(r["step"], r["parts"].get(n)) for r in probes] for n in PARTS}
        plots["Loss by what stands at a position, nats"] = chart(
            {n: p for n, p in by_part.items() if any(y is not None for _, y in p)}
        )
    canvases = [row for row in probes if "noise_rate" in row]
    if canvases:
        names = [f"{b / BINS:.0%} to {(b + 1) / BINS:.0%}" for b in range(BINS)]
        plots["Loss by the share of a canvas that is noise, nats"] = chart(
            {name: [(r["step"], r["noise_rate"][b]) for r in canvases] for b, name in enumerate(names)}
        )
        quarter = max(1, len(canvases) // 4)
        ages = {"first quarter": canvases[:quarter], "last quarter": canvases[-quarter:]}
        plots["Loss by the position in a canvas, nats"] = chart(
            {n: _by_position(some) for n, some in ages.items()}, "position"
        )
    for heading, name in (
        ("Learning rate", "rate"), ("Norm of the gradient before clipping", "norm"),
        ("Positions a second", "positions_per_second"), ("Model flops utilisation", "mfu"),
    ):  # fmt: skip
        if points := _series(rows, name):
            plots[heading] = chart({name: points})
    facts = {
        "steps": f"{last['step'] + 1:,}", "time": duration(last["seconds"]), "positions": f"{last['positions']:,}",
        "loss, smoothed": f"{level:.4f} nats" if math.isfinite(level) else "-",
        "held out, best": f"{min(r['held_out'] for r in rows if r.get('held_out') is not None):.4f} nats" if held_out else "-",
        "steps skipped": str(last.get("skipped", 0)), **_stages(rows),
    }  # fmt: skip
    table = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in facts.items())
    grid = "".join(f"<section><h2>{html.escape(h)}</h2>{svg}</section>" for h, svg in plots.items())
    samples = "".join(
        f"<h2>Step {row['step']:,}</h2><pre>{html.escape(chr(10).join(row['sample']))}</pre>"
        for row in rows
        if "sample" in row
    )
    heading = "<h1>Samples, from noise to text</h1>" if samples else ""
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>'
        f'<h1>{name}</h1><table>{table}</table><div class="grid">{grid}</div>{heading}{samples}</html>\n'
    )


def _by_position(rows: Sequence[dict[str, Any]]) -> Points:
    """Means over probes."""
    longest = max(len(row["position"]) for row in rows)
    columns = [[r["position"][p] for r in rows if p < len(r["position"])] for p in range(longest)]
    known = [[v for v in column if v is not None] for column in columns]
    return [(p, sum(values) / len(values) if values else None) for p, values in enumerate(known)]


def _stages(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The mean loss of each stage of the curriculum, in the order in which they came."""
    losses: dict[str, list[float]] = {}
    for row in rows:
        if "stage" in row and row["loss"] is not None:
            losses.setdefault(str(row["stage"]), []).append(row["loss"])
    return {
        f"stage {name}": f"{sum(some) / len(some):.4f} nats over {len(some):,} steps" for name, some in losses.items()
    }


def write_report(folder: str | Path) -> Path:
    """Draw the run in `folder`; -> report.html in it. Raises ValueError when there are no metrics, OSError."""
    folder = Path(folder)
    path = folder / METRICS
    if not path.is_file():
        raise ValueError(f"{folder} holds no run: there is no {METRICS}")
    page = report(read_metrics(path), folder.resolve().name)
    part = folder / f".{REPORT}.{os.getpid()}.part"
    part.write_text(page, encoding="utf-8")
    os.replace(part, folder / REPORT)
    return folder / REPORT

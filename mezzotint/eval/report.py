"""Stores as one page, in Markdown and in HTML with plots: scores beside the published ones, what they cost, how systems differ.

A score stands with its standard error and its number of items; a fixture is never a score. Published figures are
others' words: they are
reference columns and lines, measured on other machines by other rules where their authors do not say which.
"""

from __future__ import annotations

import datetime
import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from mezzotint.checkpoints.files import whole_file
from mezzotint.eval.scores import Split, SystemResult, TaskResult, difference, splits
from mezzotint.eval.task import STATES
from mezzotint.eval.tasks import ORDER, TASKS

COLUMNS = ("Gemini Diffusion", "Gemini 2.0 Flash-Lite")
SPEEDS = (
    "Gemini Diffusion: 1,000 to 2,000 tokens/s; 600 to 1,300 in a journalist's test, every request under 3 s",
    "Gemini 2.5 Flash: 272.4 tokens/s",
)
COLOURS = ("#1f6f8b", "#c2571a", "#5b8c2a", "#7a4fa3", "#a63d57", "#777777")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.5em} h2{font-size:1.15em;margin-top:1.8em} svg{max-width:100%;height:auto}
table{border-collapse:collapse} td,th{padding:.2em .9em .2em 0;text-align:left;vertical-align:top;border-bottom:1px solid #8883}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg text{fill:#bbb}}
""".strip()
Table = tuple[Sequence[str], list[Sequence[str]]]


def percent(result: TaskResult) -> str:
    """Score and standard error in points; where all items agree, which says nothing of the error, the 95% interval."""
    if result.about.get("fixture"):
        return f"fixture: {sum(v == 1 for v in result.items.values())} of {len(result.items)}"
    error = f" ± {100 * result.error:.1f}"
    if math.isnan(result.error) or result.error == 0:
        error = " ({:.0f} to {:.0f})".format(*(abs(100 * end) for end in result.interval))  # no -0
    return f"{100 * result.score:.1f}{error}"


def asked(result: TaskResult) -> str:
    """How many items, of how many, and how often each."""
    n, rows = len(result.items), result.about["rows"]
    items = f"{n} of {rows}" if n < rows else f"all {n}"
    items += " hand-made" if result.about.get("fixture") else ""
    return items + (f", {result.samples} samples" if result.samples > 1 else "")


def _names(results: Sequence[SystemResult]) -> list[str]:
    there = {name for result in results for name in result.tasks}
    return [name for name in TASKS if name in there]


def _labels(results: Sequence[SystemResult]) -> list[str]:
    """The systems' names; of those that share one, their folders too."""
    names = [result.name for result in results]
    return [f"{n} ({r.folder.name})" if names.count(n) > 1 else n for n, r in zip(names, results, strict=True)]


def score_table(results: Sequence[SystemResult]) -> Table:
    rows: list[Sequence[str]] = []
    for name in _names(results):
        task = TASKS[name]
        some = [result.tasks.get(name) for result in results]
        items = " / ".join(dict.fromkeys(asked(one) for one in some if one))
        published = [f"{value:.1f}" for value in task.published] if task.published else ["", ""]
        rows.append([task.title, items, *(percent(one) if one else "" for one in some), *published])
    return ["benchmark", "items", *_labels(results), *COLUMNS], rows


def other_averages(results: Sequence[SystemResult]) -> Table:
    rows: list[Sequence[str]] = []
    for name in _names(results):
        some = [result.tasks.get(name) for result in results]
        if any(one is not None and one.about.get("fixture") for one in some):
            continue
        for kind in dict.fromkeys(kind for one in some if one for kind in one.others):
            values = [f"{100 * one.others[kind]:.1f}" if one and kind in one.others else "" for one in some]
            rows.append([TASKS[name].title, kind, *values])
    return ["benchmark", "average", *_labels(results)], rows


def cost_table(results: Sequence[SystemResult]) -> Table:
    """What it took, and in which state the answers ended."""
    rows: list[Sequence[str]] = []
    for label, result in zip(_labels(results), results, strict=True):
        for name in _names([result]):
            one = result.tasks[name]
            count = sum(one.states.values())
            states = [str(one.states[state]) if one.states[state] else "" for state in STATES]
            calls = f"{one.calls:,}" if one.calls is not None else "not told"
            per_call = f"{one.tokens / one.calls:.2f}" if one.calls else ""
            work = f"{one.positions / one.tokens:.1f}" if one.positions and one.tokens else ""
            speed = f"{one.tokens / one.seconds:.1f}" if one.seconds else ""
            rows.append(
                [TASKS[name].title, label, *states, str(one.context or ""), calls, f"{one.tokens:,}", per_call, work,
                 f"{one.seconds / max(count, 1):.1f}", speed]
            )  # fmt: skip
    states = [state.replace("_", " ") for state in STATES]
    measures = (
        "over context",
        "calls",
        "tokens",
        "tokens a call",
        "positions a token",
        "seconds an answer",
        "tokens/s",
    )
    return ["benchmark", "system", *states, *measures], rows


def difference_table(results: Sequence[SystemResult]) -> Table:
    """Every system against the first, item by item."""
    rows: list[Sequence[str]] = []
    labels = _labels(results)
    for name in _names(results):
        first = results[0].tasks.get(name)
        for label, result in zip(labels[1:], results[1:], strict=True):
            second = result.tasks.get(name)
            found = difference(first, second) if first and second and not first.about.get("fixture") else None
            if found is None:
                continue
            sure = "" if found.low <= 0 <= found.high else "yes"
            rows.append([
                TASKS[name].title, label, str(found.items), f"{100 * found.mean:+.1f}",
                f"{100 * found.low:+.1f} to {100 * found.high:+.1f}", f"{found.better} / {found.worse}", sure,
            ])  # fmt: skip
    return ["benchmark", f"against {labels[0]}", "items", "points", "95% interval", "better / worse", "differs"], rows


def how_table(results: Sequence[SystemResult]) -> Table:
    """Everything that a figure depends on."""
    rows: list[Sequence[str]] = []
    for name in _names(results):
        for one in {id(r.tasks[name].about): r.tasks[name] for r in results if name in r.tasks}.values():
            about = one.about
            judged = one.grading if one.grading != "value" else "by value"
            row = [
                TASKS[name].title, f"{', '.join(about['files'])} {about['data_sha256'][:12]}", about["prompts_sha256"][:12],
                f"at most {about['max_tokens']} tokens", f"{judged}, {one.isolation}", f"seed {about['seed']}", TASKS[name].note,
            ]  # fmt: skip
            if row not in rows:
                rows.append(row)
    return ["benchmark", "data, SHA-256", "prompts, SHA-256", "answers", "judged", "drawn by", "note"], rows


Gap = Callable[[Split], float]


def same_text(results: Sequence[SystemResult], gap: Gap | None = None) -> list[str]:
    """Do `verified` stores hold the text of the `ar` store of the same weights? gap: between the two likeliest tokens there."""
    lines = []
    for plain in (r for r in results if r.system.get("decode") == "ar"):
        for other in (r for r in results if r.system.get("decode") == "verified"):
            if plain.system.get("weights_sha256") != other.system.get("weights_sha256"):
                continue
            shared, found = splits(plain.folder, other.folder)
            lines.append(f"{other.name} against {plain.name}: {shared} answers in both, {len(found)} differ.")
            for split in found[:50]:
                tie = f", logit gap {gap(split):.2e}" if gap else ""
                lines.append(f"{split.task} {split.item} (sample {split.sample}): first at token {split.at}{tie}")
    return lines


# -- the page -------------------------------------------------------------------------------------------------------


def sections(results: Sequence[SystemResult], gap: Gap | None = None) -> list[tuple[str, str, Table | None]]:
    """(heading, words, table) in order; those without rows are left out."""
    missing = [TASKS[name].title for name in ORDER if name not in _names(results)]
    words = "Points, with the standard error over items; where all items agree, the 95% interval (Wilson). "
    words += "Published columns: pass@1, as their authors give them."
    words += f" Not run: {', '.join(missing)}." if missing else ""
    cost = (
        "One call is one forward pass for one row, prefill excluded. Truncated answers, prompts over the context among "
        "them, count as failures. An infra_error counts as a failure too, and is asked again by the same command."
    )
    told = [
        ("Scores", words, score_table(results)), ("Other averages", "", other_averages(results)),
        ("States and cost", cost, cost_table(results)),
        ("Differences, item by item", "Bootstrap over the items that both systems answered.", difference_table(results)),
        ("How", "", how_table(results)),
    ]  # fmt: skip
    made: list[tuple[str, str, Table | None]] = [(h, w, t) for h, w, t in told if t[1]]
    if same := same_text(results, gap):
        made.append(("The same text", "\n".join(f"- {line}" for line in same), None))
    made.append(("Published speeds, for reference", "\n".join(f"- {line}" for line in SPEEDS), None))
    commands = dict.fromkeys(
        str(t.about["command"]) for r in results for t in r.tasks.values() if t.about.get("command")
    )
    if commands:
        made.append(("Commands", "\n".join(f"- `{command}`" for command in commands), None))
    return made


def written(note: str) -> str:
    """When, and what the user wants to be said of it."""
    return f"Written on {datetime.date.today():%Y-%m-%d}" + (f"; {note}" if note else "") + "."


def markdown(results: Sequence[SystemResult], title: str, gap: Gap | None = None, note: str = "") -> str:
    out = [f"# {title}", "", written(note), ""]
    for heading, words, table in sections(results, gap):
        out += [f"## {heading}", ""]
        out += [words, ""] if words else []
        if table:
            head, rows = table
            out += [_line(head), "|" + "---|" * len(head), *map(_line, rows), ""]
    return "\n".join(out).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def page(results: Sequence[SystemResult], title: str, gap: Gap | None = None, note: str = "") -> str:
    """HTML that needs nothing from elsewhere."""
    name = html.escape(title)
    out = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style><h1>{name}</h1>'
        f"<p>{html.escape(written(note))}</p>"
    ]
    for number, (heading, words, table) in enumerate(sections(results, gap)):
        out.append(f"<h2>{html.escape(heading)}</h2>")
        items = [line[2:] for line in words.split("\n") if line.startswith("- ")]
        if items:
            out.append("<ul>" + "".join(f"<li>{html.escape(item.strip('`'))}</li>" for item in items) + "</ul>")
        elif words:
            out.append(f"<p>{html.escape(words)}</p>")
        if number == 0:
            out.append(bars(results))
        if heading == "States and cost":
            out.append(steps(results))
        if table:
            head, rows = table
            cells = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in rows)
            out.append(f"<table><tr>{''.join(f'<th>{html.escape(c)}</th>' for c in head)}</tr>{cells}</table>")
    return "\n".join([*out, "</html>\n"])


def bars(results: Sequence[SystemResult]) -> str:
    """A bar a system with its 95% interval, and ticks where the published figures are. Fixtures are left out."""
    names = [n for n in _names(results) if not any(r.tasks[n].about.get("fixture") for r in results if n in r.tasks)]
    if not names:
        return ""
    tall, left, wide = 14 * len(results) + 16, 300, 1000
    height = tall * len(names) + 40

    def across(share: float) -> float:
        return left + share * (wide - left - 40)

    out = [_svg(wide, height)]
    for tick in range(0, 101, 20):
        x = across(tick / 100)
        out.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="24" y2="{height - 12}" stroke="#8883"/>')
        out.append(f'<text x="{x:.0f}" y="{height}" text-anchor="middle">{tick}</text>')
    for index, label in enumerate([*_labels(results), *COLUMNS]):
        published = index >= len(results)
        colour = "#000" if published else COLOURS[index % len(COLOURS)]
        shape = '<path d="M{x} 4v12" stroke="{c}" stroke-width="2" stroke-dasharray="{d}"/>' if published else (
            '<rect x="{x}" y="5" width="9" height="9" fill="{c}"/>'
        )  # fmt: skip
        x = 10 + index * (wide - 20) / (len(results) + 2)
        dash = "0" if index == len(results) else "3 2"
        out.append(
            shape.format(x=round(x), c=colour, d=dash) + f'<text x="{x + 14:.0f}" y="14">{html.escape(label)}</text>'
        )
    for row, name in enumerate(names):
        top = 28 + row * tall
        out.append(
            f'<text x="{left - 8}" y="{top + tall / 2:.0f}" text-anchor="end">{html.escape(TASKS[name].title)}</text>'
        )
        for index, result in enumerate(results):
            if one := result.tasks.get(name):
                y, (low, high) = top + 14 * index, one.interval
                colour = COLOURS[index % len(COLOURS)]
                out.append(
                    f'<rect x="{left}" y="{y}" width="{across(one.score) - left:.1f}" height="10" fill="{colour}"/>'
                    f'<path d="M{across(low):.1f} {y + 5}H{across(high):.1f}" stroke="#000" stroke-width="1.2"/>'
                )  # fmt: skip
        for index, value in enumerate(TASKS[name].published or ()):
            x, dash = across(value / 100), ' stroke-dasharray="3 2"' if index else ""
            out.append(f'<path d="M{x:.1f} {top - 3}v{tall - 8}" stroke="#000" stroke-width="2"{dash}/>')
    return "".join(out) + "</svg>"


def steps(results: Sequence[SystemResult]) -> str:
    """Calls a token against how hard a benchmark is for the same system (share of answers not correct): a dot a benchmark."""
    dots = [
        (index, 1 - one.score, one.calls / one.tokens, TASKS[name].title)
        for index, result in enumerate(results) for name, one in result.tasks.items()
        if one.calls and one.tokens and not one.about.get("fixture")
    ]  # fmt: skip
    if not dots:
        return ""
    wide, height, top = 640, 260, max(1.05, 1.1 * max(y for _, _, y, _ in dots))
    out = [_svg(wide, height), f'<text x="{wide - 10}" y="{height - 4}" text-anchor="end">share not correct</text>']
    out.append('<text x="4" y="12">calls a token</text>')
    for tick in range(0, 101, 20):
        x = 50 + tick / 100 * (wide - 70)
        out.append(f'<text x="{x:.0f}" y="{height - 18}" text-anchor="middle">{tick / 100:g}</text>')
    for share in (0.0, 0.5, 1.0):
        y = height - 34 - share / top * (height - 60)
        out.append(
            f'<line x1="50" x2="{wide - 20}" y1="{y:.0f}" y2="{y:.0f}" stroke="#8883"/>'
            f'<text x="20" y="{y + 4:.0f}">{share:g}</text>'
        )
    for index, x, y, title in dots:
        h, v = 50 + x * (wide - 70), height - 34 - y / top * (height - 60)
        out.append(
            f'<circle cx="{h:.1f}" cy="{v:.1f}" r="4" fill="{COLOURS[index % len(COLOURS)]}">'
            f"<title>{html.escape(title)}</title></circle>"
        )
    return "".join(out) + "</svg>"


def _svg(wide: int, height: int) -> str:
    begin = f'<svg viewBox="0 0 {wide} {height}" width="{wide}" role="img"'
    return f'{begin} font-family="system-ui,sans-serif" font-size="12" fill="#555">'


def write(
    results: Sequence[SystemResult], out: str | Path, title: str, gap: Gap | None = None, note: str = ""
) -> list[Path]:  # fmt: skip
    """OUT.md and OUT.html, each whole or not at all. note: of the commit and the machine. Raises OSError."""
    stem = Path(out).with_suffix("") if Path(out).suffix in (".md", ".html") else Path(out)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + end) for end in (".md", ".html")]
    for path, text in zip(paths, (markdown(results, title, gap, note), page(results, title, gap, note)), strict=True):
        with whole_file(path) as file:
            file.write(text.encode())
    return paths

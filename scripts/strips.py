"""Draw docs/images/edit-PRESET.svg: one edit by each preset, as the default model makes it, good or bad. Nothing is chosen.

    python scripts/strips.py [PRESET...]    the request, the text before and after: what went is struck out, what came underlined

The cases are below, one a preset, written before any of them was run.
"""

import sys
from html import escape
from pathlib import Path

import mezzotint as mz
from mezzotint.edit.checks import problems
from mezzotint.edit.editor import Where, edit
from mezzotint.edit.hunks import Edit
from mezzotint.edit.presets import Preset, preset

OUT = Path(__file__).parents[1] / "docs/images"
WIDTH, LINE, LEFT, SIZE, COLUMNS = 980, 22, 28, 14, 104
PAPER, PANEL, INK, LABEL, GONE, CAME = "#f6f3ec", "#fffdf8", "#1d1b18", "#8a6d3b", "#b3392f", "#2c6e49"
CODE = """def total(items):
    result = 0
    for i in range(len(items)):
        result = result + items[i]
    return result
"""
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "grammar": ("She dont like apples, and yesterday he go to the market without her.", {}),
    "audience": (
        "Photosynthesis converts light energy into chemical energy, which plants store as glucose.",
        {"audience": "ten-year-olds"},
    ),
    "seo": (
        "Our tool turns a folder of notes into a website. It needs no server, and every page loads in under a second.",
        {"keywords": "markdown, static site"},
    ),
    "refactor": (CODE, {}),
    "feature": (CODE, {"instruction": "a parameter start, which is added to the total"}),
    "convert": (CODE, {"language": "JavaScript"}),
    "free": ("Your request was denied. Do not write to us again.", {"instruction": "Make this polite."}),
}

NO_BREAK = "\u00a0"  # browsers leave out plain spaces at a line's start
Piece = tuple[str, str]  # text and colour: "" for what stayed


def sides(done: Edit) -> tuple[list[Piece], list[Piece]]:
    """The text before and after, in pieces."""
    old, new, at = list[Piece](), list[Piece](), 0
    for hunk in done.hunks:
        same = done.before[at : hunk.start]
        old += [(same, ""), (hunk.before, GONE)]
        new += [(same, ""), (hunk.after, CAME)]
        at = hunk.end
    return [*old, (done.before[at:], "")], [*new, (done.before[at:], "")]


def lines(pieces: list[Piece]) -> list[list[Piece]]:
    """Pieces as lines of at most COLUMNS characters, broken between words where there is one."""
    whole = "".join(text for text, _ in pieces)
    colours = [colour for text, colour in pieces for _ in text]
    rows, start = list[list[Piece]](), 0
    while start < len(whole):
        end = whole.find("\n", start, start + COLUMNS)
        if end < 0:
            end = min(start + COLUMNS, len(whole))
            if end < len(whole) and (space := whole.rfind(" ", start, end)) > start:
                end = space
        row = list[Piece]()
        for i in range(start, end):
            if row and row[-1][1] == colours[i]:
                row[-1] = row[-1][0] + whole[i], colours[i]
            else:
                row.append((whole[i], colours[i]))
        rows.append(row)
        start = end + (whole[end : end + 1] in ("\n", " "))
    return rows or [[]]


def span(text: str, colour: str) -> str:
    style = f'fill="{colour or INK}"'
    if colour:
        style += ' font-weight="600" text-decoration="' + ("line-through" if colour == GONE else "underline") + '"'
    return f"<tspan {style}>{escape(text).replace(' ', NO_BREAK)}</tspan>"


def fitting(told: str) -> float:
    """The size at which a line is no wider than the picture; a character is about 0.61 of its size wide."""
    return min(SIZE, int(10 * (WIDTH - 2 * LEFT) / (0.61 * len(told))) / 10)


def draw(told: str, done: Edit, found: list[str]) -> str:
    old, new = map(lines, sides(done))
    height = 78 + LINE * (len(old) + len(new)) + 66
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(told)}</title>",
        f'<rect width="100%" height="100%" rx="10" fill="{PAPER}"/>',
        f'<g font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="{SIZE}">',
        f'<text x="{LEFT}" y="30" fill="{LABEL}" font-size="{fitting(told)}">{escape(told)}</text>',
    ]
    y = 44
    for rows in (old, new):
        out.append(
            f'<rect x="14" y="{y}" width="{WIDTH - 28}" height="{LINE * len(rows) + 16}" rx="6" fill="{PANEL}"/>'
        )
        for n, row in enumerate(rows):
            line = "".join(span(text, colour) for text, colour in row)
            out.append(f'<text x="{LEFT}" y="{y + 22 + LINE * n}">{line}</text>')
        y += LINE * len(rows) + 26
    changes = f"{len(done.hunks)} change{'s' * (len(done.hunks) != 1)}" if done.hunks else "nothing changed"
    said = "; ".join([f"{done.way}: {changes}, {done.num_calls} calls", *(f"check {problem}" for problem in found)])
    out.append(f'<text x="{LEFT}" y="{y + 14}" fill="{LABEL}" font-size="12">{escape(said)}</text>')
    return "\n".join([*out, "</g>", "</svg>", ""])


def main() -> None:
    engine = mz.Engine(mz.load("default"), compute="auto")
    for name in sys.argv[1:] or CASES:
        text, values = CASES[name]
        chosen: Preset = preset(name)
        ask = chosen.ask(values)
        done = edit(engine, text, ask, Where(keep_layout=chosen.keep_layout))
        path = OUT / f"edit-{name}.svg"
        path.write_text(
            draw(f"{name}: {ask.instruction}", done, problems(done, chosen.checks, values)), encoding="utf-8"
        )
        print(f"{path.name}: {done.way}, {len(done.hunks)} changes, {done.num_calls} calls; {'; '.join(done.notes)}")
        print(done.diff(name), flush=True)


if __name__ == "__main__":
    main()

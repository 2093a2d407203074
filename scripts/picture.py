"""Draw docs/images/emerging.svg: calls of one generation, committed text dark, guesses pale. Everything in it was decoded."""

from html import escape
from pathlib import Path

import mezzotint as mz
from mezzotint.sampler.canvas import OPEN

OUT = Path(__file__).parents[1] / "docs/images/emerging.svg"
WIDTH, LINE, LEFT, TOP = 980, 24, 28, 40
PAPER, INK, PALE, LABEL = "#f6f3ec", "#1d1b18", "#a59d8f", "#8a6d3b"
COLUMNS = 92


def main() -> None:
    engine = mz.Engine(mz.load("default"))
    reply = engine.generate(mz.Request("Name three colours.", max_tokens=18, draft_length=14, seed=0))[0]
    rows = []
    for frame, ids, status in reply.trace.views():
        done = next((i for i, s in enumerate(status) if s == OPEN), len(ids))
        done_text = engine.tokenizer.decode(ids[:done])
        guess = engine.tokenizer.decode(ids[done:])
        done_text, guess = (text.replace("\n", "⏎").replace("\ufffd", "·") for text in (done_text, guess))
        rows.append((frame.step, done_text, guess[: max(0, COLUMNS - len(done_text))]))
    height = TOP + LINE * len(rows) + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Text emerging from random tokens, one line a call</title>",
        f'<rect width="100%" height="100%" rx="10" fill="{PAPER}"/>',
        '<g font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="15" xml:space="preserve">',
    ]
    for number, (step, done_text, guess) in enumerate(rows):
        y = TOP + LINE * number
        lines.append(
            f'<text x="{LEFT}" y="{y}"><tspan fill="{LABEL}" font-size="12">{step:>2}  </tspan>'
            f'<tspan fill="{INK}" font-weight="600">{escape(done_text)}</tspan>'
            f'<tspan fill="{PALE}" font-style="italic">{escape(guess)}</tspan></text>'
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("\n".join([*lines, "</g>", "</svg>", ""]), encoding="utf-8")
    print(OUT)


if __name__ == "__main__":
    main()

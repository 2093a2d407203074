"""Web pages as a benchmark: a page is asked for in words, and judged in a browser by what it shows and does.

    {"id", "instruction", "checks": [...], "reference"}      checks: see `browser.Browser.grade`

No public set is stored with checks of this kind, so the rows are the user's own (`web_pages.jsonl`); three hand-made ones
come with the package.
"""

from __future__ import annotations

import re

from mezzotint.eval.browser import checked
from mezzotint.eval.data import required
from mezzotint.eval.judge import Judge
from mezzotint.eval.task import NO_ANSWER, Item, Rows, Task, Verdict, user

ASKED = (
    "{instruction}\n\nAnswer with one complete HTML page in a ```html block. Style and script stand in the page itself; it may "
    "load nothing from elsewhere."
)


def page_in(text: str) -> str | None:
    """The HTML page in an answer: the first ```html block, else from the doctype or <html> on; None where there is none."""
    if fence := re.search(r"```html?[ \t]*\n(.*?)(?:\n```|\Z)", text, re.S | re.I):
        return fence[1]
    bare = re.search(r"<!doctype html.*|<html.*", text, re.S | re.I)
    return None if bare is None else bare[0].split("\n```")[0]


def items(rows: Rows, sample: int) -> list[Item]:
    found = []
    for row in rows:
        required(row, "id", "instruction", "checks")
        try:
            checks = checked(row["checks"])
        except ValueError as error:
            raise ValueError(f"{row['id']}: {error}") from None
        text = ASKED.format(instruction=row["instruction"])
        gold = {"checks": checks, "reference": row.get("reference", "")}
        found.append(Item(str(row["id"]), user(text), f"{row['instruction']}\n\n```html\n", gold))
    return found


def judge_page(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    page = text.split("\n```")[0] if plain else page_in(text)
    if not page or not page.strip():
        return NO_ANSWER
    return judge.page(page, item.gold["checks"])


TASKS = (
    Task(
        "web-pages", "Web pages, judged in a browser", (("web_pages",),), items, judge_page,
        lambda item: f"```html\n{item.gold['reference']}\n```", 3, "rows of your own: see docs/guides/evaluation.md", 2048,
        "web_pages_schema", page=True,
    ),
)  # fmt: skip

"""Actions: what an editor offers for a selection, and the work behind it.

Fix grammar and spelling                      a preset that needs no value
Rewrite for an audience: children             one whose value the settings name
Whatever you say ...                          one whose value the editor asks for, where it can (`prompts`)

The server answers before torch is there, so what needs it is imported by the functions that work on the engine.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mezzotint.edit.ask import Ask, Report
from mezzotint.edit.checks import problems
from mezzotint.edit.hunks import Edit, Hunk
from mezzotint.edit.locks import Span
from mezzotint.edit.presets import Preset
from mezzotint.live.document import Document, History, Recent

if TYPE_CHECKING:
    from mezzotint.engine.engine import Engine

MOST = 50_000  # characters of a selection
DOUBTED = 20_000  # characters that are asked about at once
NEAR = 2000  # lines on either side among which the next place is looked for
ALIKE = 0.6  # how similar its words must be to those that were changed
BESIDE = 3  # lines around the next place that the model sees
LONGEST_HISTORY = 400  # characters of the latest changes that the model is told
NEXT = "Make the same kind of change in this text that the latest changes made elsewhere."
VALUES = {"audience": ("children", "experts"), "language": ("Python", "JavaScript")}
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Settings:
    """What an editor's `initializationOptions` say. values: of each name that presets need, those to offer; prompts: the editor
    answers the request mezzotint/input. `of` raises ValueError for what cannot be."""

    values: Mapping[str, Sequence[str]] = field(default_factory=lambda: dict(VALUES))
    prompts: bool = False

    @classmethod
    def of(cls, told: Any) -> Settings:
        if told is None:
            return cls()
        if not isinstance(told, dict):
            raise ValueError(f"initializationOptions are {told!r:.60}; expected an object of values and prompts")
        if unknown := sorted(set(told) - {"values", "prompts"}):
            raise ValueError(f"unknown setting {unknown[0]!r}; known: values, prompts")
        values, prompts = told.get("values", {}), told.get("prompts", False)
        if not isinstance(prompts, bool):
            raise ValueError(f"prompts is {prompts!r:.40}; it must be true or false")
        fit = isinstance(values, dict) and all(
            isinstance(some, list) and all(isinstance(one, str) and one.strip() for one in some)
            for some in values.values()
        )
        if not fit:
            raise ValueError(
                f'values are {values!r:.60}; expected lists of text by name, such as {{"audience": ["children"]}}'
            )
        return cls({**VALUES, **{name: tuple(some) for name, some in values.items()}}, prompts)


@dataclass(frozen=True)
class Offer:
    """values: what the preset is told; missing: what the editor has to ask for; disabled: why it cannot be chosen."""

    title: str
    preset: str
    values: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    disabled: str | None = None


def offers(known: Mapping[str, Preset], settings: Settings) -> list[Offer]:
    """Every preset at least once."""
    found = []
    for name, preset in known.items():
        title, needs = preset.title or name, preset.needs
        if not needs:
            found.append(Offer(title, name))
            continue
        named = settings.values.get(needs[0], ()) if len(needs) == 1 else ()
        found += [Offer(f"{title}: {value}", name, {needs[0]: value}) for value in named]
        if settings.prompts:
            found.append(Offer(f"{title} ...", name, missing=tuple(needs)))
        elif not named:
            found.append(Offer(title, name, disabled=f"the settings name no values for {', '.join(needs)}"))
    return found


def selected(document: Document, start: int, end: int) -> Span:
    """The characters a selection means: itself, or the paragraph around it where it is empty. Raises ValueError.

    White space at both ends is left out.
    """
    if end < start:
        raise ValueError(f"the range ends at {end}, before its start {start}")
    if start == end:
        first = last = document.line_of(start)
        while first > 0 and document.line(first - 1).strip() and document.line(first).strip():
            first -= 1
        while last + 1 < len(document.starts) and document.line(last + 1).strip() and document.line(last).strip():
            last += 1
        start, end = document.starts[first], document.starts[last] + len(document.line(last))
    text = document.text[start:end]
    if not text.strip():
        raise ValueError("there is no text in the selection, and none around the cursor")
    if len(text) > MOST:
        raise ValueError(f"the selection has {len(text)} characters; it may have {MOST}")
    return start, end


def edited(
    engine: Engine, text: str, preset: Preset, values: Mapping[str, str], report: Report
) -> tuple[Edit, list[str]]:
    """The edit that a preset makes of a text, and what its checks find. Raises ValueError."""
    from mezzotint.edit.editor import Where, edit

    done = edit(engine, text, preset.ask(values), Where(keep_layout=preset.keep_layout), report=report)
    return done, problems(done, preset.checks, values)


def moved(hunks: Sequence[Hunk], by: int) -> list[tuple[Span, str]]:
    """(characters, what takes their place) of a text in which the edited one begins at `by`; equal ends left out."""
    found = []
    for hunk in hunks:
        first, last = hunk.common
        span = by + hunk.start + first, by + hunk.end - last
        found.append((span, hunk.after[first : len(hunk.after) - last]))
    return found


# -- the next edit ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Next:
    """Where the latest changes may be wanted again. window: characters that the model sees; free: those it may change."""

    window: Span
    free: Span
    instruction: str


def next_place(document: Document, history: History, line: int) -> Next | None:
    """The lines most like those that were changed last, nearest to `line`; None where there are none.

    This only finds the place. What becomes of it is the model's to say: it is told the changes.
    """
    hunks = history.hunks(document)
    if not hunks:
        return None
    latest, _ = hunks[-1]
    wanted = _WORDS.findall(latest.before)
    size = max(1, len(latest.before.splitlines()))
    taken = {n for recent in history.recent for n in range(recent.start, recent.start + recent.count)}
    best: tuple[float, int, int] | None = None
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(wanted)
    for first in range(max(0, line - NEAR), min(len(document.starts), line + NEAR) - size + 1):
        if taken & set(range(first, first + size)):
            continue
        matcher.set_seq1(_WORDS.findall(document.lines(first, first + size)))
        if matcher.real_quick_ratio() < ALIKE or matcher.quick_ratio() < ALIKE:
            continue
        key = (round(matcher.ratio(), 3), -abs(first - line), first)
        if key[0] >= ALIKE and (best is None or key > best):
            best = key
    if best is None:
        return None
    first = best[2]
    window = max(0, first - BESIDE), min(len(document.starts), first + size + BESIDE)
    start, end = document.starts[first], document.starts[first + size - 1] + len(document.line(first + size - 1))
    begin = document.starts[window[0]]
    return Next((begin, begin + len(document.lines(*window))), (start, end), instruction(hunks))


def instruction(hunks: Sequence[tuple[Recent, str]]) -> str:
    """What the model is told of the latest changes: as many as have room, oldest first."""
    told = ""
    for recent, after in reversed(hunks):
        lines = difflib.ndiff(recent.before.splitlines(), after.splitlines())
        part = "".join(f"{line.rstrip()}\n" for line in lines if line[:1] in "-+")
        if told and len(part) + len(told) > LONGEST_HISTORY:
            break
        told = part[-LONGEST_HISTORY:] + told
    return f"{NEXT}\n{told}".rstrip()


def next_edit(engine: Engine, document: str, place: Next, report: Report) -> Edit:
    """The model's edit of that place, as an edit of its window. Raises ValueError."""
    from mezzotint.edit.editor import Where, edit

    start, end = place.window
    free = place.free[0] - start, place.free[1] - start
    locks = [span for span in ((0, free[0]), (free[1], end - start)) if span[0] < span[1]]
    ask = Ask(place.instruction, rewrites=True, sure=0.6)
    return edit(engine, document[start:end], ask, Where(locks), report=report)


# -- doubt ----------------------------------------------------------------------------------------------------------


def doubts(engine: Engine, text: str, report: Report) -> list[tuple[Span, float]]:
    """Words that the model doubts, and p of the least likely token of each. Raises ValueError."""
    from mezzotint.edit.doubt import doubt

    found = doubt(engine, text, report=report)
    chances = found.characters()
    return [((a, b), min(p for p in chances[a:b] if p is not None)) for a, b in found.words()]

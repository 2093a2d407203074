"""Editing: a text and what to change in, an `Edit` out.

    revise    correct the text where it stands                    "fix the grammar"
    rewrite   say it anew, from half noise where weights can      "for children"
    resolve   some hunks were rejected: their old text is locked, and the rest is worked on again

Whichever way is taken (`router.py`): locked text stays, byte for byte; line ends stay those of the text, and so does whether it
ends in one; a budget keeps the surest hunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import regex

from mezzotint.edit.ask import Ask, Report, silent
from mezzotint.edit.doubt import Doubt, doubt
from mezzotint.edit.hunks import Edit, Hunk
from mezzotint.edit.keywords import insert
from mezzotint.edit.locks import Locks, Span, edges, layout, outside_lines
from mezzotint.edit.passages import follows
from mezzotint.edit.repair import repair
from mezzotint.edit.rescore import rescore
from mezzotint.edit.revise import Reviser
from mezzotint.edit.router import Choice, choose
from mezzotint.edit.source import Source
from mezzotint.edit.verified import Rewriter
from mezzotint.engine.engine import Engine

_BREAK = regex.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Where:
    """What of a text may change. locks: spans of characters; lines: A-B, the only ones; keep_layout: line ends and indentation
    are locked too; only_doubtful: nothing but words that the network doubts (`doubt.py`)."""

    locks: Sequence[Span] = ()
    lines: str | None = None
    keep_layout: bool = True
    only_doubtful: bool = False

    def of(self, text: str) -> Locks:
        """The locks of a text, doubt left out. Raises ValueError for spans and lines that it does not have."""
        given = Locks.of(text, self.locks)
        more = [*edges(text), *(layout(text) if self.keep_layout else ())]
        more += outside_lines(text, self.lines) if self.lines else ()
        return replace(_joined(text, given, [s for s in more if s[0] < s[1]]), moved=given.moved)


def revise(
    engine: Engine, text: str, instruction: str = "fix the grammar", *, locks: Sequence[Span] = (), strength: float = 0.0,
    budget: float = 1.0, way: str = "auto", seed: int = 0,
) -> Edit:  # fmt: skip
    """Correct `text`; characters in `locks` stay. strength: share of it, what is most in doubt, that starts as noise. budget:
    share that may change. way: see `router.py`. `edit` has more to choose. ValueError for what cannot be."""
    ask = Ask(instruction, strength=strength, budget=budget, seed=seed)
    return edit(engine, text, ask, Where(locks), way=way)


def rewrite(
    engine: Engine, text: str, instruction: str, *, locks: Sequence[Span] = (), strength: float = 0.5, budget: float = 1.0,
    way: str = "auto", seed: int = 0,
) -> Edit:  # fmt: skip
    """Write `text` anew as the instruction says; arguments as in `revise`."""
    ask = Ask(instruction, strength=strength, budget=budget, rewrites=True, seed=seed)
    return edit(engine, text, ask, Where(locks), way=way)


def resolve(
    engine: Engine, before: Edit, rejected: Sequence[int], ask: Ask | None = None, where: Where | None = None,
    way: str = "auto", report: Report = silent,
) -> Edit:  # fmt: skip
    """Edit the source of `before` again with the old text of the rejected hunks locked, and what surrounds it.

    No hunk of the result touches a rejected one. Raises ValueError for numbers that no hunk has.
    """
    before.reject(*rejected)
    where = where or Where()
    hunks = [before.hunks[number] for number in rejected]
    held = [span for h in hunks for span in ((h.start, h.end), (h.start, h.start), (h.end, h.end))]
    return edit(engine, before.before, ask or Ask(), replace(where, locks=[*where.locks, *held]), way, report)


def edit(
    engine: Engine,
    text: str,
    ask: Ask | None = None,
    where: Where | None = None,
    way: str = "auto",
    report: Report = silent,
) -> Edit:
    """Do what `ask` says, where it may be done, in the way that the router chooses or `way` says.

    Raises ValueError for locks outside the text, a way that this checkpoint does not know, an instruction too long for it.
    """
    ask, where = ask or Ask(), where or Where()
    choice = choose(engine, ask, way)
    locks = where.of(text)
    notes = [f"lock {a}:{b} was widened to {c}:{d}, to whole characters" for (a, b), (c, d) in locks.moved]
    calls = 0
    if where.only_doubtful:
        found = doubt(engine, text, ask.instruction, locks, report)
        locks, calls = _only(found, locks), found.num_calls
    free = sum(end - start for start, end in locks.free(len(text)))
    done = _made(engine, text, ask, locks, choice, report) if free and ask.budget else Edit(text, [])
    if choice.way in ("diffusion", "repair") and not follows(engine):
        notes.append(f"{engine.checkpoint.name} reads no instruction; it changes what it doubts")
    hunks = _fitting(text, done.hunks, locks)
    whole = Edit(text, hunks, calls + done.num_calls, choice.way, (*notes, *done.notes))
    return whole if ask.budget == 1 else whole.within(ask.budget, free)


def _made(engine: Engine, text: str, ask: Ask, locks: Locks, choice: Choice, report: Report) -> Edit:
    if choice.way == "rescore":
        return rescore(
            engine, text, ask.instruction, margin=ask.margin, channel=ask.channel, locks=locks,
            report=lambda done, total: report("rescoring", done, total),
        )  # fmt: skip
    if choice.way == "insert":
        return insert(engine, text, ask.phrases, likely=ask.likely, locks=locks, report=report)
    if choice.way == "repair":
        held = [*locks.spans, *((place, place) for place in locks.seals)]
        return repair(engine, text, ask.sure, held)
    source = Source.of(text, locks, engine.tokenizer)
    if choice.way == "diffusion":
        reviser = Reviser(engine, source, ask, report)
        changes = reviser.run()
        return Edit(text, source.hunks(changes, engine.tokenizer), reviser.num_calls)
    rewriter = Rewriter(engine, source, ask, report)
    hunks = rewriter.run()
    stayed = f"{rewriter.kept} places stay as they were: the model did not come back to the text that follows them"
    return Edit(text, hunks, rewriter.num_calls, notes=(stayed,) * bool(rewriter.kept))


def _joined(text: str, locks: Locks, more: Sequence[Span]) -> Locks:
    return Locks.of(text, [*locks.spans, *((place, place) for place in locks.seals), *more])


def _only(found: Doubt, locks: Locks) -> Locks:
    """These locks, and all that is not in doubt."""
    ends = [0, *(border for word in found.words() for border in word), len(found.text)]
    sure = [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if a < b]
    return _joined(found.text, locks, sure)


def _fitting(text: str, hunks: Sequence[Hunk], locks: Locks) -> list[Hunk]:
    """Hunks with the text's own line ends, none added at its end; those that would write at a sealed place are left out."""
    breaks = _BREAK.findall(text)
    usual = max(("\n", "\r\n", "\r"), key=breaks.count)
    found = []
    for hunk in hunks:
        after = _BREAK.sub(usual, hunk.after) if usual != "\n" or "\r" in hunk.after else hunk.after
        if hunk.end == len(text) and not text.endswith(("\n", "\r")):
            after = after.rstrip("\r\n")
        hunk = replace(hunk, after=after)
        if hunk.before != after and locks.allow(*_core(hunk)):
            found.append(hunk)
    return found


def _core(hunk: Hunk) -> Span:
    """The characters that a hunk really replaces: what both sides begin and end with left out."""
    start = hunk.start + hunk.common[0]
    return start, hunk.end - hunk.common[1]

"""Which way an edit is made, and why: what was measured decides where it was, what the checkpoint declares elsewhere.

diffusion   canvases denoised from the source          weights that have learnt to denoise
rescore     words tried and judged, left to right      any weights; corrections
verified    written anew, the source as the draft      any weights that follow instructions; rewriting
insert      phrases put where they fit                 any weights; keywords
repair      sure errors overwritten, at equal length   weights that have learnt to doubt what they see; on request
"""

from __future__ import annotations

from dataclasses import dataclass

from mezzotint.edit.ask import Ask
from mezzotint.edit.passages import follows
from mezzotint.edit.repair import can_repair
from mezzotint.engine.engine import Engine

WAYS = ("diffusion", "rescore", "verified", "repair", "insert")


@dataclass(frozen=True)
class Measured:
    """What a way has reached at a kind of edit: a score (more is better) and what it is, seconds an edit, where it is written."""

    score: float
    measure: str
    seconds: float
    source: str


_LOG = "docs/log.md, 10 items"

# (checkpoint, does the edit rewrite?, way) -> what it reached there
MEASURED: dict[tuple[str, bool, str], Measured] = {
    ("default", False, "diffusion"): Measured(0.310, "GLEU", 0.9, _LOG),
    ("default", False, "rescore"): Measured(0.469, "GLEU", 16.6, _LOG),
    ("default", True, "diffusion"): Measured(0.42, "school years fewer", 16.2, _LOG),
    ("default", True, "verified"): Measured(2.32, "school years fewer", 8.3, _LOG),
}


@dataclass(frozen=True)
class Choice:
    """way: one of `WAYS`; why: one sentence."""

    way: str
    why: str

    def __str__(self) -> str:
        return f"{self.way}: {self.why}"


def choose(engine: Engine, ask: Ask, way: str = "auto") -> Choice:
    """The way to make this edit. Raises ValueError for an unknown one and for one that this checkpoint does not know."""
    engine.must_read()
    name, facts = engine.checkpoint.name, engine.checkpoint.facts
    possible = _possible(engine)
    if way == "insert" and not ask.phrases:
        raise ValueError("insert works phrases in, and none are given; take --preset seo --with keywords=...")
    if way != "auto":
        if way not in WAYS:
            raise ValueError(f"unknown way {way!r}; known: auto, {', '.join(WAYS)}")
        if way not in possible:
            raise ValueError(f"{name} cannot edit by {way}; it can by {', '.join(possible)}")
        return Choice(way, "as asked")
    if ask.phrases:
        return Choice("insert", "phrases are to be worked in, and any weights can judge where")
    known = {way: found for way in possible if (found := MEASURED.get((name, ask.rewrites, way)))}
    if len(known) > 1:
        best = max(known, key=lambda way: (known[way].score, -known[way].seconds))
        figures = ", ".join(f"{way} {m.score:.2f} {m.measure} in {m.seconds:.1f} s" for way, m in known.items())
        return Choice(best, f"measured on {name}: {figures} ({known[best].source})")
    if facts.trained_canvas:
        return Choice("diffusion", f"{name} has learnt to denoise; nothing else was measured on it")
    if ask.rewrites and "verified" in possible:
        return Choice("verified", f"{name} has not learnt to denoise, and this edit writes sentences anew")
    why = "this edit corrects" if not ask.rewrites else "it follows no instruction, so it cannot write anew"
    return Choice("rescore", f"{name} has not learnt to denoise, and {why}")


def _possible(engine: Engine) -> list[str]:
    able = {
        "diffusion": engine.checkpoint.facts.trained_canvas,
        "rescore": True,
        "verified": follows(engine),
        "repair": can_repair(engine),
        "insert": True,
    }
    return [way for way in WAYS if able[way]]

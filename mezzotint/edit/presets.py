"""Presets: edits that have a name, as data. `presets.toml` holds ours; a file of the same form adds others.

    [audience]
    prompt = "Rewrite this text for {audience}."     {audience} is a value that the user gives
    strength = 0.5                                   how it is done: `Ask`, `Where`
    checks = ["length"]                              what is tested when it is done: `checks.py`

A preset says what to ask the model and how; none of them changes text itself.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mezzotint.edit.ask import Ask
from mezzotint.edit.checks import CHECKS

OURS = Path(__file__).with_name("presets.toml")
_KINDS: dict[str, type | tuple[type, ...]] = {
    "title": str, "prompt": str, "strength": (int, float), "budget": (int, float), "rewrites": bool, "keep_layout": bool,
    "stop": dict, "checks": list, "inserts": str,
}  # fmt: skip
_STOP: dict[str, type | tuple[type, ...]] = {"sure": (int, float), "max_steps": int, "likely": (int, float)}


@dataclass(frozen=True)
class Preset:
    """prompt: with {values}; inserts: the value whose phrases, separated by commas, are worked in; the rest as in `Ask` and
    `Where`. Raises ValueError for what no edit can be."""

    name: str
    prompt: str
    title: str = ""
    strength: float = 0.0
    budget: float = 1.0
    rewrites: bool = False
    keep_layout: bool = True
    stop: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    inserts: str = ""

    def __post_init__(self) -> None:
        for needed in self.needs:
            if not needed.isidentifier():
                raise ValueError(f"the prompt has {{{needed}}}; a value has a name, such as {{audience}}")
        if self.inserts and self.inserts not in self.needs:
            raise ValueError(f"inserts is {self.inserts!r}, which the prompt does not take; it takes {self.needs}")
        if unknown := [check for check in self.checks if check not in CHECKS]:
            raise ValueError(f"unknown check {unknown[0]!r}; known: {', '.join(CHECKS)}")
        self.ask(dict.fromkeys(self.needs, "x"))

    @property
    def needs(self) -> list[str]:
        """Names of the values that the prompt takes, in order."""
        try:
            found = [name for _, name, _, _ in string.Formatter().parse(self.prompt) if name is not None]
        except ValueError as error:
            raise ValueError(f"the prompt {self.prompt!r} is no template: {error}") from None
        return list(dict.fromkeys(found))

    def ask(self, values: Mapping[str, str], **more: Any) -> Ask:
        """What is asked with these values; `more` wins over the preset. Raises ValueError for one that is missing."""
        for name in self.needs:
            if not values.get(name, "").strip():
                how = "-i '...'" if name == "instruction" else f"--with {name}=..."
                raise ValueError(f"preset {self.name!r} needs {name}; give {how}")
        told = {"strength": self.strength, "budget": self.budget, "rewrites": self.rewrites, **self.stop}
        if self.inserts:
            told["phrases"] = tuple(p for phrase in values[self.inserts].split(",") if (p := phrase.strip()))
        told |= more
        return Ask(self.prompt.format(**values), **told)


def presets(path: str | Path | None = None) -> dict[str, Preset]:
    """Our presets by name, and those of a TOML file, which win. Raises ValueError naming file, preset and key; OSError."""
    found = _read(OURS)
    return found if path is None else found | _read(Path(path))


def preset(name: str, path: str | Path | None = None) -> Preset:
    """Raises ValueError for a name that nothing has."""
    known = presets(path)
    if name not in known:
        raise ValueError(f"unknown preset {name!r}; known: {', '.join(known)}")
    return known[name]


def _read(path: Path) -> dict[str, Preset]:
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    found = {}
    for name, table in tables.items():
        try:
            _check(table, _KINDS)
            _check(table.get("stop", {}), _STOP)
            found[name] = Preset(name, **{**table, "checks": tuple(table.get("checks", ()))})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, preset {name!r}: {error}") from None
    return found


def _check(table: Any, kinds: Mapping[str, type | tuple[type, ...]]) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"{table!r:.40}; expected a table of {', '.join(kinds)}")
    if kinds is _KINDS and "prompt" not in table:
        raise ValueError("there is no prompt")
    for key, value in table.items():
        if key not in kinds:
            raise ValueError(f"unknown key {key!r}; known: {', '.join(kinds)}")
        if not isinstance(value, kinds[key]) or (isinstance(value, bool) and kinds[key] is not bool):
            raise ValueError(f"{key} is {value!r:.40}, which is of another kind")

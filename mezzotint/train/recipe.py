"""Recipe: everything about a run but its data, frozen; and dotted overrides for the command line.

    apply(recipe, ["optimizer.learning_rate=3e-4", "config.num_layers=8", "minutes=none", "max_steps=100"])

A value is read as the type of its field. An unknown key is an error that names the nearest known one. The resolved
recipe is saved as JSON in every checkpoint, and a run goes on only under the recipe that it began with.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mezzotint.model.config import ModelConfig

PROBE = 0.05  # of a time-boxed run, after which its number of steps is fixed
FREE = ("save_minutes", "shard")  # what a run may change when it goes on: no result depends on them


@dataclass(frozen=True)
class Optimizer:
    """How weights move. The rate rises for `warmup` steps, stays, and falls linearly to zero over the last `decay` share.

    name: muon (Muon for the matrices, AdamW for the rest; Jordan et al., 2024) or adamw. clip: largest norm of the whole
    gradient. ema: of the moving average that a finished run ends with (0.999, say), None for the last weights.
    """

    name: str = "muon"
    learning_rate: float = 3e-3
    warmup: int = 50
    decay: float = 0.4
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.name not in ("muon", "adamw"):
            raise ValueError(f"optimizer is {self.name!r}; allowed: muon, adamw")
        _positive(self, "learning_rate", "clip")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay is {self.decay}; it must lie between 0 and 1")
        if min(self.warmup, self.weight_decay) < 0:
            raise ValueError(f"warmup {self.warmup} and weight_decay {self.weight_decay} must be at least 0")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be at least 0 and less than 1")


@dataclass(frozen=True)
class Recipe:
    """What a run does. It ends after `max_steps`, or after as many steps as `minutes` were found to hold.

    micro_batches: into how many parts a global batch is cut, on any number of ranks: their gradients are summed in one
    fixed order, so that ranks change nothing. save_minutes: between checkpoints. shard: split weights, gradients and
    optimizer over the ranks (FSDP2) instead of repeating them. compile: each block by torch.compile. bfloat16: products in it,
    where the device has them in hardware; else in float32.
    """

    name: str
    config: ModelConfig
    minutes: float | None = None
    max_steps: int | None = None
    seed: int = 0
    optimizer: Optimizer = field(default_factory=Optimizer)
    micro_batches: int = 1
    bfloat16: bool = True
    compile: bool = False
    shard: bool = False
    save_minutes: float = 2.0
    evaluate_every: int = 500  # steps, where there is something to evaluate

    def __post_init__(self) -> None:
        if self.minutes is None and self.max_steps is None:
            raise ValueError(f"recipe {self.name!r} has no end: give minutes or max_steps")
        _positive(self, "minutes", "max_steps", "micro_batches", "save_minutes", "evaluate_every")
        if self.minutes is not None and self.optimizer.decay > 1 - 2 * PROBE:
            raise ValueError(
                f"decay is {self.optimizer.decay}; a run of so many minutes first finds out how many steps they hold, "
                f"so it can fall over {1 - 2 * PROBE} of it at most: lower decay, or give max_steps alone"
            )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _positive(of: Any, *names: str) -> None:
    for name in names:
        if (value := getattr(of, name)) is not None and not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive")


# -- overrides ------------------------------------------------------------------------------------------------------

Of = TypeVar("Of")


def keys(of: Any) -> dict[str, Any]:
    """Dotted name -> declared type of every value that an override of this dataclass can set."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(type(of))
    for item in dataclasses.fields(of):
        value = getattr(of, item.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{item.name}.{key}": kind for key, kind in keys(value).items()}
        else:
            found[item.name] = hints[item.name]
    return found


def apply(recipe: Of, overrides: Sequence[str]) -> Of:
    """The recipe (any frozen dataclass) with `KEY=VALUE` settings; a later one wins.

    Raises ValueError for what is not KEY=VALUE, an unknown key, a value of another type, or one that the recipe refuses.
    """
    known, tree = keys(recipe), dict[str, Any]()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"{override!r} is not KEY=VALUE, such as optimizer.learning_rate=3e-4")
        if key not in known:
            tails = {name.rpartition(".")[2]: name for name in known}
            near = difflib.get_close_matches(key, known, 1, 0.0) or [""]
            best = tails.get(key.rpartition(".")[2], near[0])
            raise ValueError(f"unknown key {key!r}; the nearest known one is {best!r}")
        inner = tree
        *path, last = key.split(".")
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = _read(key, text, known[key])
    return _replace(recipe, tree)


def _replace(of: Any, tree: dict[str, Any]) -> Any:
    """All settings at once: a recipe that is right as a whole may be wrong halfway."""
    new = {k: _replace(getattr(of, k), v) if isinstance(v, dict) else v for k, v in tree.items()}
    return dataclasses.replace(of, **new)


def _read(key: str, text: str, kind: Any) -> Any:
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in allowed and text.lower() == "none":
        return None
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    for one in allowed:
        if one is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if one in (int, float, str):
            try:
                return one(text)
            except ValueError:
                continue
    expected = " or ".join(names.get(one, "none") for one in allowed)
    raise ValueError(f"{key}={text}: expected {expected}")


def differences(saved: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """What two recipes as JSON disagree in, as sentences, but for what is `FREE`."""
    found = []
    for key in sorted(saved.keys() | now.keys()):
        a, b = saved.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b and key not in FREE:
            found.append(f"{prefix}{key} was {a} and is {b}")
    return found

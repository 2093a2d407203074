"""What `mezzotint bench speed` does, behind the command line's options."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mezzotint.eval import speed

if TYPE_CHECKING:
    from mezzotint.engine.engine import Engine
    from mezzotint.engine.request import Request

WAYS = ("ar", "verified", "fast", "balanced", "best")


def ways(names: str, max_tokens: int, draft: str = "auto") -> dict[str, Request]:
    """Requests by name, the one to compare with first. Raises ValueError for an unknown name."""
    from mezzotint.engine.request import Request
    from mezzotint.sampler.quality import QUALITY

    found: dict[str, Any] = {}
    for name in dict.fromkeys(name.strip() for name in names.split(",") if name.strip()):
        if name in QUALITY:
            settings = Request("-", decode="diffusion", policy=QUALITY[name](), max_tokens=max_tokens)
            found[f"diffusion, {name}"] = settings
        elif name in WAYS:
            found[name] = Request("-", decode=name, max_tokens=max_tokens, draft=draft)  # type: ignore[arg-type]  # checked there
        else:
            raise ValueError(f"unknown way {name!r}; known: {', '.join(WAYS)}")
    if not found:
        raise ValueError(f"no way was named; known: {', '.join(WAYS)}")
    return found


def rows_of(text: str) -> list[int]:
    """--together: numbers separated by commas. Raises ValueError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--together is {text!r}; give numbers from 1 up, separated by commas")
    return [int(part) for part in parts]


def asked(named: str, count: int, max_tokens: int, together: str, draft: str) -> tuple[dict[str, Request], list[int]]:
    """Everything that can be checked before a model is loaded: ways, and rows together. Raises ValueError."""
    if count < 1:
        raise ValueError(f"--count is {count}; it must be at least 1")
    return ways(named, max_tokens, draft), rows_of(together)


def measured(
    engine: Engine, named: str, count: int, seed: int, max_tokens: int, together: str, draft: str, report: speed.Report
) -> tuple[list[speed.Found], dict[str, Any]]:  # fmt: skip
    """-> every way's figures, and what they depend on. Raises ValueError."""
    chosen, rows = asked(named, count, max_tokens, together, draft)
    found = speed.run(engine, chosen, speed.prompts(count, seed), rows, report)
    return found, speed.about(engine, seed, count, max_tokens)


def as_json(found: list[speed.Found], about: dict[str, Any]) -> dict[str, Any]:
    """All of it, every request included; what is not known is null."""
    told: dict[str, Any] = _known({**about, "ways": [
        {"name": one.name, **{kind: asdict(one.of(kind)) for kind in speed.KINDS}, "loads": [asdict(load) for load in one.loads],
         "requests": [asdict(sample) for sample in one.samples]}
        for one in found
    ]})  # fmt: skip
    return told


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_known(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value

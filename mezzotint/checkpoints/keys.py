"""Keys: a parsed config.json, read one checked value at a time. Every error names file, key, value and what is allowed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.model.variant import Kind, Scaling

# No size may be larger: sizes of layers set loops and tables before any tensor has confirmed them.
LIMITS = {
    "vocab_size": 1 << 24, "width": 1 << 20, "num_layers": 4096, "num_heads": 4096, "num_kv_heads": 4096,
    "head_size": 1 << 16, "mlp_width": 1 << 22, "max_length": 1 << 24, "experts": 4096,
}  # fmt: skip


class Keys:
    def __init__(self, path: Path, table: dict[str, Any], inside: str = "") -> None:
        self.path, self.table, self.inside = path, table, inside

    def fail(self, key: str, problem: str) -> CheckpointError:
        return CheckpointError(self.path, f"{self.inside + key!r}", problem, 0)

    def number(self, key: str, default: float | None, low: float, high: float, kind: type = int) -> Any:
        """A whole number, or with kind=float any; `default` when absent or null, None: it must be there."""
        value: Any = self.table.get(key)
        value = default if value is None else value
        if value is None:
            raise self.fail(key, "missing")
        if type(value) not in ((kind,) if kind is int else (int, float)):
            raise self.fail(key, f"{short(value)}; expected one {kind.__name__}")
        if not low <= value <= high:
            raise self.fail(key, f"{short(value)}; expected {low} to {high}")
        return value

    def size(self, key: str, limit: str, default: int | None = None) -> int:
        return int(self.number(key, default, 1, LIMITS[limit]))

    def id(self, key: str, default: int | None = None) -> int:
        """A token's id."""
        return int(self.number(key, default, 0, LIMITS["vocab_size"]))

    def flag(self, key: str, default: bool) -> bool:
        value = self.table.get(key)
        value = default if value is None else value
        if type(value) is not bool:
            raise self.fail(key, f"{short(value)}; expected true or false")
        return value

    def must(self, key: str, allowed: tuple[Any, ...], default: Any) -> Any:
        """A value that must be one of a few: what the network can do."""
        value = self.table.get(key, default)
        if isinstance(value, (dict, list)) or value not in allowed:
            raise self.fail(key, f"{short(value)}; supported: {', '.join(map(repr, allowed))}")
        return value

    def within(self, key: str) -> Keys:
        """The object under a key; an empty one when it is absent."""
        value = self.table.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.fail(key, f"{short(value)}; expected an object")
        return Keys(self.path, value or {}, f"{self.inside}{key}.")

    def names(self, key: str, count: int) -> list[str]:
        """A list of `count` strings, as layer_types."""
        value = self.table.get(key)
        if not isinstance(value, list) or len(value) != count or not all(isinstance(x, str) for x in value):
            raise self.fail(key, f"{short(value)}; expected a list of {count} names")
        return value

    def rotary(self, default_theta: float = 10000.0) -> Kind:
        """rope_theta and its scaling, in the layouts of transformers 4 (rope_scaling) and 5 (rope_parameters)."""
        inner = self.within("rope_parameters" if self.table.get("rope_parameters") else "rope_scaling")
        theta = self.number("rope_theta", None if "rope_theta" in self.table else default_theta, 1, 1e12, float)
        return inner.kind(inner.number("rope_theta", theta, 1, 1e12, float))

    def kind(self, theta: float) -> Kind:
        """What a rope_parameters object (this one) says."""
        way = self.table.get("rope_type", self.table.get("type", "default"))
        share = float(self.number("partial_rotary_factor", 1.0, 1e-3, 1, float))
        if way in ("default", None):
            return Kind(float(theta), share)
        if way == "proportional":
            return Kind(float(theta), share, proportional=True)
        if way not in ("linear", "llama3", "yarn"):
            raise self.fail(
                "rope_type", f"{short(way)}; supported: 'default', 'linear', 'llama3', 'yarn', 'proportional'"
            )
        factor = float(self.number("factor", None, 1, 1e6, float))
        if way == "linear":
            return Kind(float(theta), share, scaling=Scaling("linear", factor))
        original = self.number("original_max_position_embeddings", None, 1, LIMITS["max_length"])
        if way == "llama3":
            slow = float(self.number("low_freq_factor", None, 1e-3, 1e6, float))
            fast = float(self.number("high_freq_factor", None, 1e-3, 1e6, float))
            if not slow < fast:
                raise self.fail("high_freq_factor", f"{fast}; expected more than low_freq_factor, {slow}")
            return Kind(float(theta), share, scaling=Scaling("llama3", factor, original, slow, fast))
        slow = float(self.number("beta_slow", 1, 1e-3, 1e6, float))
        fast = float(self.number("beta_fast", 32, 1e-3, 1e6, float))
        if not slow < fast:
            raise self.fail("beta_fast", f"{fast}; expected more than beta_slow, {slow}")
        grown = self.table.get("attention_factor")
        if grown is None:
            scales = [float(self.number(key, 0, 0, 100, float)) for key in ("mscale", "mscale_all_dim")]
            grown = _mscale(factor, scales[0]) / _mscale(factor, scales[1]) if all(scales) else _mscale(factor, 1)
        return Kind(float(theta), share, scaling=Scaling("yarn", factor, original, slow, fast, float(grown)))


def _mscale(factor: float, scale: float) -> float:
    """YaRN's growth of the attention, arXiv 2309.00071."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def short(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "a number beyond 2**64"
    return text if len(text) < 80 else text[:77] + "..."

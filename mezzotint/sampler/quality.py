"""Quality: how many calls diffusion may spend, by name. The one table behind `--quality`.

    fast        accepts early: the most tokens a call, the most slips
    balanced    the default policy
    best        accepts a position alone unless others are nearly certain

A policy given by name (`--policy`) says more than a quality does, and wins over it.
"""

from __future__ import annotations

from collections.abc import Callable

from mezzotint.sampler.decoding import Decoding, above

QUALITY: dict[str, Callable[[], Decoding]] = {
    "fast": lambda: Decoding(accept=above(0.7)),
    "balanced": lambda: Decoding(accept=above(0.9)),
    "best": lambda: Decoding(accept=above(0.95)),
}

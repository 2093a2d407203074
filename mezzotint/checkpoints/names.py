"""Names of models that lie on somebody else's server. `engine/remote.py` asks them; there are no weights to load."""

from __future__ import annotations

REMOTE = ("openai", "mercury")


def is_remote(name: str) -> bool:
    """Is it `openai:MODEL` or `mercury:MODEL`?"""
    return name.partition(":")[0] in REMOTE and ":" in name

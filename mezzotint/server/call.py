"""Call: a request on its way from the front to a replica, and what of it says where it should go."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

BEGINNING = 256  # characters of a prompt that decide which replica answers it: a replica reads known beginnings once
PROMPTS = ("messages", "prompt", "input", "document", "state", "input_prefix", "hypotheses")


@dataclass(frozen=True)
class Call:
    """headers: as ASGI has them. client: which key asks. secret, created: its chance. turn: not where its beginning leads, but
    to the replica of this number."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    client: Hashable
    secret: int
    created: int
    beginning: str = ""
    turn: int | None = None

    def scope(self) -> dict[str, Any]:
        """A new one: the application writes into it."""
        return {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": self.method, "scheme": "http",
            "path": self.path, "raw_path": self.path.encode(), "query_string": self.query, "root_path": "",
            "headers": list(self.headers), "client": None, "server": ("127.0.0.1", 0), "state": {"log": {}},
        }  # fmt: skip


def beginning(body: bytes) -> str:
    """The first characters of what is asked; of the body, where that is not known."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, Mapping):
        for name in PROMPTS:
            if prompt := found.get(name):
                text = prompt if isinstance(prompt, str) else json.dumps(prompt)
                return text[:BEGINNING]
    return body[:BEGINNING].decode("latin-1")

"""Chance: what of an answer is neither asked for nor computed: its seed, where none is given, its ids, its date.

Usually drawn when it is needed. A front (`front.py`) draws it when a request arrives, all from one secret: who is given the same
request with the same chance gives the same answer, to the byte.
"""

from __future__ import annotations

import random
import secrets
import time
import uuid
from contextvars import ContextVar


class Chance:
    """secret: 128 bits that nobody can guess. created: seconds since 1970."""

    def __init__(self, secret: int, created: int) -> None:
        self._draws, self.created = random.Random(secret), created
        self.seed = self._draws.getrandbits(53)

    def hex(self) -> str:
        """The next id's digits. The first ones are those of the answer itself."""
        return f"{self._draws.getrandbits(128):032x}"


given: ContextVar[Chance | None] = ContextVar("chance", default=None)  # of this request's task


def seed() -> int:
    """53 bits: JavaScript reads them exactly."""
    chance = given.get()
    return secrets.randbits(53) if chance is None else chance.seed


def digits() -> str:
    """32 hexadecimal ones, for an id that nobody can guess."""
    chance = given.get()
    return uuid.uuid4().hex if chance is None else chance.hex()


def created() -> int:
    """Now, or when the request arrived: seconds since 1970."""
    chance = given.get()
    return int(time.time()) if chance is None else chance.created

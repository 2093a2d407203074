"""Shares: what one client asks for slows down no other by more than it must.

In every pass each client that waits for one may have as many places as the one that wants fewest: deficit round robin
(Shreedhar and Varghese, 1996), with a quantum that follows the demand. A lone request then takes about as many times longer
as there are clients, however many requests the others have.

    wanted     a: 24 rows of 1     b: 1 row of 1            pass    a 1, b 1
    and where 16 places take no longer than twice what 1 takes      a 15, b 1: nothing is given away on wide hardware
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

MUCH = 4  # times what another client wants


class Demand(NamedTuple):
    """places: of all calls of a client; least: of its smallest."""

    places: int
    least: int


class Shares:
    """most: places of a pass. Seconds of passes are learnt from those that were made (`took`)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.credit: dict[Hashable, float] = {}
        self._seconds: dict[
            int, tuple[float, float]
        ] = {}  # of a pass at best and worst, by the bits of its number of places

    def took(self, places: int, seconds: float) -> None:
        """A pass was made. The fastest and the slowest of its size are forgotten slowly."""
        bits = places.bit_length()
        best, worst = self._seconds.get(bits, (seconds, seconds))
        self._seconds[bits] = (min(seconds, best + (seconds - best) / 20), max(seconds, worst + (seconds - worst) / 20))

    def quantum(self, demands: Mapping[Hashable, Demand]) -> int:
        """Places that each client gets in the next pass: the smallest demand, or more where a wide pass has at worst taken no
        longer than narrow ones at best, one after the other."""
        least = max(1, min(demand.places for demand in demands.values()))
        wide = least
        alone = self._seconds.get(least.bit_length())
        while alone is not None and wide * 2 * len(demands) <= self.most:
            seconds = self._seconds.get((wide * 2 * len(demands)).bit_length())
            if seconds is None or seconds[1] > len(demands) * alone[0]:
                break
            wide *= 2
        return wide

    def grant(self, demands: Mapping[Hashable, Demand]) -> dict[Hashable, float]:
        """Credit of every client that wants something, grown by a quantum until one of them can be served: by half of one for
        who wants much more than another, or the other would take twice as long and wait for a pass besides.

        A client that wants nothing keeps no credit, and none gathers more than a pass or its smallest call.
        """
        each, few = self.quantum(demands), min(demand.places for demand in demands.values())
        self.credit = {client: self.credit.get(client, 0) for client in demands}
        while True:
            for client, demand in demands.items():
                grown = each / 2 if demand.places > MUCH * few else each
                self.credit[client] = min(self.credit[client] + grown, max(self.most, demand.least))
            if any(self.credit[client] >= demand.least for client, demand in demands.items()):
                return self.credit

"""Patient: uvicorn's protocol, with an end to its patience. A connection that sends no whole head of a request is closed.

uvicorn waits for ever: one byte a second keeps a connection open. Bodies have their own limit (`guard.py`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Patient(H11Protocol):
    seconds = 10.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.seconds, self.transport.close)

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._relax()  # its head is whole, and others look after it now
        super().handle_websocket_upgrade(event)

    def data_received(self, data: bytes) -> None:
        if self._timer is None and self._idle:
            self._timer = self.loop.call_later(self.seconds, self.transport.close)
        super().data_received(data)
        if not self._idle:
            self._relax()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._idle and self._timer is None and self.conn.trailing_data[0]:  # the next head has begun
            self._timer = self.loop.call_later(self.seconds, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        """Is no request being answered?"""
        return self.cycle is None or self.cycle.response_complete

    def _relax(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def patient(seconds: float) -> type[Any]:
    """The protocol that waits so long for a head."""
    return type("Patient", (Patient,), {"seconds": seconds})

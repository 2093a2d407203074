"""Preview: pages that a model wrote, on an origin of their own: a second port, and the other name of this machine.

    page     http://127.0.0.1:8000/playground/          its policy lets frames show the preview's origin alone
    preview  http://localhost:40123/<unguessable>       once; no network, no storage of ours, no way up

* The other name makes it another site: browsers give it a process of its own, so a page that loops does not stop ours.
* Without devices the frame has no origin at all. With devices (camera, microphone) it has one, which is not ours; the
  browser still asks its user.
* A frame that navigates itself elsewhere is stopped by the policy of the page that holds it. Chromium may open a connection to
  that address before it looks at the policy; nothing is sent over it.
* Policies do not reach WebRTC; shim.js takes it away.
"""

from __future__ import annotations

import re
import secrets
import socket
from collections import OrderedDict
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mezzotint.server.errors import ApiError

MOST = 16  # pages waiting to be fetched
NAMES = {"127.0.0.1": "localhost", "localhost": "127.0.0.1", "::1": "localhost"}
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "media-src data: blob: mediastream:; form-action 'none'; base-uri 'none'; "
)
SHADOWS = re.compile(r"shadowroot(?=mode|clonable|delegates|serializable)", re.IGNORECASE)  # see shim.js


class Preview:
    """sock: listens for the preview's requests alone."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.port = sock, int(sock.getsockname()[1])
        self._pages: OrderedDict[str, tuple[bytes, bool, str]] = OrderedDict()

    def origin(self, host: str) -> str:
        """Where the preview of a page lies, by the Host header of that page. Raises ApiError for no host's name."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if not re.fullmatch(r"[a-z0-9.:-]+", name):
            raise ApiError(400, "the request names no host", "unknown_host")
        other = NAMES.get(name, name)
        return f"http://{f'[{other}]' if ':' in other else other}:{self.port}"

    def add(self, html: str, devices: bool, host: str) -> str:
        """The address at which a page can be fetched, once."""
        token = secrets.token_urlsafe(24)
        self._pages[token] = (_shimmed(html).encode("utf-8", "replace"), devices, f"http://{host}")
        while len(self._pages) > MOST:
            self._pages.popitem(last=False)
        return f"{self.origin(host)}/{token}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = self._pages.pop(scope["path"][1:], None) if scope["method"] == "GET" else None
        if page is None:
            await _send(send, 404, b"This page was shown once; run it again.", {"content-type": "text/plain"})
            return
        body, devices, owner = page
        box = "sandbox allow-scripts" + (" allow-same-origin" if devices else "")
        allowed = "(self)" if devices else "()"
        await _send(send, 200, body, {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": f"{POLICY}frame-ancestors {owner}; {box}",
            "permissions-policy": f"camera={allowed}, microphone={allowed}, geolocation=(), usb=(), clipboard-read=()",
            "x-dns-prefetch-control": "off", "referrer-policy": "no-referrer", "x-content-type-options": "nosniff",
            "cache-control": "no-store",
        })  # fmt: skip


class Split:
    """By the port that was asked: the preview, or the application, which hears nothing from the preview's origin."""

    def __init__(self, app: ASGIApp, preview: Preview) -> None:
        self.app, self.preview = app, preview

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["server"][1] == self.preview.port:
            await self.preview(scope, receive, send)
            return
        if scope["type"] == "websocket" and self.preview.port in (scope["server"][1], _port(_origin(scope))):
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: 403
            return
        if scope["type"] == "http" and _port(_origin(scope)) == self.preview.port:
            await _send(send, 403, b"a preview may not ask this server", {"content-type": "text/plain"})
            return
        await self.app(scope, receive, send)


def _origin(scope: Scope) -> str:
    return Headers(scope=scope).get("origin", "")


def _port(origin: str) -> int | None:
    try:
        return urlsplit(origin).port
    except ValueError:
        return None


@cache
def _shim() -> str:
    """On one line, so that the page keeps its own numbering."""
    lines = Path(__file__).with_name("shim.js").read_text(encoding="utf-8").splitlines()
    return f"<script>{' '.join(line.strip() for line in lines if not line.lstrip().startswith('//'))}</script>"


def _shimmed(html: str) -> str:
    """The page with the shim before anything else of it runs, and behind the doctype, if it begins with one."""
    head = re.match(r"\s*<!doctype[^>]*>", html, re.IGNORECASE)
    at = head.end() if head else 0
    return html[:at] + _shim() + SHADOWS.sub("data-shadow", html[at:])


async def _send(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})

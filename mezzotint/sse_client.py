"""A client of event streams that costs nearly nothing, because it measures: HTTP/1.1 over asyncio's own sockets.

A general client spends a millisecond or more a request before it sends, and as much as that again before it is first used.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

LONGEST_LINE = 1 << 24  # bytes


LONGEST_REFUSAL = 1 << 16  # bytes of it that are read
REFUSAL_TAKES = 5.0  # seconds that reading it may take


class Refused(Exception):
    """The server answered with another status than 200 (0: not in HTTP, or the answer broke off). body: its beginning."""

    def __init__(
        self, message: str, status: int = 0, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> None:
        super().__init__(message)
        self.status, self.headers, self.body = status, dict(headers or {}), body


class Client:
    """Posts to one server; connections are kept and used again.

    Through the proxy that the environment names for it (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, less `NO_PROXY`; the
    system's own on macOS and Windows), never for this machine. Raises ValueError for a url or a proxy that cannot be used.
    """

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url!r}; it must begin with http:// or https:// and name a host")
        self._host, self._path = parts.hostname, parts.path
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._address = f"{host}:{self._port}"
        self._proxy = _proxy_for(parts.scheme, self._host, self._address)
        told = {
            "host": self._address,
            "content-type": "application/json",
            "accept": "text/event-stream",
            **headers,
        }
        self._head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        if self._proxy is not None and self._tls is None:
            self._head += _proxy_key(self._proxy)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def post(self, path: str, body: Any) -> AsyncGenerator[str]:
        """Lines of the answer as they arrive. Raises Refused, OSError."""
        return self._ask("POST", path, json.dumps(body).encode())

    def get(self, path: str) -> AsyncGenerator[str]:
        """As `post`, without a body."""
        return self._ask("GET", path, b"")

    async def _ask(self, method: str, path: str, data: bytes) -> AsyncGenerator[str]:
        target = self._path.rstrip("/") + path
        if self._proxy is not None and self._tls is None:
            target = f"http://{self._address}{target}"
        head = f"{method} {target} HTTP/1.1\r\n{self._head}content-length: {len(data)}\r\n\r\n"
        reader, writer = self._free.pop() if self._free else await self._connect()
        whole = False
        try:
            writer.write(head.encode() + data)
            status, headers = await _head(reader)
            if status != 200:
                raise Refused(f"status {status}", status, headers, await _beginning(reader, headers))
            async with aclosing(_pieces(reader, headers)) as pieces:
                held = b""
                async for piece in pieces:
                    *lines, held = (held + piece).split(b"\n")
                    for line in lines:
                        yield line.decode("utf-8", "replace").rstrip("\r")
                if held:
                    yield held.decode("utf-8", "replace")
            whole = headers.get("connection", "").lower() != "close"
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Refused("the answer broke off") from error
        finally:
            if whole:
                self._free.append((reader, writer))
            else:
                writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._proxy is None:
            return await asyncio.open_connection(self._host, self._port, ssl=self._tls, limit=LONGEST_LINE)
        reader, writer = await _to_proxy(self._proxy)
        if self._tls is None:
            return reader, writer
        try:
            asked = f"CONNECT {self._address} HTTP/1.1\r\nhost: {self._address}\r\n{_proxy_key(self._proxy)}\r\n"
            writer.write(asked.encode())
            status, _ = await _head(reader)
            if status != 200:
                raise OSError(f"the proxy {_named(self._proxy)} answered {status}")
            await writer.start_tls(self._tls, server_hostname=self._host)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, Refused):
            writer.close()
            raise OSError(f"the proxy {_named(self._proxy)} gave no answer of HTTP") from None
        except BaseException:
            writer.close()
            raise
        return reader, writer

    async def connect(self, count: int) -> None:
        """Open connections before they are needed. Raises OSError."""
        self._free += await asyncio.gather(*(self._connect() for _ in range(count)))

    async def close(self) -> None:
        for _, writer in self._free:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def _proxy_for(scheme: str, host: str, address: str) -> SplitResult | None:
    """The environment's proxy for a server, None where it is asked directly."""
    if host == "localhost" or host == "::1" or host.startswith("127."):
        return None
    known = getproxies()
    named = known.get(scheme) or known.get("all")
    if not named or proxy_bypass(address) or proxy_bypass(host):
        return None
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise ValueError(
            f"the environment's proxy for {scheme} is of the kind {proxy.scheme!r}; only http:// proxies are known"
        )
    return proxy


def _named(proxy: SplitResult) -> str:
    """Without its password."""
    return f"{proxy.hostname}:{proxy.port or 80}"


def _proxy_key(proxy: SplitResult) -> str:
    if proxy.username is None:
        return ""
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return f"proxy-authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


async def _to_proxy(proxy: SplitResult) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(proxy.hostname, proxy.port or 80, limit=LONGEST_LINE)
    except OSError as error:
        said = error.strerror or str(error)
        raise OSError(f"no connection to the proxy {_named(proxy)} ({said})") from None


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) < 2 or not parts[0].startswith("HTTP/1") or not parts[1].isdigit():
        raise Refused("no HTTP answer")
    pairs = (line.partition(":") for line in lines if ":" in line)
    return int(parts[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _pieces(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncGenerator[bytes]:
    """The body as it arrives, whatever says where it ends."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        while size := await _size(reader):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        while (await reader.readline()).strip():
            pass
        return
    left = int(headers["content-length"]) if "content-length" in headers else -1
    while left and (piece := await reader.read(min(left, 65536) if left > 0 else 65536)):
        left -= len(piece) if left > 0 else 0
        yield piece
    if left > 0:
        raise asyncio.IncompleteReadError(b"", left)
    if left < 0:
        headers["connection"] = "close"


async def _size(reader: asyncio.StreamReader) -> int:
    """Bytes of the next chunk. Raises IncompleteReadError at the stream's end, which has no business here; Refused."""
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise asyncio.IncompleteReadError(line, None)
    try:
        return int(line.split(b";")[0], 16)
    except ValueError:
        raise Refused(f"a chunk's size is {line[:20]!r}") from None


async def _beginning(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """What a refusal says, as far as it comes."""
    body = b""
    with suppress(OSError, Refused, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(REFUSAL_TAKES), aclosing(_pieces(reader, headers)) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) >= LONGEST_REFUSAL:
                    break
    return body[:LONGEST_REFUSAL]

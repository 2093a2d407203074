"""Remote: the same Request, answered by a server that speaks OpenAI's API.

    openai:MODEL     OPENAI_BASE_URL    OPENAI_API_KEY      OpenAI, Gemini, llama.cpp, `mezzotint serve`, ...
    mercury:MODEL    MERCURY_BASE_URL   INCEPTION_API_KEY   beside it: drafts that replace each other, FIM, edits

    connect -> ask -> read; refused for now (429, 5xx, a connection lost before any text)? wait as the server says, again

* A request is asked again only while nothing of its answer has been handed out.
* A key goes into one header of one host. It is in no message, no repr and no log, and redirects are not followed.
* There are no weights here: what needs logits, ids or a cache refuses a remote model by name.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mezzotint.checkpoints.names import REMOTE, is_remote
from mezzotint.engine import remote_wire as wire
from mezzotint.engine.remote_wire import Ended, Heard, Reader, RemoteError, Snapshot, Usage
from mezzotint.engine.request import Request, Text
from mezzotint.sse_client import Client, Refused

__all__ = ["Ended", "Remote", "RemoteError", "RemoteReply", "Snapshot", "Usage", "is_remote"]

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
HOPELESS = {"insufficient_quota", "billing_hard_limit_reached"}  # 429s that waiting does not cure


@dataclass(frozen=True)
class Provider:
    """Where a kind of name leads. *_from: environment variables."""

    url: str
    url_from: str
    key_from: str


PROVIDERS = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_BASE_URL", "OPENAI_API_KEY"),
    "mercury": Provider("https://api.inceptionlabs.ai/v1", "MERCURY_BASE_URL", "INCEPTION_API_KEY"),
}
assert tuple(PROVIDERS) == REMOTE


@dataclass(frozen=True)
class RemoteReply:
    """An answer. reason: the server's word for why it ended, or deadline. seconds: from asking to the end."""

    text: str
    reason: str
    usage: Usage
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Remote:
    """A model on a server. `Remote.of(name)` makes one.

    url: up to and with /v1. diffusing: ask for drafts (mercury only). more: further fields of every request. connect,
    silence: seconds until there is a connection, and between two pieces of an answer. tries: of one request;
    longest_wait: seconds before another. size: requests of `generate` under way at once.
    """

    provider: str
    model: str
    url: str
    key: str | None = field(default=None, repr=False)
    diffusing: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)
    connect: float = 10.0
    silence: float = 120.0
    tries: int = 4
    longest_wait: float = 60.0
    size: int = 4

    @classmethod
    def of(cls, name: str, url: str | None = None, key: str | None = None, **settings: Any) -> Remote:
        """By its name, `openai:MODEL` or `mercury:MODEL`; url and key win over the environment.

        Raises ValueError for another name, a bad url, a key that cannot be one, and for no key where the url is the
        provider's own.
        """
        kind, _, model = name.partition(":")
        if kind not in PROVIDERS or not model.strip():
            raise ValueError(f"{name!r} names no remote model; write openai:MODEL or mercury:MODEL")
        provider = PROVIDERS[kind]
        url = (url or os.environ.get(provider.url_from) or provider.url).strip().rstrip("/")
        key = (key or os.environ.get(provider.key_from) or "").strip() or None
        if key is None and url == provider.url:
            raise ValueError(
                f"{name} needs a key: set {provider.key_from}; for another server, a local one for example, set "
                f"{provider.url_from}"
            )
        return cls(kind, model, url.removesuffix("/chat/completions"), key, **settings)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise ValueError("the base URL holds a user name or a password; give the key by itself")
        Client(self.url, {})
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise ValueError("the key holds characters that no key has (a line feed, a blank?); copy it again")
        if self.diffusing and self.provider != "mercury":
            raise ValueError(
                "diffusing is Mercury's: another server would send pieces that are no drafts; name the model mercury:..."
            )
        for name, least in (("connect", 0), ("silence", 0), ("tries", 1), ("size", 1), ("longest_wait", 0)):
            if not (value := getattr(self, name)) >= least or (least == 0 and name != "longest_wait" and not value > 0):
                raise ValueError(f"{name} is {value}; it must be {'above 0' if least == 0 else 'at least 1'}")

    @property
    def name(self) -> str:
        return f"{self.provider}:{self.model}"

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    # -- answers -------------------------------------------------------------------------------------------------------

    def stream(self, request: Request) -> Iterator[Heard]:
        """Text (or, with `diffusing`, Snapshots and at the end one Text), then Ended. For code without an event loop.

        Raises ValueError for what a remote model cannot do, RemoteError for a server that did not answer.
        """
        _no_loop()
        with asyncio.Runner() as runner:
            events = self.events(request)

            async def following() -> Heard | None:
                return await anext(events, None)

            try:
                while (event := runner.run(following())) is not None:
                    yield event
            finally:
                runner.run(events.aclose())

    def generate(self, requests: Sequence[Request]) -> list[RemoteReply]:
        """The answers, in order; at most `size` are under way at once. Raises as `stream` does, for the first that fails."""
        _no_loop()

        async def all_of() -> list[RemoteReply]:
            gate = asyncio.Semaphore(self.size)

            async def one(request: Request) -> RemoteReply:
                async with gate:
                    return await self.answer(request)

            return list(await asyncio.gather(*map(one, requests)))

        return asyncio.run(all_of())

    async def answer(self, request: Request) -> RemoteReply:
        """One whole answer."""
        began, text = time.perf_counter(), ""
        async with aclosing(self.events(request)) as events:
            async for event in events:
                if isinstance(event, Text):
                    text += event.piece
                elif isinstance(event, Ended):
                    return RemoteReply(text, event.reason, event.usage, time.perf_counter() - began, event.notes)
        raise AssertionError("an answer ends with Ended")

    async def events(self, request: Request, row: int = 0) -> AsyncGenerator[Heard]:
        """What `stream` gives, for code with an event loop."""
        path, body = wire.body_of(request, self.model, self.provider == "mercury")
        shows = self.diffusing and not request.raw
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        body |= {"diffusing": True} if shows else {}
        body |= self.more
        notes, attempt = wire.warned(body, self.provider == "mercury"), 1
        while True:
            reader, given = Reader(row, shows), False
            try:
                async with aclosing(self._chunks(path, body, request.deadline, reader)) as chunks:
                    async for chunk in chunks:
                        for event in reader.push(chunk):
                            given = True
                            yield event
                for event in reader.end():
                    yield _noted(event, notes)
                return
            except _Late:
                for event in reader.end("deadline"):
                    yield _noted(event, notes)
                return
            except (Refused, OSError, ssl.SSLError, RemoteError) as error:
                if isinstance(error, Refused) and not given:
                    simpler = wire.without_refused(body, wire.refusal(error.status, error.body))
                    if simpler is not None:
                        body, note = simpler
                        notes += [note] if note else []
                        continue
                wait = None if given else self._wait(error, attempt)
                if wait is None:
                    raise await self._explained(error, attempt, len(reader.text)) from None
            except (TypeError, AttributeError, KeyError) as error:
                raise RemoteError(f"{self.host} sent a chunk of another form ({type(error).__name__})") from None
            attempt += 1
            await asyncio.sleep(wait)

    # -- code ----------------------------------------------------------------------------------------------------------

    def fim(
        self, prefix: str, suffix: str, max_tokens: int = 512, temperature: float | None = None, stop: Sequence[str] = (),
        way: str | None = None,
    ) -> RemoteReply:  # fmt: skip
        """What stands between two texts.

        way: mercury (/fim/completions; ends at a blank line unless `stop` says otherwise), suffix (/completions with a
        suffix), or infill (llama.cpp's, whose /completions takes no notice of a suffix). The provider's own if left out.
        """
        way = way or ("mercury" if self.provider == "mercury" else "suffix")
        paths = {"mercury": "/fim/completions", "suffix": "/completions", "infill": "/infill"}
        if way not in paths:
            raise ValueError(f"way is {way!r}; allowed: {', '.join(paths)}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; it must be at least 1")
        texts = ("input_prefix", "input_suffix", "n_predict") if way == "infill" else ("prompt", "suffix", "max_tokens")
        body: dict[str, Any] = {"model": self.model, **dict(zip(texts, (prefix, suffix, max_tokens), strict=True))}
        body |= {} if temperature is None else {"temperature": temperature}
        body |= {"stop": list(stop)} if stop else {}
        return self._whole(paths[way], body | dict(self.more))

    def edit(
        self, before: str, region: str, after: str, *, path: str = "untitled", cursor: int | None = None,
        recent: Sequence[tuple[str, str]] = (), history: Sequence[str] = (), max_tokens: int = 1024,
    ) -> RemoteReply:  # fmt: skip
        """The region of a file as it would be edited next (Mercury's /edit/completions).

        before, after: the file around it, line breaks included. cursor: offset in the region, its end if left out.
        recent: (path, code) that was looked at; history: diffs, the oldest first. Raises ValueError for another provider.
        """
        self._mercury("edits")
        message = wire.edit_message(before, region, after, path, cursor, recent, history)
        return self._told("/edit/completions", message, max_tokens)

    def apply(self, original: str, snippet: str, max_tokens: int = 4096) -> RemoteReply:
        """Code with an update in it (Mercury's /apply/completions). Raises ValueError for another provider."""
        self._mercury("apply")
        return self._told("/apply/completions", wire.apply_message(original, snippet), max_tokens)

    def models(self) -> list[str]:
        """The names that the server lists. Raises RemoteError."""
        _no_loop()

        async def asked() -> list[str]:
            try:
                return await self._names()
            except (Refused, OSError, RemoteError) as error:
                raise await self._explained(error, 1, 0) from None

        return asyncio.run(asked())

    def _mercury(self, what: str) -> None:
        if self.provider != "mercury":
            raise ValueError(f"{what} are an endpoint of Mercury's; name the model mercury:{self.model}")

    def _told(self, path: str, message: str, max_tokens: int) -> RemoteReply:
        said = [{"role": "user", "content": message}]
        reply = self._whole(path, {"model": self.model, "messages": said, "max_tokens": max_tokens, **self.more})
        return RemoteReply(wire.unwrapped(reply.text), reply.reason, reply.usage, reply.seconds, reply.notes)

    def _whole(self, path: str, body: dict[str, Any]) -> RemoteReply:
        """An answer that is not streamed."""
        _no_loop()
        began = time.perf_counter()

        async def asked() -> dict[str, Any]:
            attempt = 1
            while True:
                try:
                    return await self._json(path, body)
                except (Refused, OSError, RemoteError) as error:
                    wait = self._wait(error, attempt)
                    if wait is None:
                        raise await self._explained(error, attempt, 0) from None
                attempt += 1
                await asyncio.sleep(wait)

        table = asyncio.run(asked())
        try:
            if "choices" in table:
                choice = table["choices"][0]
                text, reason = (choice.get("message") or choice), choice.get("finish_reason")
                text = text.get("content") or text.get("text") or ""
            else:  # llama.cpp's
                text, reason = table["content"], "length" if table.get("stop_type") == "limit" else "stop"
            notes = (str(table["warning"]),) if table.get("warning") else ()
            usage = wire.usage_of(table.get("usage") or {
                "prompt_tokens": table.get("tokens_evaluated"), "completion_tokens": table.get("tokens_predicted")
            })  # fmt: skip
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise RemoteError(f"{self.host} sent an answer of another form ({type(error).__name__})") from None
        return RemoteReply(text, reason or "stop", usage, time.perf_counter() - began, notes)

    # -- the wire ------------------------------------------------------------------------------------------------------

    async def _lines(self, path: str, body: Any, deadline: float | None = None) -> AsyncGenerator[str]:
        """Raises Refused, OSError (TimeoutError too), _Late."""
        headers = {"user-agent": "mezzotint"} | ({"authorization": f"Bearer {self.key}"} if self.key else {})
        client = Client(self.url, headers)

        async def within(seconds: float, work: Any, said: str) -> Any:
            left = float("inf") if deadline is None else deadline - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, min(seconds, left))):
                    return await work
            except TimeoutError:
                raise _Late if left < seconds else TimeoutError(said) from None

        try:
            await within(self.connect, client.connect(1), f"no connection within {self.connect:g} s")
            async with aclosing(client.get(path) if body is None else client.post(path, body)) as lines:
                while True:
                    said = f"nothing was heard for {self.silence:g} s"
                    line = await within(self.silence, anext(lines, None), said)
                    if line is None:
                        return
                    yield line
        finally:
            await client.close()

    async def _chunks(
        self, path: str, body: Any, deadline: float | None, reader: Reader
    ) -> AsyncGenerator[dict[str, Any]]:
        """The JSON objects of a stream; of an answer that is no stream the one that it is."""
        other, streamed = list[str](), False
        async with aclosing(self._lines(path, body, deadline)) as lines:
            async for line in lines:
                if not line.startswith("data:"):
                    other += [] if streamed else [line]
                    continue
                streamed, said = True, line[5:].strip()
                if said == "[DONE]":
                    reader.done()
                    return
                if said:
                    yield self._object(said)
        if not streamed and (whole := "\n".join(other).strip()):
            yield self._object(whole)

    async def _json(self, path: str, body: Any) -> dict[str, Any]:
        async with aclosing(self._lines(path, body)) as lines:
            return self._object("\n".join([line async for line in lines]))

    def _object(self, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            said = wire.plain(text)[:80]
            raise RemoteError(f"no answer of OpenAI's API: {said!r}; is {self.url} the base URL?")
        return found

    async def _names(self) -> list[str]:
        table = await self._json("/models", None)
        rows = table.get("data") if isinstance(table.get("data"), list) else []
        return [str(row["id"]) for row in rows or [] if isinstance(row, Mapping) and "id" in row]

    def _wait(self, error: Exception, attempt: int) -> float | None:
        """Seconds until it is worth asking again; None: it is not."""
        if attempt >= self.tries or isinstance(error, RemoteError | TimeoutError):
            return None
        own = min(self.longest_wait, 0.5 * 2 ** (attempt - 1)) * (1 + random.random() / 4)
        if isinstance(error, Refused):
            if error.status and (error.status not in RETRIED or error.headers.get("x-should-retry") == "false"):
                return None
            if error.status and wire.refusal(error.status, error.body).code in HOPELESS:
                return None
            wanted = wire.retry_after(error.headers)
            return own if wanted is None else None if wanted > self.longest_wait else wanted
        return own if isinstance(error, ConnectionResetError | BrokenPipeError) else None

    async def _explained(self, error: Exception, attempt: int, given: int) -> RemoteError:
        """What went wrong and what can be done, without the key."""
        found = await self._words(error, given)
        words = f"{found}; asked {attempt} times" if attempt > 1 else str(found)
        return RemoteError(self._clean(words), found.status, found.code)

    async def _words(self, error: Exception, given: int) -> RemoteError:
        if isinstance(error, RemoteError):
            return RemoteError(f"{self.name} at {self.host}: {error}", error.status, error.code)
        if isinstance(error, TimeoutError):
            return RemoteError(f"{self.host}: {error}")
        if isinstance(error, ssl.SSLError):
            return RemoteError(f"{self.host}: TLS failed: {error.reason or error}")
        if isinstance(error, ConnectionRefusedError):
            return RemoteError(f"nothing listens at {self.url} (connection refused); is the server running?")
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            return RemoteError(f"{self.host} cannot be reached: {error.strerror or error}")
        if not isinstance(error, Refused) or not error.status:
            after = f" after {given} characters" if given else " before it began"
            return RemoteError(f"the answer of {self.host} broke off{after}")
        told = wire.refusal(error.status, error.body)
        said = f"{self.host} ({told.status}): {told.message or 'no reason given'}"
        key_from = PROVIDERS[self.provider].key_from
        if told.status in (401, 403):
            said = f"{'the key is refused by' if self.key else 'a key is wanted by'} {said}; {key_from} holds it"
        elif told.status == 404:
            said = f"no model {self.model!r} at {said}{await self._others()}"
        elif told.status == 429:
            wanted = wire.retry_after(error.headers)
            said = f"too many requests for {said}" + (f"; come back in {wanted:g} s" if wanted else "")
        elif 300 <= told.status < 400:
            said = f"{self.host} ({told.status}) sends elsewhere, which is not followed; give the address itself as base URL"
        return RemoteError(said, told.status, told.code)

    async def _others(self) -> str:
        """What is there instead, for people who mistyped."""
        try:
            names = await self._names()
        except (Refused, OSError, RemoteError):
            return f"; is {self.url} the base URL? It mostly ends in /v1"
        return f"; it has {', '.join(map(wire.plain, names[:8]))}{', ...' if len(names) > 8 else ''}" if names else ""

    def _clean(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


class _Late(Exception):
    """The request's own deadline has come."""


def _noted(event: Heard, notes: Sequence[str]) -> Heard:
    if not isinstance(event, Ended):
        return event
    return Ended(event.row, event.reason, event.usage, (*notes, *event.notes))


def _no_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "an event loop runs here; use `async for event in remote.events(request)` or `await remote.answer()`"
    )

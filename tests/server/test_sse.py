"""Events on the wire, without a server: a reader that does not read is left, and its work ends."""

import asyncio
import time

import pytest

from mezzotint.engine.scheduler import End
from mezzotint.server.errors import ApiError
from mezzotint.server.sse import EventStream, event, watched
from mezzotint.server.worker import Cancelled, Stream


class Work:
    """What a stream of the worker is to a response."""

    ended = False

    def cancel(self):
        self.ended = True


async def events():
    yield {"text": "a\nb\u2028\u00e9"}
    yield {}


async def never():
    await asyncio.sleep(99)


def test_an_event_is_one_line_of_plain_ascii():
    assert event({"text": "a\nb\u2028\u00e9"}) == b'data: {"text":"a\\nb\\u2028\\u00e9"}\n\n'


def test_a_slow_reader_is_left():
    async def send(message):
        if message["type"] == "http.response.body":
            await never()

    work, failures = Work(), []
    asyncio.run(EventStream(events(), work, 0.05, failures.append)({}, never, send))
    assert work.ended and [type(error) for error in failures] == [Cancelled]


def test_a_reader_gets_everything_and_its_stream_is_closed():
    sent = []

    async def send(message):
        sent.append(message)

    work, failures = Work(), []
    asyncio.run(EventStream(events(), work, 1, failures.append)({}, never, send))
    assert [m["type"] for m in sent] == ["http.response.start"] + ["http.response.body"] * 3 and not failures
    assert sent[-1] == {"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False} and work.ended


def test_what_is_watched_ends_with_its_client():
    async def leaves():
        return {"type": "http.disconnect"}

    async def run():
        work = Work()
        async with watched(leaves, work):
            while not work.ended:
                await asyncio.sleep(0)
        with pytest.raises(KeyError):
            async with watched(never, Work()):
                raise KeyError

    asyncio.run(asyncio.wait_for(run(), 5))


def test_what_can_wait_wakes_nobody(monkeypatch):
    """Items of a kind that is asleep are read with the next of another, in order; the loop is woken for that one alone."""

    async def read():
        stream = Stream(5, lambda stream: None, asleep=(int,))
        woken, wake = [], stream._loop.call_soon_threadsafe
        monkeypatch.setattr(stream._loop, "call_soon_threadsafe", lambda call: (woken.append(1), wake(call)))
        for item in (1, 2, "a", 3):
            stream.put(item)
        assert len(woken) == 1
        seen = [await anext(stream) for _ in range(4)]
        stream.put(4)
        assert len(woken) == 1
        stream.put(End())
        return [*seen, *[item async for item in stream]], len(woken)

    assert asyncio.run(read()) == ([1, 2, "a", 3, 4], 2)


def test_what_comes_too_soon_goes_out_a_little_later(monkeypatch):
    """The first wakes the loop at once; the next is read when the reader has rested, though nothing follows it; the end is
    read at once, and what came before it."""

    async def read():
        stream = Stream(5, lambda stream: None, asleep=(int,), interval=0.2)
        woken, wake = [], stream._loop.call_soon_threadsafe
        monkeypatch.setattr(stream._loop, "call_soon_threadsafe", lambda call: (woken.append(1), wake(call)))

        async def make(*items):
            await asyncio.sleep(0.02)
            for item in items:
                stream.put(item)

        began, seen = time.monotonic(), []
        making = asyncio.create_task(make("a"))
        seen.append((await anext(stream), len(woken), time.monotonic() - began < 0.15))
        making = asyncio.create_task(make("b", 1))
        seen += [(await anext(stream), len(woken), time.monotonic() - began > 0.2) for _ in range(2)]
        making = asyncio.create_task(make("c", End()))
        seen += [(item, len(woken), time.monotonic() - began < 0.38) async for item in stream]
        await making
        return seen

    assert asyncio.run(read()) == [("a", 1, True), ("b", 1, True), (1, 1, True), ("c", 2, True)]


def test_a_deadline_is_kept_while_the_reader_rests():
    async def read():
        stream = Stream(0.1, lambda stream: None, interval=9.0)
        stream.put("a")
        assert await anext(stream) == "a"
        with pytest.raises(ApiError):
            await anext(stream)

    began = time.monotonic()
    asyncio.run(read())
    assert time.monotonic() - began < 5

"""Load: more than can be done, clients that dawdle, everything at once for a while. Full counts last minutes.

The engine's steps are held up by a pause, so that what is measured is the server and not the network's arithmetic.
"""

import asyncio
import http.client
import itertools
import json
import os
import random
import threading
import time
from contextlib import ExitStack, suppress

import httpx
import live
import psutil
import pytest

long = pytest.mark.skipif(os.environ.get("MEZZOTINT_FULL") != "1", reason="it lasts; full counts only")
SHORT = {"prompt": "Mia has", "max_tokens": 2, "decode": "ar", "seed": 1}
LONG = {"prompt": "Mia has", "max_tokens": 400, "decode": "ar", "seed": 1, "stream": True}


def memory():
    return psutil.Process().memory_info().rss / 2**20


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def closed_loop(client, seconds, workers=4):
    """Answers a second while so many ask again as soon as they are answered, and how long each took."""
    took, end = [], time.monotonic() + seconds

    async def ask():
        while time.monotonic() < end:
            began = time.monotonic()
            answer = await client.post("/v1/completions", json=SHORT)
            assert answer.status_code == 200
            took.append(time.monotonic() - began)

    began = time.monotonic()
    await asyncio.gather(*(ask() for _ in range(workers)))
    return len(took) / (time.monotonic() - began), took


async def open_loop(client, rate, seconds):
    """Requests that come at a rate, whatever becomes of them: (status, seconds it took, headers) of each."""

    async def ask():
        began = time.monotonic()
        answer = await client.post("/v1/completions", json=SHORT)
        return answer.status_code, time.monotonic() - began, answer.headers

    began, tasks = time.monotonic(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0, began + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(ask()))
    return await asyncio.gather(*tasks)


@long
def test_four_times_what_can_be_done(engine):
    """S1: goodput stays, the rest is refused at once and told when to come back, memory stays, and it is over at once."""
    seconds = 60

    async def run(base):
        limits = httpx.Limits(max_connections=2000, max_keepalive_connections=200)
        async with httpx.AsyncClient(base_url=base, timeout=60, limits=limits) as client:
            capacity, calm = await closed_loop(client, seconds / 3)
            before = memory()
            began = time.monotonic()
            answers = await open_loop(client, 4 * capacity, seconds)
            took = time.monotonic() - began
            grown = memory() - before
            _, after = await closed_loop(client, seconds / 3)
            return capacity, calm, answers, took, grown, after

    with live.running(engine, queue=64) as (base, _), live.slowed(engine, 0.03):
        capacity, calm, answers, took, grown, after = asyncio.run(run(base))
    good = [a for a in answers if a[0] == 200]
    refused = [a for a in answers if a[0] != 200]
    print(
        f"\ncapacity {capacity:.1f}/s, asked {len(answers) / took:.1f}/s, goodput {len(good) / took:.1f}/s, refused "
        f"{len(refused)} in {quantile([a[1] for a in refused], 0.99) * 1000:.0f} ms at P99, memory {grown:+.1f} MB"
    )
    assert {a[0] for a in refused} == {429} and all(1 <= int(a[2]["retry-after"]) <= 60 for a in refused)
    assert len(good) / took >= 0.9 * capacity
    assert grown < 50
    assert quantile([a[1] for a in refused], 0.99) < 0.1
    assert quantile(after, 0.95) < 1.5 * quantile(calm, 0.95) + 0.1


@long
def test_many_that_dawdle_do_not_hold_up_others(engine):
    """S8: heads and bodies that trickle in, and readers that read nothing."""
    number, seconds = 500, 6.0

    async def run(base):
        async with httpx.AsyncClient(base_url=base, timeout=60) as client:
            return (await closed_loop(client, seconds, 1))[1]

    with live.running(engine, receive=seconds, queue=64) as (base, _), live.slowed(engine, 0.01), ExitStack() as held:
        calm = asyncio.run(run(base))
        links = [held.enter_context(live.connected(base)) for _ in range(number)]
        body = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\ncontent-type: application/json\r\n\r\n"
        for i, link in enumerate(links):
            link.sendall((b"", b"GET / HT", body, body + b"{")[i % 4])
        busy = asyncio.run(run(base))
        print(
            f"\nP95 {quantile(calm, 0.95) * 1000:.0f} ms alone, {quantile(busy, 0.95) * 1000:.0f} ms beside {number} that dawdle"
        )
        assert quantile(busy, 0.95) < quantile(calm, 0.95) * 1.1 + 0.01
        for link in links:  # every one of them is closed, or told that it took too long
            link.settimeout(seconds + 10)
            with suppress(ConnectionError):
                while link.recv(1 << 16):
                    pass
        assert httpx.get(f"{base}/health").status_code == 200


def test_twenty_streams_at_the_end(engine, full):
    """S29: nothing new is taken, every stream ends, and the port is free."""
    number = 20 if full else 4
    texts = []

    def read(base):
        with httpx.stream("POST", f"{base}/v1/completions", json={**LONG, "max_tokens": 30}, timeout=60) as response:
            texts.append(response.read().decode())

    with live.running(engine, grace=30) as (base, server), live.slowed(engine, 0.005):
        threads = [threading.Thread(target=read, args=(base,)) for _ in range(number)]
        for thread in threads:
            thread.start()

        def waiting() -> float:
            return live.metric(base, "num_requests_running") + live.metric(base, "num_requests_waiting")

        live.wait(lambda: waiting() == number or len(texts) + waiting() >= number)
        server.should_exit = True
        live.wait(lambda: server.worker.draining)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{base}/health")
        for thread in threads:
            thread.join(30)
    assert len(texts) == number and all("data: [DONE]" in text or '"error"' in text for text in texts)
    assert all("data: [DONE]" in text for text in texts)
    with pytest.raises(OSError):
        live.connected(base)


MIXED = [
    ("/v1/completions", {"prompt": "Mia has", "max_tokens": 12}),
    (
        "/v1/completions",
        {"prompt": "The blue", "max_tokens": 24, "decode": "diffusion", "temperature": 0.8, "logprobs": 2},
    ),
    (
        "/v1/completions",
        {"prompt": ["Mia has", "The dog"], "n": 2, "max_tokens": 8, "stream": True, "presence_penalty": 1},
    ),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Mia has"}], "max_tokens": 12, "stream": True}),
    ("/v1/completions", {"prompt": "Mia has ", "suffix": " ball.", "max_tokens": 4}),
    ("/v1/instant-edit", {"document": "The blue horses wait in seven garden."}),
    ("/v1/responses", {"input": "Mia has", "max_output_tokens": 8, "trace": True}),
    ("/v1/embeddings", {"input": ["Mia has a dog", "The blue horses"]}),
    ("/v1/decisions", {"state": "Mia has", "questions": {"a": {"type": "noul", "instructions": "Is she glad?"}}}),
    ("/tokenize", {"content": "Mia has a dog"}),
]


@long
def test_everything_at_once_for_a_while(engine):
    """S23: a tenth leave, a twentieth are wrong; nothing crashes, nothing is stuck, memory is flat."""
    seconds = 600
    rng = random.Random(0)
    seen, samples, took = {}, [], []

    async def ask(client, end):
        while time.monotonic() < end:
            path, body = rng.choice(MIXED)
            chance, began = rng.random(), time.monotonic()
            if chance < 0.05:
                body = {**body, rng.choice(["max_tokens", "messages", "prompt", "input", "questions"]): -1}
            try:
                answer = await client.post(path, json=body, timeout=0.02 if chance > 0.9 else 60)
                seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
                took.append(time.monotonic() - began)
            except httpx.TimeoutException:
                seen["left"] = seen.get("left", 0) + 1

    async def watch(end):
        while time.monotonic() < end:
            samples.append((time.monotonic(), memory()))
            await asyncio.sleep(seconds / 60)

    async def run(base):
        async with httpx.AsyncClient(base_url=base) as client:
            end = time.monotonic() + seconds
            await asyncio.gather(watch(end), *(ask(client, end) for _ in range(6)))

    with live.running(engine) as (base, _):
        asyncio.run(run(base))
        live.wait(lambda: live.metric(base, "num_requests_running") + live.metric(base, "num_requests_waiting") == 0)
        assert httpx.get(f"{base}/health").status_code == 200
        calm = httpx.post(f"{base}/v1/completions", json=SHORT, timeout=30)
        assert calm.status_code == 200
    half = [mb for _, mb in samples[len(samples) // 2 :]]
    slope = (sum(half[len(half) // 2 :]) - sum(half[: len(half) // 2])) / max(1, len(half) // 2)
    print(
        f"\n{seen}, P99 {quantile(took, 0.99):.2f} s, memory {samples[0][1]:.0f} -> {half[-1]:.0f} MB, "
        f"last quarter {slope:+.1f} MB"
    )
    assert set(seen) <= {200, 400, "left"} and seen[200] > 10
    assert slope < 5  # between the means of the third and the last quarter


def test_a_name_is_no_path(base, count):
    """S14: whatever is asked for, it is 404 and the answer does not repeat it."""
    parts = ["..", "%2e%2e", "etc", "passwd", "\\\\host", "C:", "dev", "null", "%00", "~", "proc", "self", "tiny.gguf"]
    rng = random.Random(3)
    link = http.client.HTTPConnection(
        base.removeprefix("http://"), timeout=30
    )  # it sends a path as it is, ".." and all
    for _, path in zip(range(count(2000)), itertools.cycle(("/v1/models/", "/v1/traces/", "model")), strict=False):
        name = "/".join(rng.choices(parts, k=rng.randrange(1, 6)))
        if path == "model":
            body = json.dumps({"prompt": "a", "model": name, "max_tokens": 1})
            link.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        else:
            link.request("GET", path + name)
        answer = link.getresponse()
        text = answer.read().decode()
        assert answer.status in (404, 400), (path, name)
        assert json.loads(text)["error"]["message"] and "passwd" not in text and "host" not in text
    link.close()

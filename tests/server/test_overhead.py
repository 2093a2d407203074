"""What the server costs: one request at a time, over the bare engine's time for the same text. A bar at full counts alone."""

import json
import os
import statistics
import subprocess
import sys
import time

import live
import pytest
import torch

import mezzotint as mz

PAIRS, SECONDS = 60, 60.0  # at most
MODEL = os.environ.get("MEZZOTINT_TEST_MODEL", "tiny")
CLIENT = """
import http.client, json, sys, time

link = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
for body in sys.stdin:
    began = time.perf_counter()
    link.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    answer = link.getresponse()
    said = answer.read().decode()
    print(json.dumps([time.perf_counter() - began, answer.status, said]), flush=True)
"""


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads of torch that wait for one another, beside the event loop's, are measured by what else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(os.environ.get("MEZZOTINT_FULL") != "1", reason="a bar of time; full counts only")
@pytest.mark.parametrize("decode", ["ar", "verified", "diffusion"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_server_costs_three_per_cent_or_five_milliseconds(decode, stream):
    """The middle of the differences of many pairs, one after the other, since a machine's pace drifts. The client is a process of
    its own: what it costs to read an answer is not the server's cost."""
    engine = mz.Engine(mz.load(MODEL), compute=os.environ.get("MEZZOTINT_TEST_COMPUTE", "float32"))
    body = json.dumps({"prompt": "Mia has", "max_tokens": 64, "decode": decode, "seed": 1, "stream": stream})
    request = mz.Request("Mia has", raw=True, max_tokens=64, decode=decode, seed=1)
    bare, served, end = [], [], time.monotonic() + SECONDS
    with live.running(engine) as (base, _):
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, base.rpartition(":")[2]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while len(bare) < 3 or (len(bare) < PAIRS and time.monotonic() < end):
            began = time.perf_counter()
            text = engine.generate(request)[0].text
            bare.append(time.perf_counter() - began)
            print(body, file=client.stdin, flush=True)
            seconds, status, said = json.loads(client.stdout.readline())
            served.append(seconds)
            assert status == 200 and (stream or json.loads(said)["choices"][0]["text"] == text)
        client.communicate(timeout=30)
    usual = statistics.median(bare)
    more = statistics.median(b - a for a, b in zip(bare, served, strict=True))
    print(f"\n{decode}, stream {stream}: {usual * 1000:.1f} ms bare, {more * 1000:+.1f} ms served, {len(bare)} pairs")
    assert more <= max(0.03 * usual, 0.005)

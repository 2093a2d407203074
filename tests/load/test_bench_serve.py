"""The loader against a server of known delays: every figure within 1% or 1 ms of what that server's own clock says."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.load_test import Load, run, table

FULL = os.environ.get("MEZZOTINT_FULL") == "1"
FAKE = Path(__file__).with_name("fake.py")


@contextmanager
def fake(**plan):
    with subprocess.Popen([sys.executable, str(FAKE), json.dumps(plan)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def told(url):
    return httpx.get(url + "/times").json()


def differences(found, times):
    """Every figure beside what the server did, by the clock that both processes share: (name, measured, true)."""
    times = sorted(times, key=lambda t: t["start"])
    due = sorted(found["clock"] + sample["began"] for sample in found["samples"])

    def since(key):
        return [t["start"] + key(t) - start for t, start in zip(times, due, strict=True)]

    wanted = {
        "first_draft": since(lambda t: t["draft"]), "first_text": since(lambda t: t["texts"][0]),
        "end_to_end": since(lambda t: t["end"]),
        "between_texts": [b - a for t in times for a, b in pairwise(t["texts"])],
    }  # fmt: skip
    for name, values in wanted.items():
        p50, p90, p99 = np.percentile(values, (50, 90, 99))
        for key, true in (("mean", np.mean(values)), ("p50", p50), ("p90", p90), ("p99", p99)):
            yield f"{name} {key}", found[name][key], true
    seconds = max(t["start"] + t["end"] for t in times) - due[0]
    yield "seconds", found["seconds"], seconds
    yield "tokens a second", found["tokens_per_second"], 7 * len(times) / seconds
    yield "requests a second", found["requests_per_second"], len(times) / seconds
    yield (
        "tokens a second each",
        found["tokens_per_second_each"]["mean"],
        np.mean([7 / e for e in wanted["end_to_end"]]),
    )


def wrong(found, times):
    loose = 1 if FULL else 5  # other tests run beside this one unless the counts are full
    return [
        (n, got, true)
        for n, got, true in differences(found, times)
        if abs(got - true) > loose * max(0.01 * true, 0.001)
    ]


@pytest.mark.parametrize(
    "loop", [{"concurrency": 1}, {"concurrency": 4}, {"rate": 25.0}, {"rate": 40.0, "poisson": True}]
)
@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_figures_are_the_servers_own(loop, kind):
    for _ in range(5):  # a machine that is busy elsewhere reads late; a wrong figure is wrong every time
        with fake(draft=0.06, text=0.12, gap=0.11, pieces=3, end=0.03) as url:
            count = 4 if loop.get("concurrency") == 1 else 12
            found = asyncio.run(run(Load(url, "fake", kind, requests=count, **loop)))
            server = told(url)
        failures = wrong(found, server["times"])
        if not failures:
            break
    assert not failures
    assert found["answered"] == count and found["tokens"] == 7 * count and not found["failed"]
    assert "concurrency" not in loop or server["most"] == loop["concurrency"]
    asked = server["times"][0]["body"]
    assert (
        asked["stream"]
        and asked["stream_options"] == {"include_usage": True}
        and ("messages" in asked) == (kind == "chat")
    )


def test_an_open_loop_waits_for_nobody():
    with fake(text=0.4, pieces=1, end=0.0) as url:
        asyncio.run(run(Load(url, "fake", requests=10, rate=50.0)))
        server = told(url)
    assert server["most"] == 10  # all were under way before the first had its answer
    starts = [t["start"] for t in server["times"]]
    assert 0.17 < starts[-1] - starts[0] < 0.3


def test_random_arrivals_have_their_rate_and_their_seed():
    due = Load("http://x", "m", requests=4000, rate=20.0, poisson=True).due()
    assert (
        abs(due[-1] / 4000 - 0.05) < 0.003
        and due == Load("http://x", "m", requests=4000, rate=20.0, poisson=True).due()
    )
    assert due != Load("http://x", "m", requests=4000, rate=20.0, poisson=True, seed=1).due()
    assert Load("http://x", "m", requests=3, rate=4.0).due() == [0, 0.25, 0.5]


def test_goodput_counts_answers_within_limits():
    with fake(text=0.1, pieces=1, end=0.0, slow=0.4) as url:
        found = asyncio.run(run(Load(url, "fake", requests=8, concurrency=1, within={"first_text": 0.3})))
    assert found["good"] == 4 and abs(found["goodput"] * found["seconds"] - 4) < 1e-6


def test_tokens_are_counted_by_pieces_where_there_is_no_usage():
    with fake(tokens=None, text=0.01, gap=0.01, pieces=5, end=0.0) as url:
        found = asyncio.run(run(Load(url, "fake", requests=2, concurrency=2)))
    assert found["tokens"] == 10 and found["first_draft"] is None and " - " in table(found)


def test_failures_are_counted_and_all_of_them_is_an_error():
    with fake(status=429) as url, pytest.raises(ValueError, match="2 x status 429"):
        asyncio.run(run(Load(url, "fake", requests=2, concurrency=1)))
    with pytest.raises(ValueError, match=r"1 x [Cc]onnect"):
        asyncio.run(run(Load("http://127.0.0.1:1/v1", "fake", requests=1, concurrency=1)))


@pytest.mark.parametrize("wrong", [
    {"url": "ftp://x"}, {"kind": "chats"}, {"requests": 0}, {"rate": 1.0}, {"concurrency": None}, {"concurrency": 0},
    {"within": {"speed": 1.0}}, {"within": {"first_text": 0.0}}, {"prompts": [""]}, {"concurrency": None, "rate": -1.0},
])  # fmt: skip
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        Load(**{"url": "http://x/v1", "model": "m", "concurrency": 1, **wrong})


def test_the_command():
    with fake(draft=0.01, text=0.02, gap=0.01, end=0.0) as url:
        command = ["bench", "serve", url, "-m", "fake", "--requests", "4", "--concurrency", "2", "--drafts"]
        shown = CliRunner().invoke(app, [*command, "--within", "end_to_end=5000", "--body", '{"seed": 3}'])
        assert shown.exit_code == 0 and "goodput" in shown.stdout and "end_to_end 5000 ms" in shown.stdout
        found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
        assert found["good"] == 4 and len(found["samples"]) == 4
        asked = told(url)["times"][0]["body"]
        assert asked["seed"] == 3 and asked["stream_options"]["include_diffusion"] is True
        for bad in (["--within", "end=x"], ["--body", "{"], ["--body", "[]"], ["--rate", "2"]):
            assert CliRunner().invoke(app, [*command, *bad]).exit_code == 2

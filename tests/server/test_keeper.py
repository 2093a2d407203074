"""The process that serves is killed: its clients are told, the next one serves as soon as the model is loaded. S24."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import live
import psutil
import pytest

from mezzotint.server.keeper import QUICK


class Kept:
    """`mezzotint serve` in processes of its own."""

    def __init__(self, *args):
        command = [sys.executable, "-m", "mezzotint", "serve", "--model", "tiny", "--port", "0", *args]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.base = self.line("listening")["url"].removesuffix("/v1")

    def line(self, event):
        """The next line of the log about this event."""
        for line in self.process.stderr:
            if (found := json.loads(line))["event"] == event:
                return found
        raise AssertionError(f"the log ended before {event}")

    def status(self):
        try:
            return httpx.get(f"{self.base}/health", timeout=1).status_code
        except httpx.TransportError as error:
            return type(error).__name__

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        code = self.process.wait(30)
        self.process.stderr.close()
        assert code == 0


def test_a_server_that_is_killed_is_started_again(full):
    with Kept() as kept:
        pid = kept.line("server_started")["pid"]
        began = time.monotonic()
        assert kept.status() == 503  # the keeper answers while nobody serves yet
        live.wait(lambda: kept.status() == 200, 90)
        load = time.monotonic() - began
        text = httpx.post(f"{kept.base}/v1/completions", json={"prompt": "Mia has", "seed": 1}, timeout=30).json()
        took, alive = [], began
        for _ in range(4 if full else 1):
            if full:  # one that dies young is started again after a while only
                time.sleep(max(0.0, alive + QUICK + 0.5 - time.monotonic()))
            body = {"prompt": "Mia has", "max_tokens": 480, "decode": "ar", "stream": True}
            with httpx.stream("POST", f"{kept.base}/v1/completions", json=body, timeout=60) as response:
                lines = response.iter_lines()
                next(lines)
                os.kill(pid, signal.SIGKILL)
                killed = time.monotonic()
                with pytest.raises(httpx.TransportError):
                    for line in lines:
                        assert "[DONE]" not in line and '"finish_reason":"' not in line
            pid, alive = kept.line("server_started")["pid"], time.monotonic()
            assert kept.status() == 503 and time.monotonic() - killed < (1 if full else 30)
            live.wait(lambda: kept.status() == 200, 90)
            took.append(time.monotonic() - killed)
            assert took[-1] < (load + 2 if full else 90), (took, load)
            again = httpx.post(f"{kept.base}/v1/completions", json={"prompt": "Mia has", "seed": 1}, timeout=30).json()
            assert again["choices"] == text["choices"]
        print(f"\nloaded in {load:.2f} s, back after {', '.join(f'{seconds:.2f}' for seconds in took)} s")
        with pytest.raises(httpx.TransportError):  # without its keeper a server ends
            kept.process.send_signal(signal.SIGTERM)
            kept.process.wait(30)
            httpx.get(f"{kept.base}/health")
        live.wait(lambda: gone(pid))


def gone(pid):
    """Has it ended? What nobody waited for is a zombie."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_keeper_that_is_killed_takes_its_server_with_it(full):
    if not full:
        pytest.skip("it starts a server of its own; full counts only")
    with Kept() as kept:
        pid = kept.line("server_started")["pid"]
        live.wait(lambda: kept.status() == 200, 90)
        kept.process.kill()
        kept.process.wait()
        live.wait(lambda: gone(pid), 30)
        kept.process.returncode = 0  # the end that `Kept` looks for


def test_a_model_that_cannot_be_loaded_ends_the_keeper_too(full):
    if not full:
        pytest.skip("it starts a server of its own; full counts only")
    command = [sys.executable, "-m", "mezzotint", "serve", "--model", "no-such-model", "--port", "0"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=90)
    assert done.returncode not in (0, -signal.SIGTERM) and "no-such-model" in done.stderr.splitlines()[-1]

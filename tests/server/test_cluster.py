"""`mezzotint serve --replicas 2` on Ray: a replica is killed while both are writing. What the front does is in test_front.py."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import live
import psutil
import pytest
from test_keeper import gone

import mezzotint as mz
from mezzotint.sampler.lens import Tilt

NAMES = ("Mia", "Tom", "The cat", "A red", "She", "One day", "The dog", "He", "Sam", "They")


def has_ray_serve():
    """Looked for, not imported: it would start threads in this process, and warn."""
    return all(importlib.util.find_spec(name) for name in ("ray", "grpc", "grpc_reflection"))


class Cluster:
    """The command in processes of its own, its log read as it comes: `lines`, each with the time at which it came.

    Ray's own processes write to the same place now and then, what is no JSON: `stray`.
    """

    def __init__(self, folder, *args):
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"RAY_TMPDIR": folder}
        command = [sys.executable, "-m", "mezzotint", "serve", "--model", "tiny", "--port", "0", *args]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
        self.lines, self.stray = [], []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.base = self.line("listening", 60)[1]["url"].removesuffix("/v1")

    def _read(self):
        for line in self.process.stderr:
            if line.startswith("{"):
                self.lines.append((time.monotonic(), json.loads(line)))
            else:
                self.stray.append(line)

    def line(self, event, seconds, since=0.0, **fields):
        """(when it came, what it says) of the first line of the log about this event, with these fields."""

        def found():
            return [
                (at, told) for at, told in list(self.lines)
                if at >= since and told["event"] == event and fields.items() <= told.items()
            ]  # fmt: skip

        live.wait(lambda: found() or self.process.poll() is not None, seconds)
        assert found(), (self.lines, self.stray)
        return found()[0]

    def processes(self, name):
        """Of those that Ray has started; it gives them their names."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return {child.pid for child in children if name in "".join(child.cmdline()).lower()}

    def replicas(self):
        return self.processes("replica:mezzotint")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        code = self.process.wait(60)
        self._reader.join(20)
        self.process.stderr.close()
        if error[0] is None:
            assert code == 0
            live.wait(lambda: all(gone(child.pid) for child in children), 30)


class Reader:
    """One stream, read in a thread. at: when each event came."""

    def __init__(self, base, body, started):
        self.text, self.error, self.done, self.seed, self.at = "", None, False, None, []
        with httpx.stream("POST", f"{base}/v1/completions", json=body, timeout=300) as response:
            self.id = response.headers["x-request-id"]
            for line in response.iter_lines():
                if not line:
                    continue
                assert not self.done and self.error is None  # both are the last there is
                self.at.append(time.monotonic())
                self.take(line.removeprefix("data: "))
                started(self)

    def take(self, data):
        if data == "[DONE]":
            self.done = True
            return
        found = json.loads(data)
        self.error = found.get("error")
        if self.error is None:
            self.seed = found["seed"]
            self.text += found["choices"][0]["text"]


@pytest.mark.skipif(not has_ray_serve(), reason="Ray Serve is not installed")
def test_a_replica_is_killed(full, engine):
    num_streams, length = (20, 250) if full else (8, 200)
    never = dict.fromkeys(engine.stop_ids, -100.0)
    bodies = [
        {
            "prompt": f"{NAMES[n % len(NAMES)]} has", "max_tokens": length, "stream": True, "temperature": n % 2 * 0.6,
            "top_k": 8, "decode": ("ar", "verified")[n // 2 % 2], "logit_bias": {str(id): -100 for id in never},
            **({"seed": n} if n % 2 else {}),  # drawn by the front, which a text without draws does not show
        }
        for n in range(num_streams)
    ]  # fmt: skip
    folder = tempfile.mkdtemp(prefix="mz")  # short: Ray's sockets lie in it
    try:
        with Cluster(folder, "--replicas", "2") as cluster:
            cluster.line("replicas", 240, ready=2)
            load = time.time() - min(psutil.Process(pid).create_time() for pid in cluster.replicas())
            writing, killed = {}, []
            lock = threading.Lock()
            victim = min(cluster.replicas())

            def started(reader):
                """Kill one when all streams have begun and have most to come."""
                with lock:
                    writing[id(reader)] = reader
                    if len(writing) == num_streams and not killed:
                        killed.append(time.monotonic())
                        os.kill(victim, signal.SIGKILL)

            with ThreadPoolExecutor(num_streams) as pool:
                readers = list(pool.map(lambda body: Reader(cluster.base, body, started), bodies))
            (when,) = killed
            back, _ = cluster.line("replicas", 240, since=cluster.line("replicas", 60, since=when, ready=1)[0], ready=2)
            log = {reader.id: cluster.line("request", 10, id=reader.id)[1] for reader in readers}
            lost = [reader for reader in readers if log[reader.id].get("replays")]
            kept = [reader for reader in readers if reader not in lost]
            assert lost and kept and victim not in cluster.replicas() and len(cluster.replicas()) == 2
            for reader, body in zip(readers, bodies, strict=True):
                request = mz.Request(
                    body["prompt"],
                    True,
                    body["decode"],
                    length,
                    body["temperature"],
                    reader.seed,
                    tilt=Tilt(never, top_k=8),
                )
                whole = engine.generate(request)[0].text
                if reader.done:
                    assert reader.text == whole
                else:
                    assert reader in lost and reader.error["code"] == "replica_died" and whole.startswith(reader.text)
                    assert reader.at[-1] - when < (1.0 if full else 5.0)
                assert body.get("seed", reader.seed) == reader.seed
            assert all(reader.done for reader in kept)
            waits = [next(at for at in [*reader.at, 1e9] if at > when) - when for reader in lost]
            assert back - when < (load + 5 if full else 240), (back - when, load)
            assert httpx.get(f"{cluster.base}/health").json() == {"status": "ok", "replicas": 2}
            with httpx.stream("POST", f"{cluster.base}/v1/completions", json=bodies[1], timeout=60) as response:
                next(response.iter_lines())  # a client that leaves
            live.wait(lambda: live.metric(cluster.base, "request_cancelled_total") == 1, 30)
            live.wait(lambda: live.metric(cluster.base, "num_requests_running") == 0, 30)
            print(
                f"\nloaded in {load:.1f} s; {len(lost)} of {num_streams} streams were on the dead replica, "
                f"{sum(reader.done for reader in lost)} of them told again, the next event after "
                f"{max(waits):.2f} s at most; full capacity after {back - when:.1f} s"
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(not has_ray_serve(), reason="Ray Serve is not installed")
def test_long_queues_make_a_replica_more(full):
    if not full:
        pytest.skip("it starts a cluster of its own; full counts only")
    folder = tempfile.mkdtemp(prefix="mz")
    try:
        with Cluster(folder, "--replicas", "1", "--max-replicas", "2") as cluster:
            cluster.line("replicas", 240, ready=1)
            over = threading.Event()

            def ask(n):
                while not over.is_set():
                    body = {"prompt": "Mia has", "max_tokens": 200, "seed": n}
                    httpx.post(f"{cluster.base}/v1/completions", json=body, timeout=120).raise_for_status()

            with ThreadPoolExecutor(20) as pool:
                asking = [pool.submit(ask, n) for n in range(20)]
                try:
                    cluster.line("replicas", 120, ready=2)
                finally:
                    over.set()
            for one in asking:
                one.result()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(not has_ray_serve(), reason="Ray Serve is not installed")
def test_a_replica_of_two_ranks(full, engine):
    """It says what one process says; when a rank is killed, clients are told within a second, and it is made anew."""
    if not full:
        pytest.skip("it starts a cluster of its own; full counts only")
    folder = tempfile.mkdtemp(prefix="mz")
    body = {"prompt": "Mia has", "max_tokens": 30, "temperature": 0.6, "seed": 1}
    whole = engine.generate(mz.Request("Mia has", True, max_tokens=30, temperature=0.6, seed=1))[0].text
    try:
        with Cluster(folder, "--replicas", "1", "--tensor-parallel", "2") as cluster:
            cluster.line("replicas", 240, ready=1)

            def text():
                return httpx.post(f"{cluster.base}/v1/completions", json=body, timeout=120).json()["choices"][0]["text"]

            assert text() == whole
            when = []

            def started(reader):
                if not when:
                    when.append(time.monotonic())
                    os.kill(cluster.processes("ray::rank").pop(), signal.SIGKILL)

            long = {
                **body,
                "max_tokens": 200,
                "stream": True,
                "logit_bias": dict.fromkeys(map(str, engine.stop_ids), -100),
            }
            reader = Reader(cluster.base, long, started)
            assert reader.error["code"] == "replica_died" and reader.at[-1] - when[0] < 1
            down, _ = cluster.line("replicas", 60, since=when[0], ready=0)
            cluster.line("replicas", 240, since=down, ready=1)
            assert text() == whole
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--replicas", "0"], "replicas is 0; it must be at least 1"),
        (["--replicas", "2", "--max-replicas", "1"], "max-replicas is 1; it must be at least the 2 of replicas"),
        (["--max-replicas", "2"], "--max-replicas and --tensor-parallel need --replicas"),
        (["--replicas", "2", "--tensor-parallel", "3"], "4 heads cannot be split over 3 ranks"),
        (["--replicas", "2", "--remote", "openai:x"], "--remote is for the playground"),
    ],
)
def test_bad_input_is_told_in_a_sentence(args, said, full):
    if not full and args[0] == "--max-replicas":
        pytest.skip("full counts only")
    if "ranks" in said and not has_ray_serve():
        pytest.skip("Ray Serve is not installed, and what is missing is told first")
    env = {**os.environ, "OPENAI_API_KEY": "x"}
    command = [sys.executable, "-m", "mezzotint", "serve", "--model", "tiny", "--port", "0", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=env)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in done.stderr.strip().splitlines()[-1]  # before it the log, where the model had to be opened to know

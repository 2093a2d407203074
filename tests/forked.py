"""Commands as processes of their own that need not import everything anew: importing torch takes a process seconds.

    code, out, err = run("generate", "Hi", stdin="...")      what `python -m mezzotint generate Hi` does

A process that has imported the package (`python forked.py`) forks one for every command, and gives it the caller's streams,
environment and working directory. Signals, limits and closed pipes want a process from the start: subprocess.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

_server: tuple[int, socket.socket] | None = None  # of which process, and the way to it


def _connected() -> socket.socket:
    global _server
    if _server is None or _server[0] != os.getpid():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        theirs.close()
        _server = os.getpid(), ours

        def end() -> None:
            ours.close()  # which ends it
            process.wait()

        atexit.register(end)
    return _server[1]


def run(*args, stdin="", env=None, timeout=240):
    """(exit code, standard output, standard error) of a command. Raises TimeoutError, and kills it, after `timeout` seconds."""
    way = _connected()
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin if isinstance(stdin, bytes) else stdin.encode())
        given.seek(0)
        told = {"args": args, "env": {**os.environ, **(env or {})}, "cwd": os.getcwd()}
        with tempfile.TemporaryFile() as letter:  # it may be longer than a packet
            letter.write(json.dumps(told).encode())
            letter.seek(0)
            socket.send_fds(way, [b"run"], [f.fileno() for f in (given, out, err, letter)])
        pid = int(way.recv(64))
        way.settimeout(timeout)
        try:
            code = int(way.recv(64))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"{args} took more than {timeout} s") from None
        finally:
            way.settimeout(None)
        out.seek(0)
        err.seek(0)
        return code, out.read().decode(errors="replace"), err.read().decode(errors="replace")


def _serve(way: socket.socket) -> dict:
    """Forks for every command. -> in the child, what it was told."""
    while True:
        _, fds, _, _ = socket.recv_fds(way, 64, 4)
        if not fds:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            way.close()
            with open(fds[3], "rb") as letter:
                told = json.loads(letter.read())
            for number in range(3):
                os.dup2(fds[number], number)
                os.close(fds[number])
            return told
        for fd in fds:
            os.close(fd)
        way.send(str(pid).encode())
        way.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


if __name__ == "__main__":
    import mezzotint.cli
    import mezzotint.engine.engine  # noqa: F401 - only so that it is imported before any fork

    told = _serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(told["env"])
    os.chdir(told["cwd"])
    sys.argv = ["mezzotint", *told["args"]]
    runpy.run_module("mezzotint", run_name="__main__", alter_sys=True)

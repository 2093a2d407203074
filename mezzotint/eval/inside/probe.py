"""Looks whether the walls stand, from inside."""

from __future__ import annotations

import ctypes
import os
import socket

from mezzotint.eval.inside.common import begin, say

NEW_USER = 0x10000000


def _refused(family: int) -> bool:
    try:
        socket.socket(family).close()
    except OSError:
        return True
    return False


def _forks(most: int) -> int:
    """How many children may live at once, up to `most`."""
    reader, writer = os.pipe()
    count = 0
    try:
        for _ in range(most):
            if os.fork() == 0:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            count += 1
    except OSError:
        pass
    os.close(writer)
    for _ in range(count):
        os.wait()
    return count


def main(arguments: list[str]) -> None:
    begin()
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    with open("/proc/net/dev", encoding="ascii") as file:
        devices = {line.split(":")[0].strip() for line in file if ":" in line}
    say(
        int(arguments[0]),
        {
            "user": os.getuid() not in (0, -1) and int(status["CapEff"], 16) == 0,
            "network": devices <= {"lo"},
            "files": not any(map(os.path.exists, ("/etc/passwd", "/home", "/var", "/sys/kernel"))),
            "processes of others": sum(name.isdigit() for name in os.listdir("/proc")) <= 3,
            "new privileges": status["NoNewPrivs"] == "1",
            "namespaces": ctypes.CDLL(None, use_errno=True).unshare(NEW_USER) == -1,
            "number of processes": _forks(70) < 70,
            "seccomp": status["Seccomp"] == "2" and _refused(socket.AF_INET),
        },
    )

"""`mezzotint translate` as a user runs it: through a pipe, in JSON lines, and with what it refuses."""

import json
import subprocess
import sys
import threading
import time

import pytest
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.live.command import overtaking

OPTIONS = ["translate", "--model", "tiny", "--compute", "float32"]


def run(*options, said=b""):
    """In this process: its start would take longer than all that is tested."""
    return CliRunner().invoke(app, [*OPTIONS, *options], input=said)


def test_lines_are_translated_as_they_arrive():
    """The first update is there before the second hypothesis is sent; a blank line ends a text, and so does the end."""
    command = [sys.executable, "-m", "mezzotint", *OPTIONS, "--live", "--json"]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with running:
        found = []
        for line in ("Mia has", "Mia has a red ball", ""):
            running.stdin.write(f"{line}\n".encode())
            running.stdin.flush()
            found.append(json.loads(running.stdout.readline()))
        running.stdin.write(b"Tom\n")
        running.stdin.close()
        found += [json.loads(line) for line in running.stdout]
    ends = [(1, 1, False), (1, 2, False), (1, 3, True), (2, 1, False), (2, 2, True)]
    assert [(f["text"], f["rev"], f["final"]) for f in found] == ends
    assert found[1]["committed"].startswith(found[0]["committed"]) and not found[2]["draft"]
    assert {"confidence", "erased", "late", "calls", "positions", "ms"} <= set(found[0])


def test_a_pipe_gets_committed_text_alone():
    told = [json.loads(line) for line in run("--live", "--json", said=b"Mia has\nMia has a\n").stdout.splitlines()]
    plain = run("--live", said=b"Mia has\nMia has a\n")
    assert plain.stdout == told[-1]["committed"] + "\n" and "reads no instructions" in plain.stderr
    words = [json.loads(line) for line in run("--live", "--words", "--json", said=b"Mia has\na\n").stdout.splitlines()]
    assert words[-1]["committed"] == told[-1]["committed"]
    assert run("--live", said=b"\n \n").stdout == ""


@pytest.mark.parametrize(
    ("options", "said", "message"),
    [
        (("--rule", "x"), b"", "rule is 'x'; allowed: agreement"),
        (("--live", "Mia"), b"", "leave the text out"),
        (("--words", "Mia"), b"", "--words goes with --live"),
        (("--live",), b"Mia\n\xff\xfe\n", "not UTF-8"),
        (("--live", "--max-erasure", "-1"), b"", "max_erasure is -1.0"),
    ],
)
def test_what_is_refused_is_told_in_a_sentence(options, said, message):
    done = run(*options, said=said)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_what_was_overtaken_is_passed_over():
    go = threading.Event()

    def lines():
        yield "a"
        go.wait(10)
        yield from ("a b", "a b c", "", "d", "d e")

    found = overtaking(lines())
    first = next(found)
    go.set()
    time.sleep(0.2)  # all of it is waiting now
    assert [first, *found] == ["a", "a b c", "", "d e"]

    def broken():
        yield "a"
        raise ValueError("not UTF-8")

    with pytest.raises(ValueError, match="not UTF-8"):
        list(overtaking(broken()))

"""`mezzotint demo` in a process of its own."""

import re
import subprocess
import sys

import httpx


def test_a_free_port_is_taken_the_address_printed_and_the_playground_there():
    command = [sys.executable, "-m", "mezzotint", "demo", "--no-open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/playground/", process.stdout.readline()).group()
        assert process.stdout.readline() == "Ready.\n"
        assert "Mezzotint playground" in httpx.get(address).text
        assert httpx.get(f"{address}info").json()["model"] == "tiny"
    finally:
        process.terminate()
        _, logged = process.communicate(timeout=30)
    assert process.returncode == 0
    assert logged == ""

"""`mezzotint demo` in a process of its own."""

import os
import re
import subprocess
import sys
import time

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


def test_a_new_user_has_an_edited_text_within_a_minute(browser, full):
    """From the command to a text that was edited: the address, a tab, two buttons."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "mezzotint", "demo", "--no-open"], stdout=subprocess.PIPE, text=True
    )
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/playground/", process.stdout.readline()).group()
        context = browser.new_context()
        page = context.new_page()
        page.goto(address, timeout=60_000)  # at once, before anything is loaded
        page.click("role=tab[name='Instant Edit']", timeout=60_000)
        before = page.text_content(".cm-content")
        page.click("button:has-text('Edit Ctrl')")
        page.click("button:has-text('Apply')", timeout=60_000)
        page.wait_for_selector("[aria-label=Changes]", state="detached")
        after = page.text_content(".cm-content")
        context.close()
    finally:
        process.terminate()
        process.communicate(timeout=30)
    took = time.monotonic() - began
    print(
        f"\n{took:.1f} s from the command to an edited text: {before!r} became {after!r}; load {os.getloadavg()[0]:.1f}"
    )
    assert after != before
    assert took < 60 or not full

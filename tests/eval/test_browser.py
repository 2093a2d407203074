"""Pages that work and pages that do not, judged in a browser; what a page may not do; what is no check."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from mezzotint.eval.browser import Browser, NoBrowser, checked
from mezzotint.eval.data import fixture
from mezzotint.eval.judge import Judge
from mezzotint.eval.sandbox import NoIsolation
from mezzotint.eval.tasks import TASKS
from mezzotint.eval.web import page_in

WEB = TASKS["web-pages"]


@pytest.fixture(scope="module")
def browser():
    try:
        return Browser(patience=3.0)
    except (NoBrowser, NoIsolation) as error:
        pytest.skip(f"no browser: {error}")


@pytest.fixture(scope="module")
def items():
    return {item.id: item for item in WEB.load(fixture(WEB.fixture).rows, 0)}


def reference(item):
    return WEB.reference(item)


def test_the_reference_pages_are_right(browser, items):
    for item in items.values():
        verdict = WEB.judge(item, reference(item), False, Judge(browser=browser))
        assert verdict.state == "correct", (item.id, verdict)


BAD = {
    "starts at one": (lambda p: p.replace("<p id=count>0", "<p id=count>1"), "#count says '1', not '0'"),
    "the button does nothing": (lambda p: p.replace(".onclick", ".onfocusin"), "changes nothing in #count"),
    "counts by two": (lambda p: p.replace("++n", "(n += 2)"), "#count says '4', not '2'"),
    "no heading": (lambda p: p.replace("h1", "b"), "has h1"),
    "the heading is hidden": (lambda p: p.replace("<h1", "<h1 hidden"), "has h1"),
    "an error while loading": (lambda p: p.replace("<script>", "<script>nothing();"), "nothing is not defined"),
    "an error after a click": (lambda p: p.replace("++n; ", "++n; nothing(); "), "nothing is not defined"),
    "complains in the console": (lambda p: p.replace("<script>", "<script>console.error('no');"), "console: no"),
}


@pytest.mark.parametrize("name", list(BAD)[:: 1 if os.environ.get("MEZZOTINT_FULL") else 4])
def test_a_page_that_is_wrong(browser, items, name):
    change, why = BAD[name]
    page = reference(items["counter"])
    assert change(page) != page
    quick = Browser.__new__(Browser)
    quick.__dict__.update({**vars(browser), "patience": 0.3})
    verdict = WEB.judge(items["counter"], change(page), False, Judge(browser=quick))
    assert verdict.state == "wrong" and why in verdict.note, verdict


def test_a_page_reaches_nothing_and_cannot_hold_its_judge(browser):
    right = [{"text": "#a", "is": "1"}]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        page = f"<p id=a>1</p><script>new WebSocket('ws://127.0.0.1:{port}'); fetch('http://127.0.0.1:{port}')</script>"
        assert browser.grade(page, right).note == f"asked for http://127.0.0.1:{port}/"
        with pytest.raises(TimeoutError):
            server.accept()
    assert (
        "asked for https://example.com/x.js"
        in browser.grade("<p id=a>1<script src=//example.com/x.js></script>", right).note
    )
    quick = Browser.__new__(Browser)
    quick.__dict__.update({**vars(browser), "patience": 0.1})
    verdict = quick.grade("<p id=a>1</p><script>for (;;) {}</script>", right)
    assert verdict.state == "wrong" and verdict.note, verdict


def test_what_is_no_check():
    for check in ({}, {"sees": "p"}, {"text": "p"}, {"has": "p", "is": 1}, {"click": "p", "with": "x"}):
        with pytest.raises(ValueError, match="is no check"):
            checked([check])
    with pytest.raises(ValueError, match="no checks"):
        checked([])
    with pytest.raises(ValueError, match=r"mine: .* is no check"):
        WEB.load([{"id": "mine", "instruction": "x", "checks": [{"a": 1}]}], 0)


def test_the_page_in_an_answer():
    assert page_in("Here:\n```html\n<p>1</p>\n```\nDone") == "<p>1</p>"
    assert page_in("```html\n<p>cut") == "<p>cut"
    assert page_in("So: <!DOCTYPE html><p>1") == "<!DOCTYPE html><p>1"
    assert page_in("no page") is None


def test_without_a_browser_nothing_is_judged(tmp_path, monkeypatch, items):
    with pytest.raises(NoBrowser, match="not started"):
        WEB.judge(items["menu"], reference(items["menu"]), False, Judge())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NoBrowser, match=r"pip install 'mezzotint\[web\]'"):
        Browser()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(NoBrowser, match=r"no browser .*none"):
        Browser(str(tmp_path / "none"))
    stub = Path(tmp_path, "chromium")
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else str(stub))
    with pytest.raises(NoIsolation, match="bubblewrap is missing"):
        Browser(str(stub))

"""Judging a web page: Chromium without a screen, in bubblewrap without a network, driven from outside by Playwright.

    page, checks -> a process of its own (`page.py`) -> bwrap: no network, no files but /usr, a user of no rights -> Chromium
                 <- {"ok", "why"}

* The page is answered to one address; whatever else it asks for is refused and counts as a failure.
* A check is done by the driver, outside: a page sees no check, and says nothing about the verdict itself.
* Chromium's own sandbox wants user namespaces, which bubblewrap takes away, so it is off; there is no seccomp filter here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mezzotint.eval.sandbox import REMEDY, NoIsolation
from mezzotint.eval.task import Verdict

STARTING = 30.0  # seconds that a browser may take to start
SECONDS = 10.0  # for loading, and for each check
KINDS: dict[str, frozenset[str]] = {  # of a check, by its first key -> what it may have besides
    "has": frozenset(), "count": frozenset({"is"}), "text": frozenset({"is", "contains"}), "fill": frozenset({"with"}),
    "click": frozenset({"changes"}),
}  # fmt: skip


class NoBrowser(RuntimeError):
    """Web pages cannot be judged here; the message says why and what helps."""


def checked(checks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Raises ValueError for what is no check: see `Browser.grade`."""
    if not checks:
        raise ValueError("a page has no checks")
    for check in checks:
        kind = next((kind for kind in KINDS if kind in check), None)
        more = set(check) - {kind}
        needed = 0 if kind in ("has", "click") else 1
        if kind is None or more - KINDS[kind] or len(more) < needed:
            known = "has; count, is; text, is or contains; fill, with; click, perhaps changes"
            raise ValueError(f"{json.dumps(dict(check))} is no check; there are: {known}")
    return [dict(check) for check in checks]


class Browser:
    """chromium: a path; else what CHROMIUM names, else the system's. Tried at the start. Raises NoBrowser, NoIsolation."""

    level = "bwrap, Chromium"

    def __init__(self, chromium: str | None = None, patience: float = 1.0) -> None:
        if importlib.util.find_spec("playwright") is None:
            raise NoBrowser(
                "playwright is not installed, so web pages cannot be judged: pip install 'mezzotint[web]'; answers "
                "already in the store are kept"
            )
        named = chromium or os.environ.get("CHROMIUM") or "chromium"
        found = shutil.which(named)
        if found is None:
            raise NoBrowser(
                f"there is no browser {named!r}; install Chromium (scripts/chromium.sh), or name one with CHROMIUM"
            )
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise NoIsolation(f"bubblewrap is missing, so no page is opened: {REMEDY}")
        self.chromium, self.bwrap, self.patience = found, bwrap, patience
        self._probe()

    def _probe(self) -> None:
        """A page that works must be found right, and must not reach a socket of this machine."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.0)
            port = server.getsockname()[1]
            page = f"<p id=a>1</p><script>try {{ new WebSocket('ws://127.0.0.1:{port}') }} catch (e) {{}}</script>"
            told = self._run(page, [{"text": "#a", "is": "1"}], quiet=True)
            try:
                server.accept()
            except BlockingIOError:
                pass
            else:
                raise NoIsolation(f"the browser's sandbox leaks here (network): {REMEDY}")
        if not told.get("ok"):
            raise NoBrowser(f"{self.chromium} does not run here: {str(told.get('why') or 'no word')[:300]}")

    def grade(self, page: str, checks: Sequence[Mapping[str, Any]]) -> Verdict:
        """Does an HTML page load without an error in its console, ask for nothing else, and pass its checks, in order?

        {"has": CSS}                    a visible element
        {"count": CSS, "is": N}         so many visible elements
        {"text": CSS, "is": TEXT}       its text, spaces folded; or {"contains": TEXT}
        {"fill": CSS, "with": TEXT}     write into a field
        {"click": CSS}                  must be possible; with {"changes": CSS}, that element's content must then change
        """
        told = self._run(page, checked(checks))
        if "ok" not in told:
            return Verdict("infra_error", 0.0, str(told.get("why", ""))[:200])
        return Verdict.of(told["ok"] is True, str(told.get("why", ""))[:200])

    def _run(self, page: str, checks: list[dict[str, Any]], quiet: bool = False) -> dict[str, Any]:
        """-> ok, why; without ok when the browser, not the page, failed. quiet: errors in the console do not count."""
        seconds = SECONDS * self.patience
        job = {
            "page": page, "checks": checks, "seconds": seconds, "quiet": quiet, "chromium": self.chromium, "bwrap": self.bwrap,
            "starting": STARTING * self.patience,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "mezzotint.eval.page"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True, text=True,
        )  # fmt: skip
        most = (STARTING + (len(checks) + 2) * SECONDS) * self.patience
        try:
            out, errors = process.communicate(json.dumps(job), timeout=most)
        except subprocess.TimeoutExpired:
            return {"ok": False, "why": f"the page did not answer within {most:.0f} s"}
        finally:
            _end(process)
        try:
            told: dict[str, Any] = json.loads(out)
        except ValueError:
            return {"why": (errors.strip().splitlines() or ["the browser's driver ended without a word"])[-1]}
        return told


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the driver and all that it started: Chromium's sandbox dies with its parent."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
    process.wait()

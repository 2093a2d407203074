"""One page in one browser: a job on standard input, a verdict on standard output. `browser.py` starts it, and kills it."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Locator, Page, Route, sync_playwright

URL = "https://page.test/"  # no such host: the driver answers for it
FLAGS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --no-zygote"
)
NOBODY = "65534"
# what of an element a user could see change: its markup, and what its fields hold
CONTENT = "e => e.outerHTML + [e, ...e.querySelectorAll('*')].map(f => [f.value, f.checked, f.open].join()).join('|')"
FAILED = "Failed to load resource"  # told of by the request itself


def launcher(folder: Path, chromium: str, bwrap: str) -> str:
    """A program that starts Chromium inside bubblewrap with the arguments it is given. -> its path"""
    drop = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups " if os.geteuid() == 0 else ""
    links = [
        part
        for name in ("bin", "sbin", "lib", "lib32", "lib64")
        if Path("/", name).is_symlink()
        for part in ("--symlink", os.readlink(f"/{name}"), f"/{name}")
    ]
    walls = [
        bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--uid", NOBODY, "--gid", NOBODY, "--die-with-parent",
        "--cap-drop", "ALL", "--hostname", "sandbox", "--ro-bind", "/usr", "/usr", *links,
        "--ro-bind-try", "/etc/fonts", "/etc/fonts", "--ro-bind-try", "/etc/chromium.d", "/etc/chromium.d",
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp",
        "--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8",
    ]  # fmt: skip
    path = folder / "chromium"
    path.write_text(f'#!/bin/sh\nexec {drop}{shlex.join(walls)} -- {shlex.quote(chromium)} "$@"\n')
    path.chmod(0o755)
    return str(path)


def visible(page: Page, css: str) -> Locator:
    return page.locator(f"{css} >> visible=true")


def folded(text: str) -> str:
    return " ".join(text.split())


def failing(page: Page, check: Mapping[str, Any], milliseconds: float) -> str:
    """What is wrong by one check; nothing where it holds."""
    kind = next(iter(check))
    css = str(check[kind])
    found = visible(page, css)
    try:
        if kind == "count":
            page.wait_for_timeout(100)
            return "" if found.count() == check["is"] else f"{found.count()} of {css}, not {check['is']}"
        found.first.wait_for(timeout=milliseconds)
        if kind == "text":
            wanted = folded(str(check.get("is", check.get("contains"))))
            text = folded(found.first.inner_text(timeout=milliseconds))
            right = text == wanted if "is" in check else wanted in text
            return "" if right else f"{css} says {text[:60]!r}, not {wanted[:60]!r}"
        if kind == "fill":
            found.first.fill(str(check["with"]), timeout=milliseconds)
        elif kind == "click":
            watched = page.locator(str(check.get("changes", "body"))).first
            before = watched.evaluate(CONTENT, timeout=milliseconds)
            found.first.click(timeout=milliseconds)
            left = 20 if "changes" in check else 0
            while left and watched.evaluate(CONTENT, timeout=milliseconds) == before:
                page.wait_for_timeout(50)
                left -= 1
            return "" if left or "changes" not in check else f"a click on {css} changes nothing in {check['changes']}"
    except Error as error:
        return f"{kind} {css}: {error.message.splitlines()[0]}"
    return ""


def grade(job: Mapping[str, Any]) -> dict[str, Any]:
    """-> ok, why."""
    milliseconds = 1000.0 * job["seconds"]
    problems: list[str] = []

    def answer(route: Route) -> None:
        if route.request.url == URL:
            route.fulfill(body=job["page"], content_type="text/html; charset=utf-8")
        else:
            problems.append(f"asked for {route.request.url}")
            route.abort()

    with tempfile.TemporaryDirectory(prefix="mezzotint-") as name, sync_playwright() as driver:
        program = launcher(Path(name), job["chromium"], job["bwrap"])
        browser = driver.chromium.launch(
            executable_path=program, args=FLAGS.split(), timeout=1000.0 * job["starting"], chromium_sandbox=False
        )
        context = browser.new_context(service_workers="block", accept_downloads=False)
        context.set_default_timeout(milliseconds)
        context.route("**/*", answer)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("console", lambda said: _listen(said.type, said.text, problems))
        page.on("crash", lambda _: problems.append("the page crashed"))
        try:
            page.goto(URL, wait_until="load")
        except Error as error:
            problems.append(error.message.splitlines()[0])
        for check in job["checks"]:
            if problems and not job["quiet"]:
                break
            if why := failing(page, check, milliseconds):
                return {"ok": False, "why": why}
        page.wait_for_timeout(50)  # for what the last click has set off
        if problems and not job["quiet"]:
            return {"ok": False, "why": problems[0]}
        browser.close()
    return {"ok": True, "why": ""}


def _listen(kind: str, text: str, problems: list[str]) -> None:
    if kind == "error" and FAILED not in text:
        problems.append(f"console: {text}")


if __name__ == "__main__":
    told = json.dumps(grade(json.load(sys.stdin)))
    print(told, flush=True)
    os._exit(0)  # a page that hangs does not hold the verdict back

"""VS Code itself, as a page in Chromium, with our extension: scripts/vscode.sh puts both into MEZZOTINT_VSCODE."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from editor import Editor

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FOLDER = Path(os.environ.get("MEZZOTINT_VSCODE", Path.home() / ".cache" / "mezzotint-vscode"))
LEFT, HORSES = "They jump because they ", "The blue horses wait in seven garden."
WAIT = 180_000  # milliseconds: the editor, its extension and a model start on what may be a busy machine
SETTINGS = {
    "mezzotint.command": [sys.executable, "-m", "mezzotint", "lsp", "-m", "tiny", "--compute", "float32"],
    "workbench.startupEditor": "none", "editor.quickSuggestions": {"other": "off"}, "editor.wordBasedSuggestions": "off",
    "telemetry.telemetryLevel": "off", "chat.disableAIFeatures": True, "files.autoSave": "off",
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    not (FOLDER / "ready").is_file() or not Path(CHROMIUM).exists(),
    reason="VS Code is not there: bash scripts/vscode.sh",
)


@pytest.fixture
def address(tmp_path):
    """Of a VS Code whose folder holds page.txt."""
    user, work = tmp_path / "data" / "User", tmp_path / "work"
    user.mkdir(parents=True)
    work.mkdir()
    (user / "settings.json").write_text(json.dumps(SETTINGS))
    (work / "page.txt").write_text(f"{LEFT}\n{HORSES}\n")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    (node,) = FOLDER.glob("node_modules/node-linux-*/bin/node")
    command = [
        str(node), str(FOLDER / "node_modules/code-server/out/node/entry.js"), "--auth", "none", "--bind-addr",
        f"127.0.0.1:{port}", "--user-data-dir", str(tmp_path / "data"), "--extensions-dir", str(FOLDER / "extensions"),
        "--disable-telemetry", "--disable-update-check", "--disable-workspace-trust", str(work),
    ]  # fmt: skip
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, "HOME": str(tmp_path)}, start_new_session=True, **quiet)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).read()
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/?folder={work}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def test_vscode_completes_and_edits(address, tmp_path):
    """What it shows is what another client is answered, and one undo takes an edit back."""
    sync_api = pytest.importorskip("playwright.sync_api")
    file = tmp_path / "work" / "page.txt"
    other = Editor()
    other.wait("window/logMessage", lambda told: "tiny is loaded" in told["message"])
    other.open("file:///page.txt", file.read_text())
    (item,) = other.ask("textDocument/inlineCompletion", other.complete("file:///page.txt", 0, len(LEFT)))["items"]
    other.close()
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 960, "height": 520})
        page.set_default_timeout(WAIT)

        def saved(expected):
            for _ in range(WAIT // 1000):
                page.keyboard.press("Control+s")
                page.wait_for_timeout(1000)
                if file.read_text() == expected:
                    return
            assert file.read_text() == expected

        page.goto(address)
        page.get_by_role("treeitem", name="page.txt").dblclick()
        page.locator(".view-lines").click()
        ghost = page.locator("[class*=ghost-text]")
        for _ in range(60):  # until the extension has started the server, and that has loaded its model
            page.keyboard.press("Control+Home")
            page.keyboard.press("End")
            page.keyboard.type(" ")
            page.keyboard.press("Backspace")
            page.wait_for_timeout(3000)
            if ghost.count():
                break
        shown = "".join(ghost.all_inner_texts()).replace("\xa0", " ")
        assert shown == item["insertText"] and shown.strip()
        page.screenshot(path=str(tmp_path / "ghost.png"))
        page.keyboard.press("Tab")
        saved(f"{LEFT}{shown}\n{HORSES}\n")

        page.keyboard.press("Control+End")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Control+.")
        actions = page.locator(".action-widget .monaco-list-row.action")
        actions.first.wait_for()
        page.screenshot(path=str(tmp_path / "actions.png"))
        actions.filter(has_text="grammar").first.click()
        saved(f"{LEFT}{shown}\n{HORSES.replace('seven garden', 'the garden')}\n")
        page.locator(".view-lines").click()
        page.keyboard.press("Control+z")
        saved(f"{LEFT}{shown}\n{HORSES}\n")
        browser.close()

"""Neovim itself, without a screen, is the client: scripts/neovim.sh installs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from editor import Editor

NVIM = shutil.which("nvim")
HORSES = "The blue horses wait in seven garden."
LEFT = "\U0001f600 The blue horses run in the garden. They jump because they "


@pytest.mark.skipif(NVIM is None, reason="Neovim is not installed: bash scripts/neovim.sh")
def test_neovim_completes_and_edits(tmp_path):
    """What it shows is what another client is answered, and one undo takes an edit back."""
    page = tmp_path / "page.txt"
    page.write_text(f"{LEFT} happy.\n{HORSES}\n")
    server = [sys.executable, "-m", "mezzotint", "lsp", "-m", "tiny", "--compute", "float32"]
    told = {"server": server, "file": str(page), "line": 0, "column": len(LEFT.encode()), "chosen": 1}
    (tmp_path / "told.json").write_text(json.dumps(told))
    names = {"TOLD": str(tmp_path / "told.json"), "FOUND": str(tmp_path / "found.json"), "HOME": str(tmp_path)}
    script = Path(__file__).with_name("neovim.lua")
    done = subprocess.run(
        [NVIM, "--clean", "--headless", "-n", "-S", str(script)], env={**os.environ, **names}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    assert "problem" not in found, found["problem"] + done.stderr

    other = Editor()
    other.wait("window/logMessage", lambda told: "tiny is loaded" in told["message"])
    other.open(page.as_uri(), page.read_text())
    units = len(LEFT.encode("utf-16-le")) // 2
    (item,) = other.ask("textDocument/inlineCompletion", other.complete(page.as_uri(), 0, units))["items"]
    assert found["inserted"] == item["insertText"] and found["inserted"].strip()
    other.close()

    whole = f"{LEFT}{found['inserted']} happy.".split("\n")
    assert found["completed"] == [*whole, HORSES]
    assert any(kind.endswith(".refactor") for kind in found["actions"]) and found["done"]["applied"]
    assert found["edited"] == [*whole, HORSES.replace("seven garden", "the garden")]
    assert found["undone"] == found["completed"] and found["ended"] and found["encoding"] == "utf-16"

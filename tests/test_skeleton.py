"""The package as a whole: lazy, layered, documented, free of pickle."""

import ast
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mezzotint

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "mezzotint").rglob("*.py"))


def test_public_names_load_and_are_listed_once():
    assert sorted(mezzotint.__all__) == sorted(mezzotint._HOME)
    for name in mezzotint.__all__:
        assert getattr(mezzotint, name) is not None and name in dir(mezzotint)
    with pytest.raises(AttributeError, match="nothing"):
        _ = mezzotint.nothing


def test_the_command_line_starts_without_torch():
    code = (
        "import sys, mezzotint.cli\n"
        "try:\n  mezzotint.cli.app(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for verb in ("generate", "edit", "watch", "replay", "doctor", "pull"):
        assert verb in done.stdout


def test_help_is_fast(full):
    if not full:
        pytest.skip("a speed bar: runs in make test-full")

    def seconds(*args):
        began = time.perf_counter()
        subprocess.run([sys.executable, *args], capture_output=True, check=True)
        return time.perf_counter() - began

    pairs = [(seconds("-c", "pass"), seconds("-m", "mezzotint", "--help")) for _ in range(9)]
    over = statistics.median(b - a for a, b in pairs)
    print(f"--help takes {1000 * over:.0f} ms over a bare interpreter")
    assert over < 0.3


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_opens_with_its_picture_and_loads_no_pickle(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "cPickle", "dill", "joblib", "shelve"} and "torch.load" not in text

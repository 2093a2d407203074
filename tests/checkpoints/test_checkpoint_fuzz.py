"""Ten thousand damaged files of each format (500 unless MEZZOTINT_FULL=1): a clear error, or a load that is sound.

Each case ends in a CheckpointError that names field and byte, or in a checkpoint with the same sizes, names and shapes.
None takes a second of CPU, and all together never more than 64 MB of memory above the file's size.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = 10_000 if os.environ.get("MEZZOTINT_FULL") == "1" else 500


@pytest.mark.skipif(os.name != "posix", reason="getrusage")
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_damaged_files(kind: str, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    if kind == "gguf":
        source = target = Path(shutil.copy(tiny[0], tmp_path / "tiny.gguf"))
    else:
        source = shutil.copytree(tiny[1], tmp_path / "tiny")
        target = source / "model.safetensors"
    worker = Path(__file__).with_name("fuzz_worker.py")
    command = [sys.executable, "-W", "error", str(worker), str(source), str(target), str(COUNT), "1"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["cases"] == COUNT and found["refused"] > COUNT // 4 and found["accepted"] > COUNT // 20
    assert found["slowest"] < 1
    assert found["peak"] < found["size"] + (64 << 20)

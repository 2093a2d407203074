"""The tiny checkpoint, made once, and the real base weights where the cache holds them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_checkpoint

from mezzotint.checkpoints import fetch
from mezzotint.checkpoints.load import Checkpoint, load


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(tiny.gguf, folder of its safetensors twin)."""
    root = tmp_path_factory.mktemp("tiny")
    weights = tiny_checkpoint.write_gguf(root / "tiny.gguf")
    tiny_checkpoint.write_folder(root / "tiny", weights)
    return root / "tiny.gguf", root / "tiny"


@pytest.fixture(scope="session")
def base() -> Checkpoint:
    """The default checkpoint; skipped where `make` has not fetched it."""
    path = fetch.cached_path()
    if path is None:
        pytest.skip("the base weights are not in the cache: mezzotint pull default")
    return load(path)

"""Fixtures of every suite. MEZZOTINT_FULL=1 runs full counts; otherwise a twentieth of them, never under two."""

import os
from pathlib import Path

import pytest

# Begun first, so that two workers end together: what takes longest.
LONGEST = (
    "test_base_weights", "test_distributed", "test_cli", "test_docs", "test_sampling_oracle", "test_editor", "test_infill",
    "test_kit", "test_parallel", "test_scheduler", "test_tiny",
)  # fmt: skip
FULL = os.environ.get("MEZZOTINT_FULL") == "1"


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture
def full() -> bool:
    return FULL


@pytest.fixture
def count():
    return lambda n: n if FULL else max(2, n // 20)


@pytest.fixture(scope="session")
def base_path() -> Path:
    """The cached base weights. `make test` fetches them before it starts; tests never download."""
    from mezzotint.checkpoints.fetch import cached_path

    path = cached_path()
    if path is None:
        message = "the base weights are not in the cache: mezzotint pull default"
        if os.environ.get("MEZZOTINT_REQUIRE_BASE") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path

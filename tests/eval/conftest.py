"""Fixtures of evaluation: the sandbox where this machine can isolate, and the folder of real items where there is one."""

import os
from pathlib import Path

import pytest

from mezzotint.eval.judge import Judge
from mezzotint.eval.sandbox import NoIsolation, Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    try:
        return Sandbox()
    except NoIsolation as error:
        if os.environ.get("MEZZOTINT_REQUIRE_SANDBOX") == "1":
            pytest.fail(str(error))
        pytest.skip(f"no isolation: {error}")


@pytest.fixture(scope="session")
def strict(sandbox) -> Judge:
    return Judge(sandbox, "strict", patience=3.0)


@pytest.fixture(scope="session")
def official(sandbox) -> Judge:
    return Judge(sandbox, "official", patience=3.0)


@pytest.fixture(scope="session")
def items_folder() -> Path:
    name = os.environ.get("MEZZOTINT_EVALDATA")
    if not name:
        pytest.skip("skipped: no data (MEZZOTINT_EVALDATA is not set)")
    return Path(name)

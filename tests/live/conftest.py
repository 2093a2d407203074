import importlib.util

import pytest

collect_ignore_glob = ["test_lsp.py"] if importlib.util.find_spec("pygls") is None else []


@pytest.fixture(scope="session")
def tiny():
    import mezzotint as mz

    return mz.Engine(mz.load("tiny"))

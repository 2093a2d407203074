import importlib.util

import pytest

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "httpx", "openai")
LACKING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["*.py"] if LACKING else []

if not LACKING:
    import live

    import mezzotint as mz

    @pytest.fixture(scope="session")
    def engine():
        return live.Held(mz.Engine(mz.load("tiny")))

    @pytest.fixture(scope="session")
    def base(engine):
        with live.running(engine) as (address, _):
            yield address

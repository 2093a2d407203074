import importlib.util
import os
from pathlib import Path

import pytest

NEEDED = ("fastapi", "uvicorn", "websockets", "prometheus_client", "httpx", "openai")
LACKING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["*.py"] if LACKING else []

if not LACKING:
    import httpx
    import live

    import mezzotint as mz

    @pytest.fixture(scope="session")
    def engine():
        """MEZZOTINT_TEST_MODEL names another checkpoint for the clients' tests, MEZZOTINT_TEST_COMPUTE how it computes. It is
        served as "tiny" all the same."""
        checkpoint = mz.load(os.environ.get("MEZZOTINT_TEST_MODEL", "tiny"))
        return live.Held(mz.Engine(checkpoint, compute=os.environ.get("MEZZOTINT_TEST_COMPUTE", "float32")))

    @pytest.fixture(scope="session")
    def base(engine):
        with live.running(engine) as (address, _):
            yield address


CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = (  # the devices are Chromium's own: a moving picture and a beeping microphone
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
)
UNSAFE = ["--disable-web-security", "--disable-site-isolation-trials"]  # playwright's own: security stays on


@pytest.fixture(scope="module")
def browser():
    """A browser for a module: while it is driven an event loop runs in this thread, which other modules could not have."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split(), ignore_default_args=UNSAFE)
        yield started
        started.close()


@pytest.fixture
def page(browser, base):
    """The playground, open. Fails at the end where the page erred or asked anyone but its server and its previews.

    What goes wrong in a previewed page is its own affair.
    """
    context = browser.new_context(viewport={"width": 1180, "height": 900})
    page = context.new_page()
    asked, problems = [], []
    page.on("request", lambda request: asked.append(request.url))
    preview = httpx.get(f"{base}/playground/info").json()["preview"]
    page.on("pageerror", lambda error: None if preview in (error.stack or "") else problems.append(str(error)))
    page.on(
        "console",
        lambda said: (
            problems.append(said.text) if said.type == "error" and preview not in said.location["url"] else None
        ),
    )
    page.goto(f"{base}/playground/")
    page.wait_for_selector("[role=tabpanel]")
    yield page
    assert not problems
    assert all(url.startswith((base, preview, "blob:", "data:")) for url in asked)
    context.close()

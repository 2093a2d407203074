"""Hostile pages in the preview: none reaches the page, the API or the network, with a camera or without."""

import random
import socket
import threading

import hostile
import httpx
import live
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Sink:
    """Somewhere else: a TCP and a UDP port that remember what is said to them."""

    def __init__(self):
        self.heard = []
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        for listen in (self._connections, self._datagrams):
            threading.Thread(target=listen, daemon=True).start()

    def _connections(self):
        while True:
            try:
                link, _ = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._read, args=(link,), daemon=True).start()

    def _read(self, link):
        with link:
            link.settimeout(20)
            try:
                said = link.recv(2048)
            except OSError:
                said = b""
            if said:  # Chromium may connect for a navigation before it refuses that, and says nothing then
                self.heard.append(said)

    def _datagrams(self):
        while True:
            try:
                self.udp.recv(2048)
            except OSError:
                return
            self.heard.append(b"a datagram")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for one in (self.tcp, self.udp):
            one.close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.tcp.getsockname()[1]}"

    @property
    def address(self):
        return f"127.0.0.1:{self.udp.getsockname()[1]}"


class Recorder:
    """Every request that the server's port hears."""

    def __init__(self, app):
        self.app, self.heard = app, []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            origin = dict(scope["headers"]).get(b"origin", b"").decode()
            self.heard.append((scope["path"] + "?" + scope["query_string"].decode(), origin))
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def held(browser, engine):
    """A playground whose server tells what it was asked, a page on it that has secrets, and somewhere else."""
    with Sink() as sink, live.running(engine) as (base, server):
        recorder = server.config.loaded_app = Recorder(server.config.loaded_app)
        context = browser.new_context()
        context.add_cookies([{"name": "secret", "value": "1", "url": base}])
        page = context.new_page()
        told = {"dialogs": 0, "downloads": 0}
        erred = []
        page.on("pageerror", lambda error: erred.append(str(error)) if f"{base}/" in (error.stack or "") else None)
        page.on("dialog", lambda dialog: (told.update(dialogs=1), dialog.dismiss()))
        page.on("download", lambda _: told.update(downloads=1))
        page.goto(f"{base}/playground/#Apps")
        page.wait_for_selector("#app-prompt")
        page.evaluate("localStorage.secret = sessionStorage.secret = '1'")
        yield page, base, sink, recorder, told
        assert not erred, "what a page did reached the playground's own code"
        context.close()


def run(page, code):
    """Through the editor, as a user would."""
    page.fill(".code-editor .cm-content", code)
    page.keyboard.press("Control+Enter")


def test_the_traps_catch(held):
    """What is asked freely is seen: a silence below means that nothing was asked."""
    _, base, sink, recorder, _ = held
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{sink.url}/stolen")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"stolen", sink.udp.getsockname())
    httpx.get(f"{base}/playground/info?stolen")
    live.wait(lambda: b"a datagram" in sink.heard and any(said.startswith(b"GET /stolen") for said in sink.heard))
    assert any("stolen" in path for path, _ in recorder.heard)


@pytest.mark.parametrize("devices", [False, True])
def test_none_gets_out(held, devices, count, full):
    page, base, sink, recorder, told = held
    names = list(hostile.SCRIPTS) if full else random.sample(list(hostile.SCRIPTS), count(len(hostile.SCRIPTS)))
    if (page.get_attribute("#devices", "aria-pressed") == "true") != devices:
        page.click("#devices")
    escaped = []
    for name in names:
        sink.heard.clear()
        recorder.heard.clear()
        run(page, hostile.page(name, base, sink.url, sink.address))
        page.wait_for_selector(f'.log li:has-text("trying {name}")', state="attached")
        page.wait_for_timeout(700)
        wrong = {
            "said": [line for line in page.locator(".log li").all_inner_texts() if "ESCAPED" in line],
            "network": list(sink.heard),
            "server": [path for path, origin in recorder.heard if "stolen" in path or origin == "null"],
            "page": [] if page.url == f"{base}/playground/#Apps" and len(page.context.pages) == 1 else [page.url],
            "inside": page.evaluate("window.pwned !== undefined || !!document.querySelector('.log img, .log b')"),
            "user": told["dialogs"] + told["downloads"],
        }
        if any(wrong.values()):
            escaped.append((name, {what: found for what, found in wrong.items() if found}))
    print(f"{len(names)} hostile pages {'with' if devices else 'without'} devices, {len(escaped)} got out")
    assert not escaped


def test_an_error_at_an_empty_line_marks_nothing_and_stops_nothing(held):
    page, *_ = held
    spoofed = 'parent.postMessage({ mezzotint: { kind: "error", text: "at nothing", line: 2 } }, "*")'
    run(page, f"<!doctype html>\n\n<script>{spoofed}</script>\n")
    page.wait_for_selector(".log li.error:has-text('line 2: at nothing')")
    run(page, '<!doctype html>\n<script>console.log("the next page")</script>\n')
    page.wait_for_selector(".log li:has-text('the next page')")


def test_a_page_that_loops_for_ever_freezes_nothing(held):
    page, *_ = held
    run(page, "<!doctype html>\n<p>here</p>\n<script>for (;;);</script>\n")
    page.fill("#app-prompt", "the page still answers")
    assert page.evaluate("new Promise((done) => setTimeout(() => done(1 + 1), 50))") == 2
    page.wait_for_selector("[role=alert]:has-text('has not answered')")
    page.click("text=Stop the page")
    page.wait_for_selector("text=Nothing runs.")
    assert page.locator("iframe").count() == 0
    run(page, "<!doctype html>\n<p>again</p>\n<script>for (;;);</script>\n")
    page.wait_for_selector("[role=alert]:has-text('The page was stopped: it did not answer')")  # nobody stopped it
    page.wait_for_selector("text=Nothing runs.")
    assert page.locator("iframe").count() == 0


def test_a_flood_of_messages_ends_the_page(held):
    page, *_ = held
    flood = "setInterval(() => { for (let n = 0; n < 3000; n++) parent.postMessage(n, '*') })"
    run(page, f"<!doctype html>\n<script>{flood}</script>\n")
    page.wait_for_selector("[role=alert]:has-text('messages without end')")
    assert page.locator("iframe").count() == 0

"""What goes wrong in front of the page: a refused camera, a server that is gone, a file of another version, a megabyte pasted."""

import json
import socket

import live
import pytest
from conftest import CHROMIUM, FLAGS, UNSAFE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MEGABYTE = "Mia has a red ball. " * 50_000
PASTE = """(element, text) => {
  const data = new DataTransfer();
  data.setData("text/plain", text);
  element.focus();
  element.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}));
}"""


def opened(browser, base, panel, there, **more):
    page = browser.new_context(**more).new_page()
    page.goto(f"{base}/playground/#{panel}")
    page.wait_for_selector(there)
    return page


def test_a_camera_that_the_user_refuses(browser, base):
    """The page was given leave to ask; its user says no."""
    asks = FLAGS.replace("--use-fake-ui-for-media-stream", "").split()
    strict = browser.browser_type.launch(executable_path=CHROMIUM, args=asks, ignore_default_args=UNSAFE)
    page = opened(strict, base, "Apps", "#app-prompt")
    page.click("role=group[name='Examples'] >> button:has-text('Video chat')")
    page.click("text=Open the shipped draft")
    page.click("#devices")
    frame = page.frame_locator("iframe.frame:not(.coming)")
    frame.locator("#why:has-text('Your camera is off')").wait_for()
    frame.locator("#start").click()
    frame.locator("#why:has-text('refused')").wait_for()
    assert frame.locator("video:not([hidden])").count() == 0
    strict.close()


def test_a_server_that_ends_in_the_middle_of_an_answer_and_is_gone_after_it(browser, engine):
    with live.running(engine, grace=0.2) as (base, server), live.slowed(engine, 0.05):
        page = opened(browser, base, "Chat", "#ask")
        page.fill("#ask", "Mia has a red ball. She")
        page.keyboard.press("Enter")
        page.wait_for_selector(".live .cell", state="attached")
        server.should_exit = True
        page.wait_for_selector(".bubble [role=alert]")
        said = page.inner_text(".bubble [role=alert]")
        assert "shutting down" in said or "broke off" in said
    page.fill("#ask", "And again")
    page.keyboard.press("Enter")
    page.wait_for_selector(".bubble [role=alert]:has-text('The server does not answer. Is it still running?')")
    page.click("role=tab[name='Instant Edit']")
    page.wait_for_selector("text=This panel could not be loaded")  # its code comes from the server, too
    page.context.close()


def test_a_remote_model_writes_where_it_is_chosen_and_says_when_it_is_down(browser, base, engine, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}/v1")
        monkeypatch.setenv("MERCURY_BASE_URL", f"{base}/v1")
        with live.running(engine, remotes=("mercury:tiny", "openai:gone"), name="other") as (racing, _):
            page = opened(browser, racing, "Apps", "#app-prompt")
            asked = []
            page.on("request", lambda request: asked.append(request.url))
            page.fill("#app-prompt", "Mia has a red ball. She")
            page.select_option("#apps-model", "mercury:tiny")
            page.click("text=How the model writes")
            assert page.locator("#apps-seed").count() == 0  # what it would not be told is not offered
            page.fill("#apps-max_tokens", "24")
            page.click("text=Let mercury:tiny write it")
            page.wait_for_selector("[data-testid=by] b:text-is('Written by mercury:tiny')")
            page.fill("#app-feature", "a clock")
            page.wait_for_selector("text=mercury:tiny writes the whole page anew")
            page.click("button:text-is('Add it')")
            page.wait_for_selector("[data-testid=by]:has-text('Written by mercury:tiny, changed by mercury:tiny')")
            before = page.inner_text(".code-editor .cm-content")
            page.select_option("#apps-model", "openai:gone")
            page.click("button:text-is('Add it')")
            page.wait_for_selector("[role=alert]:has-text('127.0.0.1')")
            assert page.inner_text(".code-editor .cm-content") == before
            page.click("role=tab[name='Chat']")
            page.select_option("#chat-model", "mercury:tiny")
            page.fill("#ask", "Mia has")
            page.keyboard.press("Enter")
            page.wait_for_selector(".bubble:has-text('Written by mercury:tiny')")
            assert page.locator("text=See every step >> visible=true").count() == 0
            assert all(url.startswith((racing, "http://localhost:")) for url in asked)  # never by the page itself
            page.context.close()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"mezzotint_trace": 99}\n', "its version is not 1"),
        ("hello\n", "line 1 is not a trace's"),
        ("", "lines"),
        (
            '{"mezzotint_trace": 1}\n'
            + json.dumps({
                "kind": "denoise", "row": 0, "block": 0, "step": 0, "start": 0, "tokens": [999999], "status": [0],
                "committed": 0, "calls": 1, "positions": 1,
            }),
            "the file holds token 999999",
        ),
    ],
    ids=["another version", "no trace", "empty", "another model"],
)  # fmt: skip
def test_a_trace_file_that_is_none_of_ours(browser, base, tmp_path, lines, said):
    page = opened(browser, base, "Trace", "#trace-file")
    path = tmp_path / "trace.jsonl"
    path.write_text(lines)
    page.set_input_files("#trace-file", path)
    page.wait_for_selector(f'[role=alert]:has-text("{said}")')
    page.context.close()


def test_a_megabyte_is_pasted(browser, base):
    """It is refused in words, or its work can be stopped; the page answers all the while."""
    page = opened(browser, base, "Chat", "#ask")
    soon = "new Promise((done) => { const from = performance.now(); setTimeout(() => done(performance.now() - from), 0); })"
    for title, box, send in (
        ("Chat", "#ask", "text=Send"),
        ("Apps", "#app-prompt", "text=Let tiny write it"),
        ("Race", "#race-prompt", "[aria-label=Race] button.main"),
        ("Canvas lab", "#lab-text", "button:text-is('Denoise')"),
    ):
        page.click(f"role=tab[name='{title}']")
        page.fill(box, MEGABYTE)
        page.click(send)
        page.wait_for_selector("[role=tabpanel]:not([hidden]) [role=alert]:has-text('characters')")
        assert page.evaluate(soon) < 5000, title
        page.fill(box, "short")
    page.click("role=tab[name='Translate']")
    page.fill("#live-source", MEGABYTE)
    page.wait_for_selector("[role=tabpanel]:not([hidden]) [role=alert]:has-text('characters')")
    page.click("role=tab[name='Instant Edit']")
    page.wait_for_selector(".cm-content >> visible=true")
    page.eval_on_selector("[aria-label=Edit] .cm-content", PASTE, MEGABYTE)
    size = "document.querySelector('[aria-label=Edit] .cm-content').cmTile.view.state.doc.length"
    assert page.evaluate(size) >= len(MEGABYTE)
    page.click("button:has-text('Edit Ctrl')")
    page.click("[aria-label=Edit] button.stop")
    page.wait_for_selector("button:has-text('Edit Ctrl')")
    assert page.evaluate(soon) < 5000
    page.context.close()

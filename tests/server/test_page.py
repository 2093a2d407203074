"""The page in a browser: Debian's Chromium, without the flags that switch web security off."""

import os
import re

import httpx
import live
import pytest

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def clean(page):
    """Fails where axe-core finds a violation."""
    found = axe.Axe().run(page).response["violations"]
    assert not found, [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]


def test_chat_shows_every_state_and_ends_with_the_traces_text(page, base):
    ready = page.evaluate("performance.getEntriesByName('interactive')[0].startTime")
    weight = page.evaluate("performance.getEntriesByType('resource').reduce((n, r) => n + r.encodedBodySize, 0)")
    print(f"interactive after {ready:.0f} ms, {weight / 1000:.0f} kB")
    assert weight < 400_000
    clean(page)
    page.fill("#chat-seed", "3")
    page.fill("#chat-max_tokens", "40")
    page.fill("#ask", "Mia has a red ball. She")
    with page.expect_response(re.compile("/run$")) as answer:
        page.keyboard.press("Enter")
    page.wait_for_selector(".live .cell.mask", state="attached")
    page.wait_for_selector("text=See every step")
    id = re.search(r'"id":"(run-\w+)"', answer.value.text()).group(1)
    trace = httpx.get(f"{base}/playground/traces/{id}").json()
    assert page.inner_text(".prose").split() == trace["text"].split()
    clean(page)
    page.click("text=See every step")
    page.wait_for_selector("#scrub")
    page.fill("#scrub", "2")
    early = page.inner_text("[data-testid=strip]")
    page.fill("#scrub", str(len(trace["frames"]) - 1))
    assert page.inner_text("[data-testid=strip]") != early
    assert page.text_content("[data-testid=whole]") == trace["text"]
    clean(page)


def test_an_edit_is_made_and_applied(page):
    page.click("role=tab[name='Instant Edit']")
    page.wait_for_selector(".cm-content")
    before = page.inner_text(".cm-content")
    page.click("button:has-text('Edit Ctrl')")
    page.wait_for_selector(".hunk", timeout=60000)
    clean(page)
    page.click("button:has-text('Apply')")
    page.wait_for_function("before => document.querySelector('.cm-content').innerText !== before", arg=before)


def test_a_source_is_translated_as_it_is_typed(page, base):
    """Committed text and the draft are told apart by more than their colour; what is committed stays."""
    page.click("role=tab[name='Translate']")
    page.wait_for_selector("#live-source")
    page.fill("#live-source", "Mia has")
    page.wait_for_selector("[aria-label='What this text took']")
    seen = ""
    for text in ("Mia has a red", "Mia has a", "Mia has a red ball and a", "Mia has a red ball and a hat"):
        page.fill("#live-source", text)
        page.wait_for_selector("section[aria-label=Translation][aria-busy=false]")
        committed = page.text_content("[data-testid=committed]")
        assert committed.startswith(seen)
        seen = committed
    style = "element => { const s = getComputedStyle(element); return [s.fontStyle, s.textDecorationLine] }"
    assert page.eval_on_selector(".legend .open", style) == ["italic", "underline"]
    assert page.eval_on_selector(".legend .said", style) == ["normal", "none"]
    clean(page)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("section[aria-label=Translation][aria-busy=false]")
    whole = page.text_content(".captions >> nth=0")
    assert whole and whole.startswith(seen) and not page.text_content("[data-testid=draft]")
    clean(page)


def test_a_key_opens_the_line(browser, engine):
    with live.running(engine, keys=("s+/cret",)) as (address, _):
        page = browser.new_page()
        page.goto(f"{address}/playground/#Translate")
        page.fill("#key", "s+/cret")
        page.click("text=Use it")
        page.fill("#live-source", "Mia has")
        page.wait_for_selector("[aria-label='What this text took']")
        page.close()


TABS = {
    "Chat": "#ask",
    "Apps": "#app-prompt",
    "Instant Edit": ".cm-content",
    "Translate": "#live-source",
    "Race": "#race-prompt",
    "Canvas lab": "#lab-text",
    "Trace": "#trace-file",
}


@pytest.mark.parametrize(("width", "zoom"), [(320, 1), (1180, 2)])
def test_panels_fit_narrow_screens_and_twice_the_size(page, width, zoom):
    """A browser's zoom of 2 is half the width in twice the pixels; text alone may be twice as large, too."""
    page.set_viewport_size({"width": width // zoom, "height": 700 // zoom})
    for name, there in TABS.items():
        page.click(f"role=tab[name='{name}']")
        page.wait_for_selector(f"{there} >> visible=true")
        for size in ("100%", f"{zoom * 100}%"):
            page.evaluate("size => { document.documentElement.style.fontSize = size }", size)
            assert page.evaluate("document.documentElement.scrollWidth") <= width // zoom, (name, size)


def test_reduced_motion_shows_what_is_committed_and_nothing_that_moves(browser, base):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{base}/playground/")
    page.wait_for_selector("#ask")
    assert page.is_checked("text=Less motion")
    page.evaluate("""() => { window.seen = 0; new MutationObserver(() => {
      window.seen += document.querySelectorAll(".live .cell").length + document.getAnimations().length;
    }).observe(document.body, {childList: true, subtree: true, characterData: true}); }""")
    page.fill("#chat-max_tokens", "40")
    page.fill("#ask", "Mia has a red ball. She")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=See every step")
    assert page.evaluate("window.seen") == 0
    context.close()


def test_a_race_against_a_remote_model(browser, base, engine, monkeypatch):
    monkeypatch.setenv("MERCURY_BASE_URL", f"{base}/v1")
    with live.running(engine, remotes=("mercury:tiny",), name="other") as (racing, _):
        page = browser.new_page()
        page.goto(f"{racing}/playground/")
        page.click("role=tab[name='Race']")
        page.select_option("#race-rival", "mercury:tiny")
        page.click("[aria-label=Race] button.main")
        page.wait_for_selector("text=times as many tokens a second", timeout=60000)
        clean(page)
        assert "mercury:tiny wrote" in page.inner_text("[role=status]:visible")
        if told := os.environ.get("MEZZOTINT_PICTURES"):
            page.screenshot(path=f"{told}/race-remote.png")
        page.close()

"""Apps and the canvas lab in a browser: what is shipped works, what is changed is changed in place, what is typed stays."""

import re

import pytest

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
BROKEN = "<!doctype html>\n<p>one</p>\n<script>\nlet count = 1;\ncuont += 1;\n</script>\n"


def clean(page):
    """Fails where axe-core finds a violation."""
    found = axe.Axe().run(page).response["violations"]
    assert not found, [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]


def open_draft(page, name):
    """The frame that its page runs in."""
    page.click(f"role=group[name='Examples'] >> button:has-text('{name}')")
    page.click("text=Open the shipped draft")
    page.wait_for_selector(f"[data-testid=by]:has-text('Shipped example “{name}”')")
    frame = page.frame_locator("iframe.frame:not(.coming)")
    frame.locator(f"xpath=//title[text()='{name}']").wait_for(state="attached")
    return frame


def code(page):
    return page.evaluate("document.querySelector('.code-editor .cm-content').cmTile.view.state.doc.toString()")


@pytest.fixture
def apps(page):
    page.click("role=tab[name='Apps']")
    page.wait_for_selector("#app-prompt")
    return page


def test_every_shipped_draft_does_what_its_prompt_says(apps):
    frame = open_draft(apps, "Xylophone")
    frame.locator(".bar").nth(2).press("Enter")
    frame.locator("#help:has-text('E, 659 Hz')").wait_for()
    clean(apps)

    frame = open_draft(apps, "Planet Tac Toe")
    frame.locator(".cell").nth(0).click()
    frame.locator(".saturn").wait_for()
    assert frame.locator(".earth").count() == 1
    frame.locator(".cell:enabled").first.click()
    frame.locator(".saturn").nth(1).wait_for()
    assert frame.locator("#said").inner_text() == "Earth's move"

    frame = open_draft(apps, "Drawing pad")
    pad = frame.locator("canvas")
    pad.drag_to(pad, source_position={"x": 20, "y": 20}, target_position={"x": 120, "y": 90})
    frame.locator("#undo:enabled").click()
    frame.locator("#undo:disabled").wait_for()

    frame = open_draft(apps, "Typing test")
    frame.locator("#typed").press_sequentially("The quick brown fux", delay=40)
    assert frame.locator("#text .no").inner_text() == "o"  # what should stand there
    assert int(frame.locator("#right").inner_text().rstrip("%")) < 100
    assert int(frame.locator("#speed").inner_text()) > 0

    frame = open_draft(apps, "Snake")
    frame.locator("#go").click()
    frame.locator("body").press("ArrowUp")
    frame.locator("#said:has-text('Over')").wait_for()  # it has met the wall


def test_the_video_chat_sees_and_hears_only_when_that_is_asked_for(apps):
    frame = open_draft(apps, "Video chat")
    frame.locator("#start").click()
    frame.locator("#why:has-text('refused')").wait_for()
    apps.click("#devices")
    frame.locator("#why:has-text('Your camera is off')").wait_for()
    frame.locator("#start").click()
    frame.locator("video:not([hidden])").wait_for()
    seen = frame.locator("video").evaluate("""async (video) => {
      const sheet = Object.assign(document.createElement("canvas"), {width: 32, height: 24}).getContext("2d");
      const level = document.getElementById("level"), seen = {pictures: new Set(), levels: new Set(), light: 0};
      for (let n = 0; n < 200 && (seen.pictures.size < 3 || seen.levels.size < 3); n++) {
        sheet.drawImage(video, 0, 0, 32, 24);
        const data = sheet.getImageData(0, 0, 32, 24).data;
        seen.light = Math.max(seen.light, ...data.filter((_, n) => n % 4 < 3));
        seen.pictures.add(data.join()), seen.levels.add(level.getAttribute("aria-valuenow"));
        await new Promise((done) => setTimeout(done, 50));
      }
      return {pictures: seen.pictures.size, levels: seen.levels.size, light: seen.light};
    }""")
    assert seen["pictures"] >= 3, "the picture does not move"
    assert seen["levels"] >= 3, "the meter does not move"
    assert seen["light"] > 50, "the picture is black"
    frame.locator("#end").click()
    frame.locator("#why:has-text('You have left')").wait_for()


def test_an_error_is_mapped_to_its_line_and_only_that_is_written_anew(apps):
    apps.fill(".code-editor .cm-content", BROKEN)
    apps.keyboard.press("Control+Enter")
    apps.wait_for_selector(".log li.error:has-text('line 5: Uncaught ReferenceError: cuont is not defined')")
    assert apps.locator(".cm-doubt").all_inner_texts() == ["cuont += 1;"]
    apps.click("text=Show line 5")
    apps.click("text=Denoise line 5 again")
    apps.wait_for_selector(
        "[role=status]:has-text('by tiny'), [role=status]:has-text('changed nothing')", timeout=60000
    )
    lines, before = code(apps).split("\n"), BROKEN.split("\n")
    assert lines[:4] == before[:4]
    assert lines[-2:] == before[-2:]
    assert lines != before
    assert apps.inner_text("[data-testid=by]") == "Yours, changed by tiny"
    clean(apps)
    apps.click("text=Undo")
    apps.wait_for_function("document.querySelector('[data-testid=by]').innerText === 'Yours'")
    assert code(apps) == BROKEN


def test_what_the_model_writes_is_labelled_and_runs(apps, engine):
    apps.fill("#app-prompt", "A red button")
    apps.click("text=How the model writes")
    apps.fill("#apps-max_tokens", "48")
    apps.fill("#apps-seed", "5")
    apps.click("text=Let tiny write it")
    apps.wait_for_selector("[data-testid=by] b:text-is('Written by tiny')", timeout=60000)
    lead = "<!doctype html>\n<!-- A red button -->\n"
    assert code(apps).startswith(lead)
    assert len(code(apps)) > len(lead)
    apps.frame_locator("iframe.frame:not(.coming)").locator("body").wait_for(state="attached")
    apps.click("text=Stop the page")
    apps.wait_for_selector("text=Nothing runs.")


def board(page):
    return [tuple(cell) for cell in page.evaluate(
        "[...document.querySelectorAll('[data-testid=board] .cell')].map((cell) => [cell.textContent, cell.className.trim()])"
    )]  # fmt: skip


def test_what_is_typed_into_a_live_canvas_stays_and_the_rest_adapts(page):
    page.click("role=tab[name='Canvas lab']")
    page.fill("#lab-text", "Mia has a [[6]] ball. She [[8]] the park.")
    page.fill("#lab-pace", "2")
    page.click("button:text-is('Denoise')")
    page.wait_for_selector("[data-testid=board] .cell.mask")
    given = [text for text, state in board(page) if state == "cell locked"]
    assert "".join(given) == " ball. She the park."
    hole = page.locator("[data-testid=board] .cell.mask").first
    name = hole.get_attribute("aria-label")
    at = int(re.match(r"cell (\d+)", name).group(1))
    hole.press("b")  # while it goes on
    page.keyboard.type("lue")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-testid=board] .cell.typed")
    page.fill("#lab-pace", "21")
    page.wait_for_selector("text=See every step")
    last = board(page)
    typed = "".join(text for text, state in last if "typed" in state)
    assert typed == " blue"
    assert " blue" in last[at][0] + last[at + 1][0]
    assert not any("mask" in state for _, state in last)
    assert "".join(text for text, _ in last).endswith(" the park.")
    clean(page)
    page.locator("[data-testid=board] .cell").first.hover()
    page.wait_for_selector(".other button")
    wanted = page.locator(".other button code").nth(1).inner_text()
    page.locator(".other button").nth(1).click()
    page.wait_for_selector("[data-testid=board] .cell.typed")
    page.wait_for_function(
        "wanted => document.querySelector('[data-testid=board] .cell.typed')?.textContent === wanted", arg=wanted
    )

"""Every panel from end to end: what stands in the page is what the server has in its trace, and it was seen to become so.

Prompts are drawn anew in each run. tiny always; the default too at full counts. MEZZOTINT_PICTURES=FOLDER keeps a
picture of each.
"""

import os
import random
import re

import httpx
import live
import pytest

import mezzotint as mz

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FULL = os.environ.get("MEZZOTINT_FULL") == "1"
PICTURES = os.environ.get("MEZZOTINT_PICTURES")
PATIENCE = 300_000  # ms, for a machine that has other work
WATCH = """selector => {
  window.pictures = new Set();
  const look = () => document.querySelectorAll(selector).forEach((found) => found.textContent && pictures.add(found.textContent));
  window.watch?.disconnect();
  window.watch = new MutationObserver(look);
  window.watch.observe(document.body, {childList: true, subtree: true, characterData: true});
}"""


class Panels:
    """The page of one model's server, and what is asked there."""

    def __init__(self, page, base, engine, name):
        self.page, self.base, self.engine, self.name = page, base, engine, name
        self.chat = engine.tokenizer.chat_template is not None
        self.ids = []
        page.set_default_timeout(PATIENCE)

    def prompt(self):
        colour, thing = random.choice(["red", "blue", "green", "old"]), random.choice(["ball", "cat", "boat", "hat"])
        if self.chat:
            return f"Write one sentence about a {colour} {thing}."
        return (
            f"{random.choice(['Mia', 'Tom', 'Ben'])} has a {colour} {thing}. {random.choice(['She', 'It', 'One day'])}"
        )

    def open(self, title, there):
        self.page.click(f"role=tab[name='{title}']")
        self.page.wait_for_selector(f"{there} >> visible=true")

    def watch(self, selector):
        self.page.evaluate(WATCH, selector)

    def seen(self):
        return self.page.evaluate("[...pictures]")

    def asked(self, act):
        """The trace of the answer that `act` asks for, once it is whole."""
        with self.page.expect_response(re.compile("/playground/run$")) as answer:
            act()
        return self.trace(re.search(r'"id":"(run-\w+)"', answer.value.text()).group(1))

    def trace(self, id):
        return httpx.get(f"{self.base}/playground/traces/{id}", timeout=60).json()

    def picture(self, name):
        if PICTURES and self.name == "default":
            self.page.evaluate("scrollTo(0, 0)")
            self.page.screenshot(path=f"{PICTURES}/{name}.png")

    def code(self, where=".code-editor .cm-content", number=0):
        """What stands in an editor."""
        return self.page.evaluate(
            "([where, n]) => document.querySelectorAll(where)[n].cmTile.view.state.doc.toString()", [where, number]
        )

    def clean(self):
        """Fails where axe-core finds a violation."""
        found = axe.Axe().run(self.page).response["violations"]
        assert not found, [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]


@pytest.fixture(scope="module", params=["tiny", "default"])
def served(request):
    if request.param == "tiny":
        engine = mz.Engine(mz.load("tiny"))
    elif not FULL:
        pytest.skip("the default only at full counts: set MEZZOTINT_FULL=1")
    else:
        request.getfixturevalue("base_path")
        engine = mz.Engine(mz.load("default"), compute="auto")
    held = live.Held(engine)
    with live.running(held, name=request.param) as (base, _):
        yield base, held, request.param


@pytest.fixture
def panels(browser, served):
    context = browser.new_context(viewport={"width": 1180, "height": 900}, accept_downloads=True)
    page = context.new_page()
    erred = []
    page.on("pageerror", lambda error: erred.append(str(error)) if f"{served[0]}/" in (error.stack or "") else None)
    page.goto(f"{served[0]}/playground/")
    page.wait_for_selector("[role=tabpanel]")
    yield Panels(page, *served)
    assert not erred
    context.close()


def words_in_order(shown, text):
    """Markdown takes its marks away; every word that is shown stands in the text, in that order."""
    at = 0
    for word in re.findall(r"\w+", shown):
        at = text.index(word, at) + len(word)
    return True


def ask(panels, tokens=24):
    """In the chat. Its prompt and its trace."""
    page, prompt = panels.page, panels.prompt()
    page.fill("#chat-max_tokens", str(tokens))
    page.fill("#ask", prompt)
    trace = panels.asked(lambda: page.keyboard.press("Enter"))
    page.wait_for_selector("text=See every step >> visible=true")
    return prompt, trace


def test_chat(panels):
    panels.watch(".bubble .live")
    prompt, trace = ask(panels)
    told = (panels.name, prompt)
    assert panels.page.text_content("[aria-label=Conversation] > [aria-live]") == trace["text"], told
    assert words_in_order(panels.page.inner_text(".prose"), trace["text"]), told
    assert [one for one in panels.seen() if one != trace["text"]], told
    assert panels.page.locator("[aria-label='What this answer took'] dd").count() == 5
    panels.clean()
    panels.picture("chat")


def test_apps(panels):
    panels.open("Apps", "#app-prompt")
    page, prompt = panels.page, f"A {random.choice(['red', 'blue', 'large'])} button that counts."
    page.fill("#app-prompt", prompt)
    page.click("text=How the model writes")
    page.fill("#apps-max_tokens", "40")
    panels.watch(".code.live")
    for seed in range(random.randrange(1000), 2000):  # a model may end at once: the page says so
        page.fill("#apps-seed", str(seed))
        page.fill("#apps-temperature", "0.8")
        trace = panels.asked(lambda: page.click(f"text=Let {panels.name} write it"))
        if trace["text"].strip():
            break
        page.wait_for_selector("[role=alert]:has-text('wrote nothing')")
    page.wait_for_selector(f"[data-testid=by] b:text-is('Written by {panels.name}')")
    lead = "" if panels.chat else f"<!doctype html>\n<!-- {prompt} -->\n"
    page_of = "async text => (await import('/playground/files/apps.js')).pageOf(text)"
    assert panels.code() == (page.evaluate(page_of, trace["text"]) if panels.chat else lead + trace["text"]), prompt
    assert [one for one in panels.seen() if one != lead + trace["text"]], prompt
    panels.clean()
    page.click("text=How the model writes")
    page.click("role=group[name='Examples'] >> button:has-text('Planet Tac Toe')")
    page.click("text=Open the shipped draft")
    frame = page.frame_locator("iframe.frame:not(.coming)")
    for _ in range(2):
        frame.locator(".cell:enabled").first.click()
        page.wait_for_timeout(900)
    panels.picture("apps")


def test_a_feature_is_added_in_place(panels):
    """To the selected lines alone; the page that is shown, and runs, is what the edit route makes of it."""
    panels.open("Apps", "#app-prompt")
    page, word = panels.page, random.choice(["ball", "hat", "dog"])
    code = f"<!doctype html>\n<title>one</title>\n<p>Mia has a red {word}. She went to the the park.</p>\n<p>two</p>\n"
    page.fill(".code-editor .cm-content", code)
    page.click(".code-editor .cm-line >> nth=2")
    page.keyboard.press("Home")
    page.keyboard.press("Shift+End")
    page.wait_for_selector("text=in the selected lines alone")
    page.fill("#app-feature", "a title")
    with page.expect_response(re.compile("/v1/instant-edit$")) as answer:
        page.click("button:text-is('Add it')")
    made, sent = answer.value.json(), answer.value.request.post_data_json
    page.wait_for_selector("[role=status]:has-text('by'), [role=status]:has-text('changed nothing')")
    assert panels.code() == made["text"]
    again = httpx.post(f"{panels.base}/v1/instant-edit", json={**sent, "seed": made["seed"]}, timeout=300).json()
    assert again["text"] == made["text"]
    old, new = code.split("\n"), panels.code().split("\n")
    assert (new[:2], new[-2:]) == (old[:2], old[-2:])
    if made["changed"]:
        assert page.inner_text("[data-testid=by]") == f"Yours, changed by {panels.name}"
        page.click("text=Undo")
        page.wait_for_function("document.querySelector('[data-testid=by]').innerText === 'Yours'")
    assert panels.code() == code


def test_instant_edit(panels):
    panels.open("Instant Edit", ".cm-content")
    page = panels.page
    for _ in range(12):  # until there is a change
        name, thing = random.choice(["Mia", "Tom", "Ben"]), random.choice(["apples", "cats", "books"])
        text = (
            f"{name} dont like {thing}. They was here yesterday."
            if panels.chat
            else f"{name} has a {thing}. She went to the the park."
        )
        page.fill(".cm-content", text)
        with page.expect_response(re.compile("/v1/instant-edit$")) as answer:
            page.click("button:has-text('Edit Ctrl')")
        made, sent = answer.value.json(), answer.value.request.post_data_json
        page.wait_for_selector("[aria-label=Changes] h2")
        if made["changed"]:
            break
    assert made["changed"], text
    panels.clean()
    page.click("text=Side by side")
    page.wait_for_selector(".merge .cm-content")
    panels.picture("edit")
    page.click("button:has-text('Apply')")
    page.wait_for_selector("[aria-label=Changes]", state="detached")
    again = httpx.post(f"{panels.base}/v1/instant-edit", json={**sent, "seed": made["seed"]}, timeout=300).json()
    assert panels.code(".cm-content") == made["text"] == again["text"] != text


def test_translate(panels):
    panels.open("Translate", "#live-source")
    page = panels.page
    source = f"Mia has a {random.choice(['red', 'blue', 'old'])} {random.choice(['ball', 'hat', 'boat'])} and a dog."
    heard = [source[:12], source[:-7], source]
    panels.watch("[data-testid=captions]")
    idle = "section[aria-label=Translation][aria-busy=false]"
    for one in heard:
        page.fill("#live-source", one)
        page.wait_for_selector(idle)
    panels.picture("translate")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".captions >> nth=1")
    page.wait_for_selector(idle)
    told = {"hypotheses": [*heard, source], "source_language": "English", "target_language": "French"}
    answer = httpx.post(f"{panels.base}/v1/translate/stream", json=told, timeout=300).text
    final = re.findall(r'"committed":"((?:[^"\\]|\\.)*)"', answer)[-1]
    shown = page.text_content(".captions >> nth=0")
    assert shown == httpx.Response(200, text=f'"{final}"').json(), source
    assert [one for one in panels.seen() if one != shown], source
    panels.clean()


def test_race(panels):
    panels.open("Race", "#race-prompt")
    page, prompt = panels.page, panels.prompt()
    page.fill("#race-prompt", prompt)
    page.fill("#race-max_tokens", "24")
    found = []
    page.on("response", lambda answer: found.append(answer) if answer.url.endswith("/playground/run") else None)
    panels.watch("[aria-label=Race] .half .live")
    page.click("[aria-label=Race] button.main")
    page.wait_for_selector("text=times as many tokens a second")
    lanes = [lane.text_content() for lane in page.locator("[aria-label=Race] .half .live").all()]
    traces = [panels.trace(re.search(r'"id":"(run-\w+)"', answer.text()).group(1)) for answer in found]
    assert lanes == [trace["text"] for trace in traces], prompt
    assert [trace["header"]["decode"] for trace in traces] == ["ar", "verified" if panels.chat else "diffusion"]
    assert [one for one in panels.seen() if one not in lanes], prompt
    panels.clean()
    panels.picture("race")


def test_canvas_lab(panels):
    panels.open("Canvas lab", "#lab-text")
    page = panels.page
    thing = random.choice(["ball", "hat", "boat"])
    page.fill("#lab-text", f"Mia has a [[3]] {thing}. She [[5]] the park.")
    page.fill("#lab-pace", "8")
    panels.watch("[data-testid=board]")
    trace = panels.asked(lambda: page.click("button:text-is('Denoise')"))
    page.wait_for_selector("[aria-label='Canvas lab'] >> text=See every step")
    page.wait_for_selector("[aria-label='Canvas lab'] .card[aria-busy=false]")
    shown = page.locator("[aria-label='Canvas lab'] .live").text_content()
    assert shown.replace("⏎", "\n") == "Mia has a" + trace["text"], thing
    assert [one for one in panels.seen() if one not in shown], thing
    panels.clean()
    page.click("[data-testid=board] .cell >> nth=1")
    page.keyboard.type("big")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-testid=board] .cell.typed")
    page.wait_for_selector("[aria-label='Canvas lab'] >> text=See every step")
    panels.picture("lab")


def test_trace(panels, tmp_path):
    """Scrub, play, branch with another seed and instruction, compare, and take away as a file and as a picture."""
    _, trace = ask(panels)
    page, last = panels.page, len(trace["frames"]) - 1
    page.click("text=See every step >> visible=true")
    page.wait_for_selector("#scrub")
    page.wait_for_function("last => Number(document.querySelector('#scrub').value) === last", arg=last)  # it played
    final = page.inner_text("[data-testid=strip]")
    page.fill("#scrub", str(last // 2))
    assert page.inner_text("[data-testid=strip]") != final
    assert page.text_content("[data-testid=whole]") == trace["text"]

    with page.expect_download() as saved:
        page.click("text=Save trace")
    saved.value.save_as(tmp_path / "trace.jsonl")
    kept = mz.Trace.load(tmp_path / "trace.jsonl")
    ids = [token for token in kept.replay() if token not in panels.engine.stop_ids]
    assert panels.engine.tokenizer.decode(ids) == trace["text"]
    with page.expect_download() as saved:
        page.click("text=Save picture")
    saved.value.save_as(tmp_path / "trace.svg")
    drawn = page.context.new_page()
    drawn.goto(f"file://{tmp_path / 'trace.svg'}")
    at = """seconds => { const root = document.documentElement; root.pauseAnimations(); root.setCurrentTime(seconds);
      return [...root.querySelectorAll("g")].filter((g) => getComputedStyle(g).opacity === "1").map((g) => g.textContent); }"""
    first, end = drawn.evaluate(at, 0.05), drawn.evaluate(at, 0.18 * (last + 1) + 1)
    assert len(first) == len(end) == 1
    assert first != end
    assert "".join(trace["text"].split()) in "".join(end[0].split()).replace("■", "")
    drawn.close()

    page.fill("#scrub", str(last // 2))
    told = "Write one sentence about the sea." if panels.chat else "The old man went to the sea. He"
    page.fill("#branch-seed", "7")
    page.fill("#branch-told", told)
    made = panels.asked(lambda: page.click("text=Go on from here"))
    page.wait_for_function(
        "text => document.querySelector('[data-testid=whole]').textContent === text", arg=made["text"]
    )
    header = made["header"]
    assert (header["prompt"][-1]["content"] if panels.chat else header["prompt"]) == told
    assert header["seed"] == 7
    frame = trace["frames"][last // 2]
    decided = trace["text"][: frame["text"]]
    assert made["text"].startswith(decided)
    page.select_option("#beside", index=1)
    page.wait_for_selector("[data-testid=compare] section >> nth=1")
    pairs = zip(made["text"], trace["text"], strict=False)
    same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(made["text"]), len(trace["text"])))
    said = page.inner_text("[data-testid=compare] [role=status]")
    assert said == (
        f"The texts are the same for {same} characters, then they differ."
        if made["text"] != trace["text"]
        else "The texts are the same, letter for letter."
    )
    if made["text"] != trace["text"]:
        page.wait_for_selector(".merge .cm-content >> nth=1")
        sides = [panels.code(".merge .cm-content", n) for n in (0, 1)]
        assert sides == [made["text"], trace["text"]]
    page.click("#play")
    page.wait_for_function("Number(document.querySelector('#scrub').value) > 0")
    panels.clean()
    page.fill("#scrub", str(min(5, len(made["frames"]) - 1)))
    panels.picture("trace")

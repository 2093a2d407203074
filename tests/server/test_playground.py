"""The playground's addresses, without a browser: what the page shows is what the engine made."""

import hashlib
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

import mezzotint as mz
from mezzotint.server import pages, playground
from mezzotint.server.orders import Order

VENDOR = pages.FOLDER / "vendor"
STARTS = ("Mia has a", "There was an old", "Tom went to the", "The red ball")


def run(base, **body):
    """Events of a run."""
    asked = {"prompt": "Mia has a", "decode": "diffusion", "max_tokens": 24, "seed": 3, **body}
    answer = httpx.post(f"{base}/playground/run", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    lines = [line[6:] for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("learnt", "decode", "draft"), [(True, "verified", "self"), (True, "ar", "auto"), (False, "verified", "auto")]
)
def test_the_canvas_is_asked_for_its_drafts_if_it_has_learnt_to_draft(learnt, decode, draft):
    """Whether or not they pay: they are what is looked at."""
    engine = SimpleNamespace(denoiser=SimpleNamespace(drafts_in_order=learnt))
    (asked,) = playground._drafted(engine, Order([mz.Request("Mia", decode=decode)], 1, 0)).requests
    assert asked.draft == draft


def test_what_is_shown_is_the_engines_text(base, engine):
    prompt, seed = random.choice(STARTS), random.randrange(1000)
    events = run(base, prompt=prompt, seed=seed)
    (reply,) = engine.generate(mz.Request(prompt, raw=True, decode="diffusion", max_tokens=24, seed=seed))
    shown = "".join(event.get("text", "") for event in events)
    assert shown == reply.text, (prompt, seed)
    commits = sum(frame.calls for frame in reply.trace.frames if frame.kind == "commit")  # the server's are no calls
    assert events[-1]["calls"] == reply.trace.num_calls - commits
    trace = httpx.get(f"{base}/playground/traces/{events[0]['id']}").json()
    assert trace["text"] == shown
    assert len(trace["frames"]) == len(reply.trace.frames)
    first = next(frame for frame in trace["frames"] if frame["kind"] == "denoise")
    assert any(state == "mask" for _, state in first["cells"])
    saved = httpx.get(f"{base}/playground/traces/{events[0]['id']}/file").text
    opened = httpx.post(f"{base}/playground/traces/open", json={"lines": saved}).json()
    assert opened["text"] == shown


def test_a_branch_keeps_what_was_decided_and_what_was_typed(base, engine):
    events = run(base)
    id = events[0]["id"]
    frames = httpx.get(f"{base}/playground/traces/{id}").json()["frames"]
    number = next(n for n, frame in enumerate(frames) if sum(s == "draft" for _, s in frame["cells"]) >= 3)
    kept = {n: text for n, (text, state) in enumerate(frames[number]["cells"]) if state == "draft"}
    free = next(n for n, (_, state) in enumerate(frames[number]["cells"]) if state == "mask")
    typed = {"at": frames[number]["at"] + free, "text": " ball"}
    branch = {"trace": id, "frame": number, "typed": [typed]}
    made = run(base, prompt=None, branch=branch, seed=9)
    cells = httpx.get(f"{base}/playground/traces/{made[0]['id']}").json()["frames"][1]["cells"]
    assert cells[free] == [" ball", "locked"]
    assert all(cells[n] == [text, "locked"] for n, text in kept.items() if text != "\u25a0")
    asked = {"trace": id, "frame": number, "cell": free}
    found = httpx.post(f"{base}/playground/alternatives", json=asked, timeout=60).json()["alternatives"]
    chances = [chance for _, chance in found]
    assert len(found) == 8
    assert chances == sorted(chances, reverse=True)
    assert 0 < sum(chances) <= 1.0001


def test_alternatives_are_what_the_next_step_proposes(base):
    """The first cell that a step decides is the likeliest alternative of the step before."""
    id = run(base)[0]["id"]
    frames = httpx.get(f"{base}/playground/traces/{id}").json()["frames"]
    denoise = [n for n, frame in enumerate(frames) if frame["kind"] == "denoise" and frame["block"] == 0]
    before, after = denoise[1], denoise[2]
    new = next(
        n
        for n, (old, now) in enumerate(zip(frames[before]["cells"], frames[after]["cells"], strict=True))
        if old[1] in ("mask", "guess") and now[1] == "draft"
    )
    asked = {"trace": id, "frame": before, "cell": new}
    found = httpx.post(f"{base}/playground/alternatives", json=asked, timeout=60).json()["alternatives"]
    assert found[0][0] == frames[after]["cells"][new][0]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("run", {"decode": "diffusion"}, 400, "nothing to answer"),
        ("run", {"canvas": "no hole"}, 400, "no hole"),
        ("run", {"canvas": "[[3]] first"}, 400, "begins with a hole"),
        ("run", {"branch": {"trace": "run-0", "frame": 0}}, 404, "not kept any more"),
        ("alternatives", {"trace": "run-0", "frame": 0, "cell": 0}, 404, "not kept any more"),
        ("traces/open", {"lines": '{"mezzotint_trace": 99}'}, 400, "its version is not 1"),
        ("traces/open", {"lines": "hello"}, 400, "line 1 is not a trace's"),
        ("doubt", {"document": ""}, 400, "document"),
        ("preview", {"html": 3}, 400, "html"),
    ],
)
def test_what_cannot_be_is_told(base, path, body, status, said):
    answer = httpx.post(f"{base}/playground/{path}", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_holes_are_filled_and_what_stands_between_them_stays(base):
    events = run(base, prompt=None, canvas="Mia has a [[4]] ball. She [[5]] the park.")
    trace = httpx.get(f"{base}/playground/traces/{events[0]['id']}").json()
    cells = next(frame for frame in trace["frames"] if frame["kind"] == "denoise")["cells"]
    assert "".join(text for text, state in cells if state == "locked") == " ball. She the park."
    assert [state for _, state in cells[:5]] == ["mask"] * 4 + ["locked"]
    assert re.fullmatch(r".+ ball\. She.+ the park\.", trace["text"], re.DOTALL)


def test_the_page_asks_nobody_else(base):
    index = httpx.get(f"{base}/playground/")
    policy = index.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert httpx.get(f"{base}/").headers["location"] == "/playground/"
    names = [
        path for path in pages.files() if path.endswith((".js", ".css", ".html")) and not path.startswith("vendor/")
    ]
    client = httpx.Client()
    for name in names:
        text = client.get(f"{base}/playground/files/{name}").text
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        for found in re.findall(r'(?:from|import\()\s*"\./([^"]+)"', text):
            assert client.get(f"{base}/playground/files/{found}").status_code == 200, (name, found)
    client.close()


def test_what_is_vendored_is_what_was_bundled():
    sums = (VENDOR / "SHA256SUMS").read_text().split()
    assert sorted(sums[1::2]) == sorted(path.name for path in VENDOR.iterdir() if path.name != "SHA256SUMS")
    for digest, name in zip(sums[::2], sums[1::2], strict=True):
        assert hashlib.sha256(Path(VENDOR, name).read_bytes()).hexdigest() == digest


def test_a_preview_is_shown_once_on_an_origin_of_its_own(base):
    url = httpx.post(f"{base}/playground/preview", json={"html": "<p>hello</p>", "devices": False}).json()["url"]
    assert url.startswith("http://localhost:")
    assert url.split("/")[2] != base.split("/")[2]
    page = httpx.get(url)
    assert "<p>hello</p>" in page.text
    policy = page.headers["content-security-policy"]
    assert policy.endswith("sandbox allow-scripts")
    assert "connect-src" not in policy  # default-src 'none' stands for it
    assert httpx.get(url).status_code == 404
    origin = url.rsplit("/", 1)[0]
    refused = httpx.post(f"{base}/v1/completions", json={"prompt": "a"}, headers={"origin": origin})
    assert refused.status_code == 403

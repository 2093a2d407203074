"""Transcription over HTTP, on a WebSocket and from a browser's microphone."""

import io
import json
import os
import sys
import wave
from contextlib import ExitStack
from pathlib import Path

import httpx
import live
import openai
import pytest
from conftest import CHROMIUM, FLAGS, UNSAFE

sys.path.append(str(Path(__file__).parents[1] / "live"))
import spoken

from mezzotint.live.sound import pcm
from mezzotint.live.transcribe import hypotheses, maker
from mezzotint.live.translate import Live, Translator, Writer

client = pytest.importorskip("websockets.sync.client")
pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed: pip install 'mezzotint[speech]'")
pytest.importorskip("multipart", reason="python-multipart is not installed: pip install 'mezzotint[server]'")
pytestmark = pytest.mark.skipif(spoken.espeak() is None, reason="espeak-ng is not installed: scripts/espeak.sh")
SPOKEN = "As a result, the parsing rules used are a bit less strict."


@pytest.fixture(scope="module")
def recording():
    return spoken.said(SPOKEN)


def post(base, data, **fields):
    files = {} if data is None else {"file": ("speech.wav", data, "audio/wav")}
    return httpx.post(f"{base}/v1/audio/transcriptions", files=files, data=fields, timeout=60)


def of(base, **options):
    return client.connect(f"{base.replace('http', 'ws')}/v1/audio/live", **options)


def talk(socket, data, **told):
    """Sound in tenths of a second, and all that was answered up to the end."""
    socket.send(json.dumps(told))
    for at in range(0, len(data), 4410):
        socket.send(data[at : at + 4410])
    socket.send(json.dumps({"end": True}))
    answers = [json.loads(socket.recv(60))]
    while answers[-1].get("object") == "transcription.update":
        answers.append(json.loads(socket.recv(60)))
    return answers


def test_openais_client_is_answered(engine, base, recording):
    asking = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0).audio.transcriptions
    said = asking.create(file=("a.wav", recording), model="whisper-1", language="en").text
    alone = hypotheses(maker()(), pcm(io.BytesIO(recording), "a.wav"))
    assert said == " ".join(one.text for one in alone if one.final) and len(said.split()) >= 2
    whole = asking.create(
        file=("a.wav", recording), model="tiny", response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert whole.text == said and whole.segments[0].text == said and 2 < whole.duration < 5
    assert " ".join(word.word for word in whole.words) == said
    assert all(0 <= word.start < word.end <= whole.duration for word in whole.words)
    assert asking.create(file=("a.wav", recording), model="tiny", response_format="text").strip() == said
    assert f"\n{said}\n" in asking.create(file=("a.wav", recording), model="tiny", response_format="srt")
    assert asking.create(file=("a.wav", recording), model="tiny", response_format="vtt").startswith("WEBVTT\n\n00:00:0")
    ours = post(base, recording, repair="readings", translate_to="French", prompt="x")
    written = Translator(Writer(engine), Live(target="French")).update(ours.json()["text"], final=True)
    assert ours.json()["translation"] == written.committed and ours.headers["x-mezzotint-warning"] == "ignored: prompt"
    assert post(base, spoken.wav(bytes(32_000))).json()["text"] == "", "silence has no words"


def test_what_cannot_be_is_told(base, recording):
    for fields, data, status, told, name in (
        ({}, None, 400, "send", "file"),
        ({}, b"no sound", 400, "cannot be read as WAV", "file"),
        ({"response_format": "xml"}, recording, 400, "'json'", "response_format"),
        ({"model": "other"}, recording, 404, "no such model", "model"),
        ({"repair": "magic"}, recording, 400, "'readings'", "repair"),
        ({"stream": "true"}, recording, 400, "WebSocket", "stream"),
        ({"language": "fr"}, recording, 400, "hears en", "language"),
        ({}, spoken.wav(bytes(32_000 * 601), 16_000), 400, "longer than the 600 s", "file"),
    ):
        answer = post(base, data, **fields)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (status, name) and told in error["message"], error
    assert "multipart" in httpx.post(f"{base}/v1/audio/transcriptions", json={}).json()["error"]["message"]


def test_limits_of_size_and_a_missing_transcriber(engine, recording):
    with live.running(engine, audio_bytes=1000, transcriber="nobody") as (base, _):
        assert post(base, recording).status_code == 413
        error = post(base, spoken.wav(bytes(200)))
        assert error.status_code == 501 and "no transcriber 'nobody'" in error.json()["error"]["message"]


def test_sound_on_a_socket(base, recording):
    """Drafts while it is spoken; after an end another stream begins; what is refused changes nothing."""
    with wave.open(io.BytesIO(recording)) as file:
        data, rate = file.readframes(1 << 30), file.getframerate()
    with of(base, subprotocols=["mezzotint"]) as socket:
        first = talk(socket, data, rate=rate, translate_to="French")
        updates, end = first[:-1], first[-1]
        assert end["object"] == "transcription.end" and abs(end["seconds"] - len(data) / 2 / rate) < 0.1
        assert updates[-1]["final"] and updates[-1]["translation"]["final"] and updates[-1]["text"]
        socket.send("{")
        assert "not JSON" in json.loads(socket.recv(30))["error"]["message"]
        socket.send(json.dumps({"rate": 3}))
        assert "8000 to 192000" in json.loads(socket.recv(30))["error"]["message"]
        socket.send(json.dumps({"channels": "2"}))
        assert json.loads(socket.recv(30))["error"]["param"] == "channels"
        again = talk(socket, data, rate=rate)
        assert (
            again[-2]["text"] == updates[-1]["text"] and again[-2]["utterance"] == 1 and "translation" not in again[-2]
        )
    assert post(base, recording).json()["text"] == updates[-1]["text"], "a file is heard as a microphone is"


def test_too_many_speakers_get_no_socket(engine):
    with live.running(engine) as (base, _), ExitStack() as open_now:
        for _ in range(4):
            open_now.enter_context(of(base))
        with pytest.raises(Exception, match="429"), of(base):
            pass


def test_chromiums_microphone(engine, base, tmp_path, count):
    """Speech through the browser's own fake microphone: captions and a translation on the page, and nobody else is asked."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    texts = (spoken.sentences(count(100)) or [SPOKEN]) if os.environ.get("MEZZOTINT_FULL") else [SPOKEN]
    with sync_api.sync_playwright() as driver:
        for n, text in enumerate(texts):
            path = tmp_path / f"{n}.wav"
            path.write_bytes(spoken.said(text, spoken.VOICES[n % 3]))
            flags = [*FLAGS.split(), f"--use-file-for-fake-audio-capture={path}"]
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags, ignore_default_args=UNSAFE)
            page = browser.new_page(viewport={"width": 1180, "height": 900})
            asked, problems = [], []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
            page.on(
                "console",
                lambda said, problems=problems: problems.append(said.text) if said.type == "error" else None,
            )
            page.goto(f"{base}/playground/")
            page.click("role=tab[name='Translate']")
            page.click("text=Speak into the microphone")
            page.wait_for_selector("[data-testid=utterance][data-final=yes]", timeout=90_000)
            page.click("text=Stop the microphone")
            page.wait_for_selector("button:enabled:has-text('Speak into the microphone')", timeout=60_000)
            caption = page.inner_text("[data-testid=utterance] [data-testid=heard] >> nth=0")
            french = page.inner_text("[data-testid=utterance] [data-testid=translated] >> nth=0")
            print(f"said: {text}\nheard: {caption}\ntranslated: {french}")
            if shot := os.environ.get("MEZZOTINT_SHOT"):
                page.screenshot(path=shot)
            alone = Translator(Writer(engine), Live(target="French")).update(caption, final=True).committed
            assert caption and not problems
            assert french or not alone, "tiny continues a text, and may have nothing to say"
            assert all(url.startswith((base, "blob:", "data:")) for url in asked)
            browser.close()

"""Transcription: what a stream of sound may be, what comes of silence, and that speech is heard as it should be."""

import io
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import spoken
from spoken import said, tone, wav, words

from mezzotint.live import mend, sound, subtitles
from mezzotint.live.listen import JsonLines, Lines, listen
from mezzotint.live.transcribe import Caption, Captioner, Hypothesis, Spoken, hypotheses, maker, newest
from mezzotint.live.translate import Live, Writer

speech = pytest.mark.skipif(spoken.espeak() is None, reason="espeak-ng is not installed: scripts/espeak.sh")
SPOKEN = "As a result, the parsing rules used are a bit less strict."


@pytest.fixture(scope="module")
def sphinx():
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed: pip install 'mezzotint[speech]'")
    return maker()()


def heard(transcriber, data, **raw):
    form = sound.Form(**raw) if raw else None
    return list(hypotheses(transcriber, sound.pcm(io.BytesIO(data), "x", form)))


class Scripted:
    """A plug-in: hears what it was told to, a list of hypotheses a chunk."""

    def __init__(self, *script):
        self.script = list(script)

    def hear(self, pcm):
        return self.script.pop(0) if self.script else []

    def end(self):
        return [one for part in self.script for one in part]


def draft(text, start=0.0, final=False):
    return Hypothesis(text, final, start, start + 1.0)


# -- sound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channel_becomes_the_same_sound(rate, channels):
    """A tone stays the tone: its frequency, its length and its strength."""
    pytest.importorskip("soxr")
    frames = np.repeat(np.frombuffer(tone(1.0, rate), "<i2"), channels).tobytes()
    made = np.frombuffer(b"".join(sound.pcm(io.BytesIO(wav(frames, rate, channels)), "x")), "<i2")
    assert abs(len(made) - sound.RATE) <= 2
    power = np.abs(np.fft.rfft(made.astype(float)))
    assert abs(int(power.argmax()) * sound.RATE / len(made) - 440) < 2
    assert abs(np.abs(made[2000:-2000]).max() - 8000) < 400


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_any_width_becomes_the_same_sound(width):
    top = 2 ** (8 * width - 1)
    values = [0, top // 2, -top // 2, top // 4]
    frames = b"".join((v + 128 * (width == 1)).to_bytes(width, "little", signed=width > 1) for v in values)
    made = np.frombuffer(b"".join(sound.pcm(io.BytesIO(wav(frames, width=width)), "x")), "<i2")
    assert made.tolist() == [0, 16384, -16384, 8192]


def test_pieces_of_any_size_are_the_same_sound(count):
    """Half a sample at the end of a chunk waits for its other half."""
    draw = random.Random(1)
    data = np.frombuffer(np.random.default_rng(0).bytes(40_000), "<i2").tobytes()
    for rate, channels in ((16_000, 1), (16_000, 2), (48_000, 2)):
        form = sound.Form(rate, channels)
        whole = sound.Converter(form)
        wanted = whole.feed(data) + whole.end()
        for _ in range(count(40)):
            converter, at, made = sound.Converter(form), 0, b""
            while at < len(data):
                size = draw.randint(1, 5000)
                made, at = made + converter.feed(data[at : at + size]), at + size
            made += converter.end()
            assert (
                len(made) == len(wanted)
                and np.abs(np.frombuffer(made, "<i2") - np.frombuffer(wanted, "<i2").astype(int)).max() <= 1
            )


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"RIFF", "cannot be read as WAV"),
        (b"", "cannot be read as WAV"),
        (b"plain text that is no sound at all", "does not start with RIFF"),
        (wav(b"\0" * 64, 4_000), "4000 samples a second; from 8000 to 192000"),
        (wav(b"\0" * 64, channels=16), "16 channels; 1 to 8"),
        (wav(b"\0" * 64).replace(b"\x01\0\x01\0", b"\x03\0\x01\0"), "unknown format: 3"),
    ],
)
def test_what_is_no_such_sound_is_told(data, told):
    with pytest.raises(ValueError, match=told):
        list(sound.pcm(io.BytesIO(data), "speech.wav"))


def test_another_rate_without_a_resampler_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(ValueError, match=r"44100 samples a second; give 16000, or install soxr"):
        sound.Converter(sound.Form(44_100))
    assert sound.Converter(sound.Form(16_000, 2)).feed(bytes(8)) == bytes(4)


# -- plug-ins -------------------------------------------------------------------------------------------------------


def test_another_transcriber_is_named_by_module():
    sys.modules["our_transcriber"] = sys.modules[__name__]
    assert isinstance(maker("our_transcriber:Scripted")(), Scripted)
    for name, told in (
        ("whisper", "there is no transcriber 'whisper'; known: pocketsphinx"),
        ("nowhere:at_all", "cannot be loaded"),
        ("our_transcriber:nobody", "cannot be loaded"),
        ("our_transcriber:SPOKEN", "cannot be called"),
    ):
        with pytest.raises(ValueError, match=told):
            maker(name)
    with pytest.raises(ValueError, match="no hear and end"):
        maker("our_transcriber:random.Random".replace("random.Random", "draft_maker"))()


def draft_maker():
    return object()


def test_without_pocketsphinx_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    monkeypatch.delitem(sys.modules, "mezzotint.live.sphinx", raising=False)
    with pytest.raises(ValueError, match=r"install it with pip install 'mezzotint\[speech\]'"):
        maker()


# -- captions -------------------------------------------------------------------------------------------------------


def test_captions_follow_what_is_taken_back(tiny, capsys):
    """Drafts that were overtaken are passed over; each utterance is a text; what is committed never changes."""
    script = [
        [draft("Mia")], [draft("Mia had"), draft("Mia has a red")], [draft("Mia has")],
        [draft("Mia has a red ball", final=True), draft("Tom", 5.0)], [draft("Tom went home", 5.0, True)],
    ]  # fmt: skip
    assert [one.text for one in newest([*script[1], *script[3]])] == ["Mia has a red ball", "Tom"]
    captioner = Captioner(writer=Writer(tiny), live=Live())
    assert listen(Scripted(*script), captioner, [b""] * 5, JsonLines(), live=True) == 2
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["utterance"] for one in shown][-2:] == [2, 2]
    assert shown[-1]["text"] == "Tom went home" and shown[-1]["final"] and shown[-1]["translation"]["final"]
    for number in (1, 2):
        before = ""
        for one in (one for one in shown if one["utterance"] == number):
            assert one["translation"]["committed"].startswith(before)
            before = one["translation"]["committed"]


def test_lines_hold_what_is_final(capsys):
    listen(Scripted([draft("a draft")], [draft("it is final", final=True)]), Captioner(), [b"", b""], Lines())
    assert capsys.readouterr().out == "it is final\n"


def test_subtitles():
    captions = [
        Caption(1, "fish & chips", "", True, 0.5, 2.25),
        Caption(2, "an hour later", "", True, 3661.0, 3662.9996),
    ]
    assert subtitles.srt(captions) == (
        "1\n00:00:00,500 --> 00:00:02,250\nfish & chips\n\n2\n01:01:01,000 --> 01:01:03,000\nan hour later\n\n"
    )
    assert subtitles.vtt(captions[:1]) == "WEBVTT\n\n00:00:00.500 --> 00:00:02.250\nfish &amp; chips\n"


# -- repair ---------------------------------------------------------------------------------------------------------


def test_readings_are_judged_by_the_models_law(tiny):
    """In one padded batch as one by one; the weight decides between the model's law and the recogniser's score."""
    texts = ["Mia has a red ball", "Mia has a red bowl of the", "ball red a has Mia"]
    together = mend.laws(tiny, texts)
    assert together == pytest.approx([mend.laws(tiny, [text])[0] for text in texts], abs=1e-3)
    assert together[0] == max(together) and together[0] > together[2] + 5
    one = Hypothesis(texts[2], True, 0, 1, (), tuple(zip(texts[::-1], (0.0, -4.0, -5.0), strict=True)))
    assert mend.mender(tiny, "readings", 0.0)(one) == texts[0]
    assert mend.mender(tiny, "readings", 1e6)(one) == texts[2]
    assert mend.mender(tiny)(Hypothesis("Mia", True, 0, 1)) == "Mia"
    caption = Captioner(mend.mender(tiny, "readings", 0.0)).take(one)
    assert (caption.text, caption.heard, caption.words) == (texts[0], texts[2], ())
    for told, settings in (
        ("allowed: readings, denoise", {"way": "best"}),
        ("weight is -1", {"weight": -1}),
        ("sure is 2", {"sure": 2}),
    ):
        with pytest.raises(ValueError, match=told):
            mend.mender(tiny, **settings)


def test_denoising_overwrites_what_it_is_sure_is_wrong(tiny):
    given = "Mia has a red ball and she plays with it in the park"
    assert mend.denoised(tiny, given, 1.0) == given
    assert mend.denoised(tiny, "", 0.5) == ""
    made = mend.mender(tiny, "denoise", sure=0.5)(Hypothesis(given, True, 0, 1))
    assert made == mend.denoised(tiny, given, 0.5)


# -- speech ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [bytes(96_000), np.random.default_rng(0).normal(0, 100, 48_000).astype("<i2").tobytes(), tone(3.0), b"", b"\0\0"],
    ids=["silence", "noise", "tone", "nothing", "one sample"],
)
def test_silence_has_no_words(sphinx, data):
    assert not any(one.text for one in heard(sphinx, data, rate=16_000))


@speech
def test_speech_is_heard_while_it_is_spoken(sphinx):
    """Drafts come before the end, two utterances are two, times are those of the sound, and a second stream begins at 0."""
    data = b"".join(sound.pcm(io.BytesIO(said(SPOKEN)), "x"))
    found = heard(sphinx, data + bytes(32_000) + data, rate=16_000)
    finals = [one for one in found if one.final]
    assert len(finals) == 2 and len(found) > 6
    assert len(words(finals[0].text)) >= 2, finals[0].text
    assert 0.2 < finals[0].start < 0.8 and abs(finals[1].start - finals[0].start - sound.seconds(data) - 1) < 0.3
    for one in finals:
        assert all(
            one.start <= a.start < a.end <= b.start + 1e-6 for a, b in zip(one.words, one.words[1:], strict=False)
        )
        assert " ".join(word.text for word in one.words) == one.text
        assert one.text in dict(one.readings) and len(one.readings) > 5
        assert [score for _, score in one.readings] == sorted((s for _, s in one.readings), reverse=True)
    again = [one for one in heard(sphinx, said(SPOKEN)) if one.final]
    assert len(again) == 1 and abs(again[0].start - finals[0].start) < 0.1


@speech
@pytest.mark.parametrize("voice", spoken.VOICES)
def test_held_out_sentences_of_every_voice(sphinx, count, voice, capsys):
    """Some of it is heard of every voice. What share: benchmarks/transcription.py."""
    texts = spoken.sentences(count(30))
    if texts is None:
        pytest.skip("docs-corpus is not there; set MEZZOTINT_DATA")
    wrong = total = 0
    for text in texts:
        got = [one.text for one in heard(sphinx, said(text, voice)) if one.final]
        wrong, total = wrong + spoken.errors(words(text), words(" ".join(got))), total + len(words(text))
    with capsys.disabled():
        print(f"\n{voice}: WER {wrong / total:.2f} of {len(texts)} sentences", end="")
    assert wrong < 1.2 * total


@speech
def test_the_command(tmp_path, sphinx):
    path = tmp_path / "speech.wav"
    path.write_bytes(said(SPOKEN))
    wanted = [one for one in heard(sphinx, said(SPOKEN)) if one.final]

    def run(*args, data=None):
        command = [sys.executable, "-m", "mezzotint", "transcribe", *map(str, args)]
        return subprocess.run(command, input=data, capture_output=True, timeout=120)

    made = run(path, "--translate-to", "French", "--repair", "--format", "json", "--model", "tiny")
    assert made.returncode == 0, made.stderr
    (told,) = [json.loads(line) for line in made.stdout.splitlines()]
    assert told.get("heard", told["text"]) == wanted[0].text and told["final"] and told["translation"]["final"]
    quiet = run("-", "--raw", data=bytes(32_000))
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"note: no speech was heard\n")
    wrong = run("-", data=b"no sound")
    assert wrong.returncode == 2 and b"standard input cannot be read as WAV" in wrong.stderr
    assert b"Traceback" not in wrong.stderr


def test_word_errors_are_counted():
    for reference, got, wanted in (
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a b", "a x b y", 2),
        ("a b", "", 2),
    ):
        assert spoken.errors(reference.split(), got.split()) == wanted
    assert Spoken("a", 0, 1).p == 1.0

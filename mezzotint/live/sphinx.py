"""The embedded transcriber: pocketsphinx (BSD), whose wheel holds a US English acoustic model, dictionary and trigram model.

Its voice activity detector (WebRTC's) cuts the sound into utterances; what is no speech never reaches the decoder. While an
utterance goes on, the first pass tells what it has; at its end two more over all of it decide, and often change their mind.
"""

from __future__ import annotations

import itertools
import math
import re

from pocketsphinx import Decoder, Endpointer

from mezzotint.live.sound import RATE
from mezzotint.live.transcribe import Hypothesis, Spoken

WINDOW = 0.6  # seconds that decide between speech and silence
EVERY = 0.25  # seconds of speech between two drafts
LONGEST = 30.0  # seconds of an utterance without a pause; then it is cut
READINGS = 24
TRIED = 200  # paths of the lattice that are looked through for them
SCALE = 1024  # a lattice's scores are shifted right by 10 bits
HMMS = 3000  # of a frame at most: a third less time than without, 0.87 WER beside 0.855 on 7 sentences
FRAMES = 100  # of the decoder, a second
_FILLER = re.compile(r"<.*>|\[.*\]|\+\+.*\+\+")
_VARIANT = re.compile(r"\(\d+\)$")  # of a pronunciation


class Sphinx:
    """A `Transcriber` of English. language_weight: power of the trigram model beside the acoustic one."""

    languages = ("en",)

    def __init__(self, language_weight: float = 9.5) -> None:
        self._decoder = Decoder(samprate=RATE, lw=language_weight, maxhmmpf=HMMS, loglevel="FATAL")
        self._mean = self._decoder.get_cmn()
        self._begin()

    def _begin(self) -> None:
        self._decoder.set_cmn(self._mean)  # it adapts to a speaker; the next stream is heard as if it were the first
        self._ends = Endpointer(window=WINDOW, sample_rate=RATE)
        self._rest = b""
        self._start = self._heard = self._shown_at = 0.0
        self._open = False
        self._shown = ""

    def hear(self, pcm: bytes) -> list[Hypothesis]:
        pcm, size = self._rest + pcm, self._ends.frame_bytes
        whole = len(pcm) - len(pcm) % size
        self._rest = pcm[whole:]
        found: list[Hypothesis] = []
        for at in range(0, whole, size):
            speech = self._ends.process(pcm[at : at + size])
            if speech is not None:
                self._take(speech, found)
                if self._open and not self._ends.in_speech:
                    self._close(found)
        return found

    def end(self) -> list[Hypothesis]:
        found: list[Hypothesis] = []
        try:
            if self._open:
                speech = self._ends.end_stream(self._rest or bytes(2))  # it takes no empty frame
                if speech:
                    self._take(speech, found)
                if self._open:
                    self._close(found)
        finally:
            self._begin()
        return [one for one in found if one.final]

    def _take(self, speech: bytes, found: list[Hypothesis]) -> None:
        if not self._open:
            self._open, self._shown = True, ""
            self._start = self._heard = self._shown_at = max(self._ends.speech_start, self._heard)
            self._decoder.start_utt()
        self._decoder.process_raw(speech)
        self._heard += len(speech) / 2 / RATE
        if self._heard - self._start >= LONGEST:
            self._close(found)
            return
        if self._heard - self._shown_at >= EVERY:
            self._shown_at = self._heard
            hyp = self._decoder.hyp()
            text = _plain(hyp.hypstr) if hyp else ""
            if text != self._shown:
                self._shown = text
                found.append(Hypothesis(text, False, self._start, self._heard))

    def _close(self, found: list[Hypothesis]) -> None:
        self._open = False
        self._decoder.end_utt()
        hyp = self._decoder.hyp()
        text = _plain(hyp.hypstr) if hyp else ""
        words = tuple(
            Spoken(
                _VARIANT.sub("", part.word), self._start + part.start_frame / FRAMES,
                self._start + (part.end_frame + 1) / FRAMES, min(1.0, float(part.prob)),
            )
            for part in (self._decoder.seg() or () if text else ()) if not _FILLER.fullmatch(part.word)
        )  # fmt: skip
        if text or self._shown:  # a noise that nobody took for words is nothing
            found.append(Hypothesis(text, True, self._start, self._heard, words, self._readings(text)))

    def _readings(self, text: str) -> tuple[tuple[str, float], ...]:
        if not text:
            return ()
        found: dict[str, float] = {}
        for path in itertools.islice(self._decoder.nbest() or (), TRIED):
            if path is None or len(found) == READINGS or path.score <= 0:  # so long that it has underflowed
                break
            found.setdefault(_plain(path.hypstr), math.log(path.score) * SCALE)
        best = max(found.values(), default=0.0)
        found = {**found, text: best}
        return tuple(sorted(((t, s - best) for t, s in found.items()), key=lambda one: -one[1]))


def _plain(text: str) -> str:
    return " ".join(_VARIANT.sub("", word) for word in text.split() if not _FILLER.fullmatch(word))

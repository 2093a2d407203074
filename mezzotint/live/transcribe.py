"""Live transcription: sound comes in pieces, and after each of them what is heard so far.

    sound   |....the press of|torrents.....|
    draft    the press        the press of torrents      words may be taken back
    final                     the best of times          once it is over; then another utterance begins

A transcriber is a plug-in. `pocketsphinx` is the embedded one (`pip install 'mezzotint[speech]'`); others are named by an entry
point of the group `mezzotint.transcribers`, or as `package.module:name`: something that is called without arguments and returns a
`Transcriber`.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Protocol

from mezzotint.live.translate import Live, Translator, Update, Writes

GROUP = "mezzotint.transcribers"
DEFAULT = "pocketsphinx"


@dataclass(frozen=True)
class Spoken:
    """A word, the seconds at which it begins and ends, and how sure the transcriber is of it, 0 to 1."""

    text: str
    start: float
    end: float
    p: float = 1.0


@dataclass(frozen=True)
class Hypothesis:
    """What is heard of an utterance, from `start` to `end` in seconds since the beginning. final: nothing of it changes any more.

    words: of a final one, where the transcriber tells them. readings: other texts it might be, with the transcriber's
    log-probability in nats up to a constant, likeliest first, `text` among them.
    """

    text: str
    final: bool
    start: float
    end: float
    words: tuple[Spoken, ...] = ()
    readings: tuple[tuple[str, float], ...] = ()


class Transcriber(Protocol):
    """Hears one stream of sound.

    hear: PCM, int16 little-endian of one channel, 16,000 samples a second, any number of whole samples; answers with what is new,
    in order, which may be nothing. Silence has no words and no hypothesis. end: the sound is over; after it another stream may
    begin, at 0 seconds.
    """

    def hear(self, pcm: bytes) -> Sequence[Hypothesis]: ...
    def end(self) -> Sequence[Hypothesis]: ...


Make = Callable[[], Transcriber]


def maker(name: str = DEFAULT) -> Make:
    """What makes a transcriber of this name. Raises ValueError for one that is not there, or that lacks what it needs."""
    if name == DEFAULT:
        return _sphinx()
    found = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if name in found:
        try:
            return _callable(name, found[name].load())
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the transcriber {name!r} cannot be loaded: {error}") from None
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(sorted({DEFAULT, *found}))
        raise ValueError(
            f"there is no transcriber {name!r}; known: {known}. Another is named as package.module:name, or by an entry point of "
            f"the group {GROUP}"
        )
    try:
        return _callable(name, getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the transcriber {name!r} cannot be loaded: {error}") from None


def _sphinx() -> Make:
    try:
        from mezzotint.live.sphinx import Sphinx
    except ImportError:
        raise ValueError("transcription needs pocketsphinx; install it with pip install 'mezzotint[speech]'") from None
    return Sphinx


def _callable(name: str, found: Any) -> Make:
    if not callable(found):
        raise ValueError(f"it is {found!r:.60}, which cannot be called")

    def make() -> Transcriber:
        made = found()
        if not all(callable(getattr(made, part, None)) for part in ("hear", "end")):
            raise ValueError(f"the transcriber {name!r} made {made!r:.60}, which has no hear and end")
        return made

    return make


# -- captions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caption:
    """A hypothesis as it is shown. number: of the utterance, from 1; text: repaired, where that was asked for; heard: before
    repair; translation: of `text`, where that was asked for."""

    number: int
    text: str
    heard: str
    final: bool
    start: float
    end: float
    words: tuple[Spoken, ...] = ()
    translation: Update | None = None

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "utterance": self.number, "text": self.text, "final": self.final, "start": round(self.start, 2),
            "end": round(self.end, 2),
        }  # fmt: skip
        if self.heard != self.text:
            found["heard"] = self.heard
        if self.words:
            found["words"] = [
                {"word": w.text, "start": round(w.start, 2), "end": round(w.end, 2), "p": round(w.p, 4)}
                for w in self.words
            ]
        if self.translation is not None:
            found["translation"] = self.translation.to_json()
        return found


Mend = Callable[[Hypothesis], str]


class Captioner:
    """Hypotheses as captions: final ones repaired, all of them translated, an utterance a text.

    mend: repairs a final hypothesis (`mend.py`). writer, live: what translates, and how.
    """

    def __init__(self, mend: Mend | None = None, writer: Writes | None = None, live: Live | None = None) -> None:
        self.mend, self.writer, self.live = mend, writer, live
        self.number = 1
        self._translator: Translator | None = None

    def take(self, heard: Hypothesis, mend: Mend | None = None, writer: Writes | None = None) -> Caption:
        """mend, writer: others for this one. Raises ValueError as they do."""
        mend, writer = mend or self.mend, writer or self.writer
        text = mend(heard) if mend is not None and heard.final and heard.text else heard.text
        update = None
        if self.live is not None:
            assert writer is not None, "captions are translated by something"
            self._translator = self._translator or Translator(writer, self.live)
            update = self._translator.update(text, heard.final, writer)
        caption = Caption(
            self.number, text, heard.text, heard.final, heard.start, heard.end, heard.words if text == heard.text else (), update
        )  # fmt: skip
        if heard.final:
            self.number, self._translator = self.number + 1, None
        return caption


def hypotheses(transcriber: Transcriber, chunks: Iterable[bytes]) -> Iterator[Hypothesis]:
    """All that is heard of a sound, to its end."""
    for chunk in chunks:
        yield from transcriber.hear(chunk)
    yield from transcriber.end()


def newest(found: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Without drafts that a newer hypothesis of the same utterance has overtaken."""
    kept = [one for one, after in itertools.pairwise(found) if one.final or after.start != one.start]
    return [*kept, *found[-1:]]


def shifted(one: Hypothesis, by: float) -> Hypothesis:
    """The same, `by` seconds later."""
    words = tuple(replace(word, start=word.start + by, end=word.end + by) for word in one.words)
    return replace(one, start=one.start + by, end=one.end + by, words=words)

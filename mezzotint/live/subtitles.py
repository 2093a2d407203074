"""Subtitles of finished captions: SubRip and WebVTT, a cue an utterance, its translation as a second line."""

from __future__ import annotations

import html
from collections.abc import Iterable

from mezzotint.live.transcribe import Caption


def _clock(seconds: float, mark: str) -> str:
    whole = round(1000 * seconds)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}{mark}{whole % 1000:03}"


def _lines(caption: Caption) -> list[str]:
    translated = caption.translation.committed if caption.translation is not None else ""
    return [text for text in (caption.text, translated) if text]


def srt(captions: Iterable[Caption]) -> str:
    cues = [
        "\n".join([str(n), f"{_clock(c.start, ',')} --> {_clock(c.end, ',')}", *_lines(c)])
        for n, c in enumerate(captions, 1)
    ]
    return "".join(f"{cue}\n\n" for cue in cues)


def vtt(captions: Iterable[Caption]) -> str:
    cues = [
        "\n".join(
            [f"{_clock(c.start, '.')} --> {_clock(c.end, '.')}", *(html.escape(x, quote=False) for x in _lines(c))]
        )
        for c in captions
    ]
    return "\n\n".join(["WEBVTT", *cues]) + "\n"

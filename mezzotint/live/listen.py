"""`mezzotint transcribe`: sound from a file or a pipe, captions on a terminal, a pipe, as JSON lines or as subtitles.

terminal   finished utterances plain, the one that goes on dim and italic, drawn over in place
pipe       a line a finished utterance, its translation indented below it
JSON       a line a caption (`Caption.to_json`)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from mezzotint.live.arriving import arriving
from mezzotint.live.sound import seconds
from mezzotint.live.subtitles import srt, vtt
from mezzotint.live.transcribe import Caption, Captioner, Transcriber, newest

FORMATS = ("text", "json", "srt", "vtt")


class Screen(Protocol):
    def show(self, caption: Caption) -> None: ...
    def close(self) -> None: ...


class Lines:
    def show(self, caption: Caption) -> None:
        if caption.final and caption.text:
            print(caption.text)
            if caption.translation is not None:
                print(f"    {caption.translation.committed}")
            sys.stdout.flush()

    def close(self) -> None:
        pass


class JsonLines:
    def show(self, caption: Caption) -> None:
        print(json.dumps(caption.to_json(), ensure_ascii=False), flush=True)

    def close(self) -> None:
        pass


class Subtitles:
    def __init__(self, form: str) -> None:
        self._write = {"srt": srt, "vtt": vtt}[form]
        self._captions: list[Caption] = []

    def show(self, caption: Caption) -> None:
        if caption.final and caption.text:
            self._captions.append(caption)

    def close(self) -> None:
        sys.stdout.write(self._write(self._captions))


class Terminal:
    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live as Region

        self._make: Any = lambda: Region(console=console or Console(highlight=False), auto_refresh=False)
        self._region: Any = None

    def show(self, caption: Caption) -> None:
        from rich.text import Text

        if self._region is None:
            self._region = self._make()
            self._region.start()
        shown = Text.assemble((caption.text, "" if caption.final else "dim italic"))
        if (update := caption.translation) is not None:
            shown.append_text(Text.assemble("\n    ", update.committed, (update.draft, "dim italic")))
        self._region.update(shown, refresh=True)
        if caption.final:
            self.close()

    def close(self) -> None:
        if self._region is not None:
            self._region.stop()
            self._region = None


def screen(form: str, live: bool) -> Screen:
    """Raises ValueError for a form that is none of `FORMATS`."""
    if form not in FORMATS:
        raise ValueError(f"format is {form!r}; allowed: {', '.join(FORMATS)}")
    if form == "json":
        return JsonLines()
    if form in ("srt", "vtt"):
        return Subtitles(form)
    return Terminal() if live and sys.stdout.isatty() else Lines()


def listen(
    transcriber: Transcriber, captioner: Captioner, chunks: Iterable[bytes], onto: Screen, live: bool = False
) -> int:
    """Show what is heard to the sound's end; how many utterances had words. live: drafts too, and what has come in meanwhile
    is heard at once."""
    spoken = 0
    try:
        for chunk in _waiting(chunks) if live else chunks:
            for one in newest(transcriber.hear(chunk)):
                if one.final or live:
                    onto.show(captioner.take(one))
                    spoken += one.final and bool(one.text)
        for one in transcriber.end():
            onto.show(captioner.take(one))
            spoken += one.final and bool(one.text)
    finally:
        onto.close()
    return spoken


def paced(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks as a microphone would give them: none sooner than it takes to say."""
    began, said = time.monotonic(), 0.0
    for chunk in chunks:
        said += seconds(chunk)
        time.sleep(max(0.0, began + said - time.monotonic()))
        yield chunk


def _waiting(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """All that has come in since the last was taken, in one. Raises what reading does."""
    waiting = arriving(chunks)
    over = False
    while not over:
        sound = bytearray()
        item = waiting.get()
        while True:
            if isinstance(item, bytes):
                sound += item
            over = not isinstance(item, bytes)
            if over or waiting.empty():
                break
            item = waiting.get()
        if sound:
            yield bytes(sound)
        if isinstance(item, BaseException):
            raise item

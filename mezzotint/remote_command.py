"""Remote models behind the verbs of the command line: generate, a turn of chat, infill."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from mezzotint.engine.remote import Ended, Remote, Snapshot, Usage
from mezzotint.engine.request import Request, Text


class Kept(Protocol):
    """What has come of a request so far."""

    text: str
    reason: str
    seconds: float


def opened(model: str, options: Mapping[str, Any], more: Mapping[str, Any], shows: bool = False) -> Remote:
    """The server behind a name. options: those that need weights here, with what was given; more: fields of every request.

    shows: ask for drafts where the server has them. Raises ValueError.
    """
    if given := [name for name, value in options.items() if value]:
        raise ValueError(f"{given[0]} needs weights on this machine; {model} lies on a server")
    told = {name: value for name, value in more.items() if value is not None}
    if told.get("decode") == "auto":
        raise ValueError(
            "--decode auto measures this machine; a server decides by itself, or takes ar, verified, diffusion"
        )
    return Remote.of(model, diffusing=shows and model.startswith("mercury:"), more=told)


def run(remote: Remote, request: Request, answer: Kept, quiet: bool) -> Ended:
    """Ask and show: drafts in place on a terminal, text as it comes on a pipe. Fills `answer` as it goes."""
    began, screen, ended = time.perf_counter(), None, None
    answer.text = ""
    try:
        for event in remote.stream(request):
            if isinstance(event, Snapshot) and not quiet and sys.stdout.isatty():
                screen = screen or _Screen()
                screen.show(event.text)
            elif isinstance(event, Text):
                answer.text += event.piece
                if screen is None and not quiet:
                    sys.stdout.write(event.piece)
                    sys.stdout.flush()
            elif isinstance(event, Ended):
                ended, answer.reason = event, event.reason
    finally:
        answer.seconds = time.perf_counter() - began
        if screen is not None:
            screen.close(answer.text)
    if screen is None and not quiet:
        sys.stdout.write("\n")
    assert ended is not None
    for note in ended.notes:
        print(f"note: {note}", file=sys.stderr)
    return ended


class _Screen:
    """Drafts over each other. A character that is as it was in the draft before is drawn plain, a new one dim."""

    def __init__(self) -> None:
        from rich.console import Console

        from mezzotint.render import Painter

        self.painter, self.last = Painter(Console(highlight=False), _characters, None, frozenset()).__enter__(), ""

    def show(self, text: str) -> None:
        from mezzotint.sampler.canvas import ACCEPTED, OPEN

        status = [ACCEPTED if i < len(self.last) and self.last[i] == c else OPEN for i, c in enumerate(text)]
        self.painter.show([ord(c) for c in text], status, 0)
        self.last = text

    def close(self, text: str) -> None:
        self.painter.committed = [ord(c) for c in text]
        self.painter.settle()
        self.painter.__exit__()


def _characters(ids: Iterable[int]) -> str:
    return "".join(map(chr, ids))


def told(remote: Remote, usage: Usage, reason: str, seconds: float, text: str) -> str:
    """One JSON object."""
    return json.dumps({
        "text": text, "finish_reason": reason, "tokens": usage.completion, "prompt_tokens": usage.prompt,
        "reasoning_tokens": usage.reasoning, "calls": usage.calls, "positions": usage.positions, "seconds": seconds,
        "model": remote.name, "server": remote.host,
    }, ensure_ascii=False)  # fmt: skip


def summary(remote: Remote, usage: Usage, seconds: float) -> str:
    """What it took, in a line."""
    made = usage.completion
    parts = [f"{made} tokens" if made is not None else "tokens not counted", f"{seconds:.1f} s"]
    parts += [f"{made / seconds:.0f} tokens/s"] if made and seconds else []
    parts += [f"{usage.calls} calls"] if usage.calls is not None else []
    parts += [f"{usage.reasoning} reasoning tokens"] if usage.reasoning else []
    return f"{remote.name} at {remote.host}: {', '.join(parts)}"


def infill(remote: Remote, text: str, temperature: float | None, json_output: bool, show_summary: bool) -> None:
    """Fill the one hole of a text. Raises ValueError for several, or one of a given length."""
    from mezzotint.edit.infill import split_holes

    pieces, lengths = split_holes(text)
    if len(lengths) != 1 or lengths[0] is not None:
        raise ValueError(
            f"a remote model fills one hole [[ ]] of any length; the text has {len(lengths)}, or tells a length"
        )
    reply = remote.fim(pieces[0], pieces[1], temperature=temperature)
    whole = pieces[0] + reply.text + pieces[1]
    if json_output:
        print(told(remote, reply.usage, reply.reason, reply.seconds, whole))
    else:
        print(whole)
    for note in reply.notes:
        print(f"note: {note}", file=sys.stderr)
    if show_summary:
        print(summary(remote, reply.usage, reply.seconds), file=sys.stderr)

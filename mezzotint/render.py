"""Text on its way from noise, drawn for a terminal. Status is told by shape as well as shade: it reads without colour.

given       underlined          open, a guess   dim italic
accepted    plain               open, a mask    a shaded block a token
overwritten bold
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mezzotint.sampler.canvas import ACCEPTED, GIVEN, OPEN, OVERWRITTEN
from mezzotint.sampler.trace import Trace

MASK = "░░"
NARROWEST = 30  # columns a strip needs to be read beside another
STYLES = {GIVEN: "underline", OPEN: "dim italic", ACCEPTED: "", OVERWRITTEN: "bold"}
Decode = Callable[[Sequence[int]], str]


def spans(
    decode: Decode, ids: Sequence[int], status: Sequence[int], mask_id: int | None, hidden: frozenset[int]
) -> Text:
    """One line of text for ids with a status each. Runs of one status are decoded together, so characters stay whole."""
    text, run, style = Text(), list[int](), 0

    def flush() -> None:
        if run:
            text.append(decode(run), STYLES[style])
            run.clear()

    for token, s in zip(ids, status, strict=True):
        if token in hidden:
            continue
        if s == OPEN and token == mask_id:
            flush()
            text.append(MASK, "dim")
            continue
        if s != style:
            flush()
            style = s
        run.append(token)
    flush()
    return text


class Painter:
    """Draws frames over each other on a terminal; on a pipe, writes committed text as it comes and nothing else."""

    def __init__(self, console: Console, decode: Decode, mask_id: int | None, hidden: frozenset[int]) -> None:
        self.console, self.decode, self.mask_id, self.hidden = console, decode, mask_id, hidden
        self.committed: list[int] = []
        self.live = Live(console=console, auto_refresh=False, vertical_overflow="visible")

    def __enter__(self) -> Painter:
        self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.__exit__(None, None, None)

    def show(self, tokens: Sequence[int], status: Sequence[int], committed: int) -> None:
        """The canvas after a call: `committed` of its tokens are final."""
        ids = [*self.committed, *tokens]
        states = [ACCEPTED] * len(self.committed) + list(status)
        self.live.update(spans(self.decode, ids, states, self.mask_id, self.hidden), refresh=True)
        self.committed += tokens[:committed]

    def settle(self) -> None:
        """Only what is committed, at the end."""
        self.live.update(Text(self.decode([i for i in self.committed if i not in self.hidden])), refresh=True)


def strip(
    trace: Trace, decode: Decode, mask_id: int | None, hidden: frozenset[int], every: Iterable[int] | None = None
) -> list[Text]:
    """One line for each frame of a trace (or those with the given numbers), newlines made visible."""
    wanted = None if every is None else set(every)
    lines = []
    for number, (_, ids, status) in enumerate(trace.views()):
        if wanted is None or number in wanted:
            line = spans(lambda run: decode(run).replace("\n", "⏎"), ids, status, mask_id, hidden)
            lines.append(line)
    return lines


def show_strips(console: Console, strips: Mapping[str, tuple[Sequence[Text], str]]) -> None:
    """Strips (heading -> lines, footer) beside each other, or under each other on a pipe and on a narrow terminal."""
    if console.is_terminal and console.width >= NARROWEST * len(strips):
        table = Table(expand=True, box=None, padding=(0, 1))
        for heading in strips:
            table.add_column(heading, ratio=1, overflow="fold")
        for number in range(max(len(lines) for lines, _ in strips.values())):
            table.add_row(*(lines[number] if number < len(lines) else "" for lines, _ in strips.values()))
        table.add_section()
        table.add_row(*(Text(footer, "bold") for _, footer in strips.values()))
        console.print(table)
        return
    for number, (heading, (lines, footer)) in enumerate(strips.items()):
        console.print(Text(("\n" if number else "") + f"# {heading}", "bold"))
        for line in lines:
            console.print(line, soft_wrap=not console.is_terminal)
        console.print(Text(f"= {footer}", "bold"))


def table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Rows under their keys, which are the same in each."""
    shown = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*row.values())
    return shown


def short_summary(trace: Trace) -> str:
    """What a comparison of policies is about."""
    return f"{trace.num_calls} calls, {trace.tokens_per_call:.2f} tokens/call"


def filled(text: str, holes: Iterable[tuple[int, int]]) -> Text:
    """A text whose filled holes (characters `start:end`) stand out."""
    shown = Text(text)
    for start, end in holes:
        shown.stylize("bold", start, end)
    return shown


def summary(trace: Trace, seconds: float, load_seconds: float, peak_bytes: int) -> str:
    """Calls, tokens, tokens per call, accepted per round, positions per token, speed, load time, peak memory: one line."""
    tokens = trace.num_tokens
    parts = [
        f"{tokens} tokens", f"{trace.num_calls} calls", f"{trace.tokens_per_call:.2f} tokens/call",
        f"{trace.num_positions / max(tokens, 1):.1f} positions/token", f"{tokens / max(seconds, 1e-9):.1f} tokens/s",
        f"{seconds:.1f} s", f"load {load_seconds:.1f} s", f"peak memory {peak_bytes / 1e9:.2f} GB",
    ]  # fmt: skip
    if trace.accepted_per_round is not None:
        parts.insert(3, f"{trace.accepted_per_round:.2f} drafted tokens kept a round")
    return ", ".join(parts)


GIT = {"---": "bold", "+++": "bold", "@@": "cyan", "-": "red", "+": "green"}  # how a line of a diff begins -> its style


def coloured(diff: str) -> Text:
    """A unified diff in git's colours."""
    shown = Text()
    for line in diff.splitlines(keepends=True):
        shown.append(line, next((style for start, style in GIT.items() if line.startswith(start)), ""))
    return shown


class Working:
    """What is being done, how far it is and how long it will take yet, on stderr: in place on a terminal, a line now and then
    on a pipe, nothing for what is soon done."""

    def __init__(self, every: float = 10.0) -> None:
        self.console, self.every = Console(stderr=True, highlight=False), every
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.what, self.began, self.last = "", 0.0, time.perf_counter()

    def __enter__(self) -> Working:
        if self.console.is_terminal:
            self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self.live.__exit__(None, None, None)

    def show(self, what: str, done: int, total: int) -> None:
        """A `Report` (`edit/ask.py`)."""
        now = time.perf_counter()
        if what != self.what:
            self.what, self.began = what, now
        if now - self.last < (0.2 if self.console.is_terminal else self.every):
            return
        self.last = now
        line = f"{what} {done / max(total, 1):.0%}"
        if done:
            line += f", about {(now - self.began) * (total - done) / done:.0f} s left"
        if self.console.is_terminal:
            self.live.update(Text(line), refresh=True)
        else:
            self.console.print(line)

"""Editing files: what the command does with an `Edit` once it knows what to ask for.

read    UTF-8 text, from files or standard input (the command refuses others)
show    a diff in git's colours, the text, or JSON
write   the whole file or nothing, its mode kept, and only if it is still what was read
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mezzotint.checkpoints.files import whole_file
from mezzotint.edit.ask import Ask
from mezzotint.edit.checks import problems
from mezzotint.edit.doubt import doubt
from mezzotint.edit.editor import Where, edit, resolve
from mezzotint.edit.hunks import Edit
from mezzotint.edit.locks import find_locks
from mezzotint.edit.presets import preset
from mezzotint.edit.router import choose
from mezzotint.engine.engine import Engine
from mezzotint.render import Working, coloured, filled

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Output:
    """show: diff, text, json or nothing. in_place: write the file; backup: and keep the old one under this suffix."""

    show: str = "diff"
    in_place: bool = False
    backup: str = ""
    explain: bool = False
    summary: bool = False


@dataclass(frozen=True)
class Document:
    """A text, and the file it comes from."""

    name: str
    text: str
    where: Where

    @classmethod
    def of(cls, name: str, text: str, locks: Sequence[str], where: Where) -> Document:
        """locks: as the command takes them. Raises ValueError for an empty text and for locks and lines it does not have."""
        title = "standard input" if name == STANDARD_INPUT else name
        if not text.strip("\ufeff \t\r\n"):
            raise ValueError(f"{title} is empty; give some text")
        try:
            where = replace(where, locks=find_locks(text, locks))
            where.of(text)
        except ValueError as error:
            raise ValueError(f"{title}: {error}") from None
        return cls(name, text, where)


@dataclass(frozen=True)
class Order:
    """What is wanted of every document. rejected: numbers of hunks whose old text stays; checks, values: a preset's."""

    ask: Ask
    where: Where
    way: str = "auto"
    rejected: Sequence[int] = ()
    checks: Sequence[str] = ()
    values: Mapping[str, str] = field(default_factory=dict)


def wanted(
    instruction: str | None, name: str | None, path: str | None, pairs: Sequence[str], lines: str | None,
    only_doubtful: bool, way: str, rejected: Sequence[int], **more: Any,
) -> Order:  # fmt: skip
    """The order that the command's options make. pairs: KEY=VALUE. Raises ValueError for what cannot be."""
    values = {} if instruction is None else {"instruction": instruction}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--with {pair!r} is not written as KEY=VALUE")
        values[key] = value
    where = Where(lines=lines, only_doubtful=only_doubtful)
    if name is None:
        if pairs or path:
            raise ValueError("--with and --presets go with --preset NAME")
        return Order(Ask(instruction if instruction is not None else "fix the grammar", **more), where, way, rejected)
    chosen = preset(name, path)
    where = replace(where, keep_layout=chosen.keep_layout)
    return Order(chosen.ask(values, **more), where, way, rejected, chosen.checks, values)


def edit_document(engine: Engine, document: Document, order: Order, output: Output) -> tuple[Edit, bool]:
    """Edit one document, show it, and write it if no check fails; -> the edit, and whether the file is as it should be.

    Raises ValueError and OSError; the file is then as it was.
    """
    began = time.perf_counter()
    where = replace(document.where, keep_layout=order.where.keep_layout)
    if output.explain:
        _say(f"{document.name}: {choose(engine, order.ask, order.way)}")
    with Working() as panel:
        done = edit(engine, document.text, order.ask, where, order.way, panel.show)
        if order.rejected:
            done = resolve(engine, done, order.rejected, order.ask, where, order.way, panel.show)
    seconds = time.perf_counter() - began
    found = problems(done, order.checks, order.values)
    for note in (*done.notes, *(f"{document.name}: check {problem}" for problem in found)):
        _say(note)
    if output.show == "json":
        more = {"problems": found, "seconds": round(seconds, 3), "explain": str(choose(engine, order.ask, order.way))}
        print(json.dumps({"file": document.name, **done.to_json(), **more}, ensure_ascii=False))
    else:
        _show(document, done, output)
    if output.in_place and done.after != done.before and not found:
        write(Path(document.name), done, output.backup)
    if output.summary:
        changed = f"{len(done.hunks)} change{'s' * (len(done.hunks) != 1)}"
        print(f"{document.name}: {changed}, {done.num_calls} calls, {seconds:.1f} s", file=sys.stderr)
    return done, not found


def _show(document: Document, done: Edit, output: Output) -> None:
    name = "text" if document.name == STANDARD_INPUT else document.name
    if output.show == "text":
        sys.stdout.write(done.after)
    elif output.show == "diff" and done.after == done.before:
        _say(f"{name}: no change")
    elif output.show == "diff":
        diff = done.diff(name.lstrip("/"))
        if sys.stdout.isatty():
            Console(highlight=False).print(coloured(diff), end="", soft_wrap=True)
        else:
            sys.stdout.write(diff)


def show_doubt(engine: Engine, document: Document, order: Order, output: Output) -> None:
    """The text with its doubtful words marked, or as JSON p of every token."""
    with Working() as panel:
        found = doubt(engine, document.text, order.ask.instruction, document.where.of(document.text), panel.show)
    if output.show == "json":
        print(json.dumps({"file": document.name, **found.to_json(), "doubtful": found.words()}, ensure_ascii=False))
    elif sys.stdout.isatty():
        Console(highlight=False).print(filled(document.text, found.words()), end="", soft_wrap=True)
    else:
        for start, end in found.words():
            print(f"{start}:{end}\t{document.text[start:end].strip()}")


def write(path: Path, done: Edit, backup: str = "") -> None:
    """The edited text in place of the file, all of it or nothing; a link is followed. Raises OSError, also when the file has
    changed since it was read."""
    path = path.resolve()
    before = done.before.encode()
    if path.read_bytes() != before:
        raise OSError(f"{path} has changed since it was read; it was left as it is")
    if backup:
        with whole_file(path.with_name(path.name + backup)) as file:
            file.write(before)
    with whole_file(path, like=path) as file:
        file.write(done.after.encode())


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)

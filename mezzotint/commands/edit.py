"""Text changed where it stands with `edit`; its holes filled with `infill`."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from mezzotint.checkpoints.names import is_remote
from mezzotint.commands.loading import decoding_of, load_engine, peak_bytes, warn_untrained
from mezzotint.commands.shared import (
    FAILED,
    AdapterFolder,
    AnyModel,
    BadInput,
    Compute,
    Cores,
    Json,
    ModelName,
    Policy,
    Quality,
    Seed,
    ShowSummary,
    Temperature,
    TraceFile,
    argument_text,
    read_text,
    reporting,
)


@reporting
def edit(
    files: Annotated[list[str] | None, typer.Argument(help="Files to edit; - reads standard input.")] = None,
    instruction: Annotated[
        str | None, typer.Option("--instruction", "-i", help="What to change, in a few words; fix the grammar.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="grammar, audience, seo, refactor, feature, convert, free, or of --presets.")
    ] = None,
    values: Annotated[
        list[str] | None, typer.Option("--with", help="KEY=VALUE that a preset needs; repeatable.")
    ] = None,
    presets: Annotated[str | None, typer.Option(help="A TOML file with presets of your own.")] = None,
    model: ModelName = "default",
    adapter: AdapterFolder = None,
    compute: Compute = "auto",
    threads: Cores = None,
    strength: Annotated[
        float | None, typer.Option(help="Share of the text, what is most in doubt, that starts as noise.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Share of the text that may change, such as 0.15.")] = None,
    lock: Annotated[
        list[str] | None,
        typer.Option(help="REGEX whose matches must not change, or START:END characters; repeatable."),
    ] = None,
    lines: Annotated[str | None, typer.Option(help="A-B: change these lines only; the first is 1.")] = None,
    only_doubtful: Annotated[
        bool, typer.Option("--only-doubtful", help="Change only words that the model doubts.")
    ] = False,
    show_doubt: Annotated[
        bool,
        typer.Option(
            "--doubt", help="Change nothing; show the words that the model doubts, or p of each token as JSON."
        ),
    ] = False,
    reject: Annotated[
        list[int] | None, typer.Option(help="Number of a change, from 0: keep its old text, do the rest again.")
    ] = None,
    way: Annotated[str, typer.Option(help="auto, diffusion, rescore, verified, repair or insert.")] = "auto",
    threshold: Annotated[
        float | None, typer.Option(help="How sure a model that denoises must be of another token.")
    ] = None,
    margin: Annotated[float, typer.Option(help="Nats that the text must gain for a rescored change.")] = 3.0,
    seed: Seed = 0,
    diff: Annotated[bool, typer.Option("--diff", help="Show a diff: what files do by themselves.")] = False,
    text_output: Annotated[
        bool, typer.Option("--text", help="Print the edited text: what standard input does by itself.")
    ] = False,
    json_output: Json = False,
    in_place: Annotated[bool, typer.Option("--in-place", "--write", "-w", help="Write the files.")] = False,
    backup: Annotated[str, typer.Option(help="With --in-place: keep the old file under this suffix.")] = "",
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if anything changed.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say how it is done and why, on stderr.")] = False,
    show_summary: Annotated[bool, typer.Option("--summary", help="Changes, calls and time on stderr.")] = False,
) -> None:
    """Change text where it stands: corrections by default, and whatever --instruction says where the model follows it."""
    from mezzotint import edit_files
    from mezzotint.edit_files import STANDARD_INPUT, Document, Output

    sources = files or [STANDARD_INPUT]
    if in_place and STANDARD_INPUT in sources:
        raise BadInput("--in-place needs a file, not standard input")
    given = {"strength": strength, "budget": budget, "sure": threshold}
    order = edit_files.wanted(
        instruction, preset, presets, values or [], lines, only_doubtful, way, reject or [], margin=margin, seed=seed,
        **{key: value for key, value in given.items() if value is not None},
    )  # fmt: skip
    documents = [Document.of(source, read_text(source), lock or [], order.where) for source in sources]
    engine, load_seconds = load_engine(model, adapter, compute, threads)
    changed = refused = False
    for document in documents:
        plain = "text" if document.name == STANDARD_INPUT else "diff"
        show = "json" if json_output else "text" if text_output else "diff" if diff else "" if in_place else plain
        output = Output(show, in_place, backup, explain, show_summary)
        if show_doubt:
            edit_files.show_doubt(engine, document, order, output)
            continue
        done, written = edit_files.edit_document(engine, document, order, output)
        changed |= done.after != done.before
        refused |= in_place and not written
    if show_summary:
        print(f"load {load_seconds:.1f} s, peak memory {peak_bytes() / 1e9:.2f} GB", file=sys.stderr)
    if refused or (exit_code and changed):
        raise typer.Exit(FAILED)


@reporting
def infill(
    text: Annotated[
        str, typer.Argument(help="Text with holes: [[ ]], or [[7]] for 7 tokens; - reads standard input.")
    ] = "-",
    model: AnyModel = "default",
    adapter: AdapterFolder = None,
    policy: Policy = None,
    quality: Quality = None,
    max_length: Annotated[int, typer.Option(help="Longest [[ ]] looked for, in tokens.")] = 16,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    json_output: Json = False,
    trace_file: TraceFile = None,
    show_summary: ShowSummary = False,
) -> None:
    r"""Fill the holes of a text, all together and seeing both sides; the rest stays as it is. \[[ ]] is no hole."""
    from rich.console import Console

    from mezzotint.edit.infill import infill, search, split_holes
    from mezzotint.render import filled

    source = argument_text(text, "the text")
    if is_remote(model):
        from mezzotint import remote_command

        more = {"quality": quality, "policy": policy, "seed": seed or (0 if model.startswith("openai:") else None)}
        remote = remote_command.opened(model, {"--adapter": adapter, "--trace": trace_file}, more)
        remote_command.infill(remote, source, temperature or None, json_output, show_summary)
        return
    split_holes(source)
    find_length = search(max_length)
    chosen = decoding_of("diffusion", policy, quality)
    engine, load_seconds = load_engine(model, adapter)
    warn_untrained(engine, "what it fills in is broken text")
    began = time.perf_counter()
    result = infill(
        engine, source, chosen, seed=seed, temperature=temperature, max_length=max_length, find_length=find_length
    )
    seconds = time.perf_counter() - began
    if trace_file:
        result.trace.save(trace_file)
    if json_output:
        print(json.dumps({
            **result.to_json(), "positions": result.trace.num_positions, "seconds": seconds,
            "load_seconds": load_seconds, "peak_bytes": peak_bytes(), "seed": seed,
        }, ensure_ascii=False))  # fmt: skip
    elif sys.stdout.isatty():
        Console(highlight=False).print(
            filled(result.text, [(hole.start, hole.end) for hole in result.holes]), soft_wrap=True
        )
    else:
        sys.stdout.write(result.text + ("" if text == "-" else "\n"))
    if show_summary:
        print(
            f"{len(result.holes)} holes, {sum(hole.length for hole in result.holes)} tokens, {result.num_calls} calls, "
            f"{seconds:.1f} s, load {load_seconds:.1f} s, peak memory {peak_bytes() / 1e9:.2f} GB",
            file=sys.stderr,
        )

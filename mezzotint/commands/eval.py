"""What models write, measured with `eval` and drawn with `eval-report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mezzotint.checkpoints.names import is_remote
from mezzotint.commands.loading import decoding_of, load_engine, warn_untrained
from mezzotint.commands.shared import (
    FAILED,
    AdapterFolder,
    AnyModel,
    BadInput,
    Compute,
    Json,
    ModelName,
    Policy,
    Quality,
    Seed,
    Temperature,
    print_note,
    reporting,
)

DataFolder = Annotated[
    str | None, typer.Option("--data", help="Folder of items; else the one MEZZOTINT_EVALDATA names.")
]
Grading = Annotated[str, typer.Option(help="Of code: strict (tests and answer apart) or official (as published).")]


@reporting
def evaluate(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Benchmarks; `ten` or `all`; or `edit`, alone.")
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="The benchmarks, and which have their items here.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Judge the reference answers: is the harness right?")
    ] = False,
    model: AnyModel = "default",
    adapter: AdapterFolder = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Ask --model at an OpenAI-compatible URL instead; key: MEZZOTINT_EVAL_KEY.")
    ] = None,
    compute: Compute = "float32",
    decode: Annotated[str | None, typer.Option(help="ar, verified (default) or diffusion.")] = None,
    draft: Annotated[
        str, typer.Option(help="Drafts of verified: auto, lookup, fixed-point, random, self, self-last.")
    ] = "auto",
    draft_length: Annotated[int, typer.Option(help="Tokens that verified drafts at a time.")] = 4,
    policy: Policy = None,
    quality: Quality = None,
    items: Annotated[str, typer.Option(help="How many of each benchmark, drawn by the seed; or all.")] = "all",
    samples: Annotated[int, typer.Option(help="Answers an item.")] = 1,
    temperature: Temperature = 0.0,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer; else each benchmark's own.")] = None,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(help="Items answered together.")] = 8,
    on_ray: Annotated[
        int | None, typer.Option("--ray", help="So many workers on Ray (RAY_ADDRESS), each with the model.")
    ] = None,
    grading: Grading = "strict",
    answers_only: Annotated[
        bool, typer.Option("--answers-only", help="Judge no code now; the same command does later.")
    ] = False,
    given_length: Annotated[bool, typer.Option("--given-length", help="Tell infilling the true lengths.")] = False,
    data: DataFolder = None,
    fixtures: Annotated[
        bool, typer.Option("--fixtures", help="Hand-made rows where there are no items: to try, never a score.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(help="The store; evals/MODEL-DECODE by default. Goes on where it was.")
    ] = None,
    python: Annotated[str | None, typer.Option(help="The Python that judged code runs on.")] = None,
    workers: Annotated[int, typer.Option(help="Answers judged at once.")] = 1,
    patience: Annotated[
        float | None, typer.Option(help="Multiplies the time limits of judged code; 1, and 3 for --self-test.")
    ] = None,
    ways: Annotated[
        str | None, typer.Option(help="Of `edit`: diffusion,rescore,verified,repair,insert,ar, those to compare.")
    ] = None,
    parts: Annotated[
        str | None, typer.Option(help="Of `edit`: the parts to run, separated by commas; else all.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Measure a model on benchmarks, or its editing (`edit`). Answers are stored as they come; the same command goes on after
    a stop."""
    from mezzotint.eval import command
    from mezzotint.eval.runner import Summary, Wanted

    patience = patience or (3.0 if self_test else 1.0)
    options = command.Options(data, fixtures, answers_only, grading, python, patience)
    if names and "edit" in names:
        unused = {
            "--endpoint": endpoint, "--decode": decode, "--policy": policy, "--quality": quality, "--max-tokens": max_tokens,
            "--samples": samples != 1, "--temperature": temperature, "--list": list_all, "--self-test": self_test,
        }  # fmt: skip
        if len(names) > 1 or (given := [name for name, value in unused.items() if value]):
            why = f"goes without {' '.join(given)}" if len(names) == 1 else "is run alone"
            raise BadInput(f"edit {why}: it compares ways of editing, which --ways names")
        wanted = Wanted(command.count_of(items), 1, seed, None, workers, " ".join(["mezzotint", *sys.argv[1:]]))
        _evaluate_edits(model, adapter, ways, parts, out, options, wanted, json_output)
        return
    if ways or parts:
        raise BadInput("--ways and --parts go with `mezzotint eval edit`")
    if list_all:
        _list_benchmarks(command.listing(options), json_output)
        return
    if self_test:
        _self_test(names or ["all"], options, command.count_of(items), workers, json_output)
        return
    if not names:
        raise BadInput("name the benchmarks to run, or ten, or all; --list shows them")
    asked = " ".join(["mezzotint", *sys.argv[1:]])
    wanted = Wanted(command.count_of(items), samples, seed, max_tokens, workers, asked)
    if batch < 1:
        raise BadInput(f"--batch is {batch}; it must be at least 1")
    found = command.located(names, options)
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise BadInput(f"--endpoint is {endpoint!r}; it must begin with http:// or https://")

    def make() -> Any:
        from mezzotint.eval.systems import Endpoint, Local

        if endpoint is not None:
            return Endpoint(endpoint, model, command.api_key(), decode, temperature, seed, batch)
        if is_remote(model):
            from mezzotint import remote_command

            remote = remote_command.opened(model, {"--adapter": adapter, "--given-length": given_length}, {})
            seeded = None if remote.provider == "mercury" else seed
            return Endpoint(
                remote.url, remote.model, remote.key, decode, temperature, seeded, batch, provider=remote.provider
            )
        from mezzotint.engine.request import Request

        settings = Request(
            "-", decode=decode or "verified", temperature=temperature, seed=seed, draft=draft,  # type: ignore[arg-type]  # checked there
            draft_length=draft_length, policy=decoding_of(decode or "verified", policy, quality),
        )  # fmt: skip
        if on_ray is not None:
            from mezzotint.eval.on_ray import OnRay, Recipe

            return OnRay(Recipe(model, adapter, compute, settings, batch, given_length), on_ray)
        engine, _ = load_engine(model, adapter, compute)
        if settings.decode == "diffusion":
            warn_untrained(engine)
        return Local(engine, settings, batch, given_length)

    said: list[dict[str, Any]] = []

    why = ""

    def finished(summary: Summary) -> None:
        nonlocal why
        why = summary.why or why
        said.append({"task": summary.task, "asked": summary.asked, "states": dict(summary.states)})
        if not json_output:
            print(command.line(summary), flush=True)

    from mezzotint.render import Working

    with Working() as working:
        folder, good = command.evaluate(found, make, out, options, wanted, working.show, finished)
    if json_output:
        print(json.dumps({"store": str(folder), "tasks": said}))
    print_note(f"stored in {folder}; mezzotint eval-report {folder} draws it")
    if not good:
        because = f" ({why})" if why else ""
        print(f"mezzotint: too many answers ended in infra_error{because}; run the same command again", file=sys.stderr)
        raise typer.Exit(FAILED)


@reporting
def eval_report(
    stores: Annotated[list[str], typer.Argument(help="What `mezzotint eval` has stored; the first is compared with.")],
    out: Annotated[str, typer.Option(help="Where to write: OUT.md and OUT.html.")] = "report",
    title: Annotated[str, typer.Option(help="The page's heading.")] = "Evaluation",
    note: Annotated[str, typer.Option(help="Said below it: commit, machine.")] = "",
    grading: Annotated[str | None, typer.Option(help="official or strict, where a store has both.")] = None,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="Where verified and ar differ, the gap of --model's two likeliest tokens.")
    ] = False,
    model: ModelName = "default",
    adapter: AdapterFolder = None,
    compute: Compute = "float32",
    data: DataFolder = None,
) -> None:
    """Draw stores as a page: scores beside the published ones, states, calls, differences."""
    from mezzotint.eval.report import write
    from mezzotint.eval.scores import read_store

    results, gap = [read_store(store, grading) for store in stores], None
    if gaps:
        from mezzotint.engine.request import Request
        from mezzotint.eval.command import Options, gap_of
        from mezzotint.eval.systems import Local

        gap = gap_of(Local(load_engine(model, adapter, compute)[0], Request("-")), Options(data, fixtures=True))
    for path in write(results, out, title, gap, note):
        print(path)


def _evaluate_edits(
    model: str, adapter: str | None, named: str | None, parts: str | None, out: str | None, options: Any, wanted: Any,
    json_output: bool,
) -> None:  # fmt: skip
    from rich.console import Console

    from mezzotint.eval import edit_suite, edit_ways
    from mezzotint.render import Working, table

    chosen = edit_suite.named_parts(parts)
    engine, _ = load_engine(model, adapter, "auto")
    engine.must_read()
    ways, notes = edit_ways.chosen(engine, named)
    with Working() as working:
        folder, found = edit_suite.evaluate(
            engine, ways, chosen, out, options, wanted, working.show, lambda part: None
        )  # fmt: skip
    for note in (*notes, *edit_suite.said(found)):
        print_note(note)
    if json_output:
        about = {"store": str(folder), "model": engine.checkpoint.name, "ways": ways, "left_out": notes}
        print(json.dumps({**about, "parts": [part.to_json() for part in found]}, ensure_ascii=False))
    else:
        Console(highlight=False, width=None if sys.stdout.isatty() else 10_000).print(
            table(edit_suite.table(found, ways))
        )
    print_note(f"stored in {folder}; the same command goes on from there")


def _list_benchmarks(rows: list[dict[str, Any]], json_output: bool) -> None:
    from rich.console import Console

    from mezzotint.render import table

    if json_output:
        print(json.dumps(rows, ensure_ascii=False))
        return
    shown = [
        {
            "name": row["name"], "benchmark": row["title"], "items": f"{row['items']:,}",
            "here": "yes" if row["here"] else "fixture only" if row["fixture"] else "no",
            "from": row["where"] if not row["here"] else ", ".join(Path(path).name for path in row["here"]),
        }
        for row in rows
    ]  # fmt: skip
    Console(highlight=False, width=None if sys.stdout.isatty() else 10_000).print(table(shown))


def _self_test(names: list[str], options: Any, count: int | None, workers: int, json_output: bool) -> None:
    from mezzotint.eval import data
    from mezzotint.eval.selftest import self_test
    from mezzotint.eval.tasks import chosen

    tasks, bad, seen = chosen(names), 0, 0
    where = data.folder(options.data)
    if where is None:
        raise BadInput("name the folder that holds the benchmarks' files: --data or MEZZOTINT_EVALDATA")
    there = [task for task in tasks if any(data.find(where, names) for names in task.files)]
    judge = options.judge(any(task.code for task in tasks), any(task.page for task in there))
    from mezzotint.render import Working

    with Working() as working:
        for found in self_test(tasks, where, judge, count, workers, working.show):
            seen, bad = seen + 1, bad + (not found.ok)
            if json_output:
                print(json.dumps(vars(found)), flush=True)
                continue
            expected = "" if found.expected is None else f", expected {found.expected}"
            print(f"{'ok ' if found.ok else 'BAD'}  {found.name}: {found.right} of {found.total}{expected}", flush=True)
            for item, why in found.wrong:
                print(f"       {item}: {why}")
    if not seen:
        raise BadInput(f"{where} holds no file of {', '.join(names)} with reference answers")
    if bad:
        raise typer.Exit(FAILED)

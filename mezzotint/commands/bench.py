"""Speed: of any server with `bench serve`, of ways of decoding with `bench speed`."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from mezzotint.commands.loading import load_engine
from mezzotint.commands.shared import (
    AdapterFolder,
    BadInput,
    Compute,
    Cores,
    Json,
    ModelName,
    Seed,
    print_note,
    read_text,
    reporting,
)

bench_app = typer.Typer(help="Measure a server, or ways of decoding.", no_args_is_help=True, rich_markup_mode=None)


@bench_app.command("serve")
@reporting
def bench_serve(
    url: Annotated[str, typer.Argument(help="Any OpenAI-compatible server's address, with /v1.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model's name there.")] = "default",
    kind: Annotated[str, typer.Option(help="chat or completions.")] = "chat",
    requests: Annotated[int, typer.Option(help="How many in all.")] = 32,
    concurrency: Annotated[
        int | None, typer.Option(help="Closed loop: so many clients. 1, if no --rate is given.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Open loop: so many requests a second.")] = None,
    poisson: Annotated[bool, typer.Option("--poisson", help="Random arrivals, not even ones.")] = False,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 128,
    prompts: Annotated[str | None, typer.Option(help="A file with a prompt a line.")] = None,
    within: Annotated[
        list[str] | None,
        typer.Option(help="A limit of a good answer: first_draft, first_text or end_to_end=MS; repeatable."),
    ] = None,
    drafts: Annotated[
        bool, typer.Option("--drafts", help="Ask for drafts (stream_options.include_diffusion).")
    ] = False,
    body: Annotated[str, typer.Option(help="Further fields of every request, as JSON.")] = "{}",
    json_output: Json = False,
) -> None:
    """Ask a server under load, and say how long answers take. The key is read from OPENAI_API_KEY."""
    import asyncio

    from mezzotint.load_test import PROMPTS, Load, run, table

    limits = {}
    for limit in within or []:
        name, _, value = limit.partition("=")
        if not value.replace(".", "", 1).isdigit():
            raise BadInput(f"--within {limit!r} is no limit; write end_to_end=500, in milliseconds")
        limits[name] = float(value) / 1000
    try:
        more = json.loads(body)
    except json.JSONDecodeError as error:
        raise BadInput(f"--body is not JSON: {error.msg}") from None
    if not isinstance(more, dict):
        raise BadInput("--body must be a JSON object")
    lines = [line for line in read_text(prompts).splitlines() if line.strip()] if prompts else list(PROMPTS)
    found = asyncio.run(run(Load(
        url, model, kind, lines, requests, 1 if concurrency is None and rate is None else concurrency, rate, poisson, seed,
        max_tokens, drafts, os.environ.get("OPENAI_API_KEY"), limits, more,
    )))  # fmt: skip
    print(json.dumps(found) if json_output else table(found))


@bench_app.command("speed")
@reporting
def bench_speed(
    model: ModelName = "default",
    adapter: AdapterFolder = None,
    compute: Compute = "auto",
    threads: Cores = None,
    ways: Annotated[
        str,
        typer.Option(
            help="Of ar, verified, and diffusion's qualities fast, balanced, best; the first is compared with."
        ),
    ] = "ar,verified,fast,balanced,best",
    draft: Annotated[str, typer.Option(help="Drafts of verified.")] = "auto",
    count: Annotated[int, typer.Option(help="Prompts of each kind, easy and hard.")] = 30,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 96,
    seed: Seed = 0,
    together: Annotated[
        str, typer.Option(help="Requests answered together, too: numbers separated by commas.")
    ] = "1,2,4,8",
    price: Annotated[
        float | None, typer.Option(help="Of the machine, an hour: gives the price of a million tokens.")
    ] = None,
    out: Annotated[str, typer.Option(help="Where to write: OUT.md and OUT.svg.")] = "speed",
    json_output: Json = False,
) -> None:
    """Measure ways of decoding on one model: speed beside what is right, and steps against difficulty."""
    from mezzotint.eval import speed_command, speed_report
    from mezzotint.render import Working

    speed_command.asked(ways, count, max_tokens, together, draft)
    engine, _ = load_engine(model, adapter, compute, threads)
    with Working() as working:
        found, about = speed_command.measured(engine, ways, count, seed, max_tokens, together, draft, working.show)
    about["command"] = " ".join(["mezzotint", *sys.argv[1:]])
    for path in speed_report.write(found, about, price, out):
        print_note(f"written: {path}")
    if json_output:
        print(json.dumps(speed_command.as_json(found, about), ensure_ascii=False))
    else:
        for said in (*speed_report.equal_quality(found), *speed_report.adaptive(found)):
            print(said)

"""Training: from scratch with `train`, on from weights that are there with `adapt` and `finetune`; `train-report`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mezzotint.commands.shared import AdapterFolder, BadInput, Json, ModelName, Seed, print_note, reporting

if TYPE_CHECKING:
    from mezzotint.checkpoints.load import Checkpoint

Out = Annotated[str, typer.Option(help="The folder to write; it must not exist.")]
Minutes = Annotated[float | None, typer.Option("--max-minutes", help="All of it, measuring included.")]
Full = Annotated[bool, typer.Option("--full", help="Train all weights and write a whole checkpoint.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Numbers of the configuration, such as rank=64.")
]
Resume = Annotated[bool, typer.Option(help="Go on with the run of the same --out that was stopped.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; torch chooses by default.")]


@reporting
def train(
    recipe: Annotated[
        str, typer.Argument(help="tiny: a million weights from scratch, minutes on a CPU; digits: pictures by class.")
    ] = "tiny",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the recipe, such as optimizer.learning_rate=3e-3."),
    ] = None,
    out: Annotated[str, typer.Option(help="The folder to write; it must not exist.")] = "tiny-model",
    minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", "--minutes", help="How long to train; 9 (digits: 4) if nothing says how long."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Train so many steps instead: the same on any machine.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run of the same --out that was stopped.")] = False,
    objective: Annotated[str, typer.Option(help="diffusion, or ar: the twin to compare with.")] = "diffusion",
    seed: Seed = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads; torch chooses by default.")] = None,
) -> None:
    """Train a model from scratch. Text of the folder that MEZZOTINT_DATA names is added to our own.

    Checkpoints of the run lie in OUT.run; Ctrl-C writes one. Under torchrun it is one run on all ranks.
    """
    if recipe not in ("tiny", "digits"):
        raise BadInput(f"unknown recipe {recipe!r}; known: tiny, digits")
    run = _run_folder(out, resume)
    import torch

    from mezzotint.recipes import digits, tiny
    from mezzotint.train.data import data_folder
    from mezzotint.train.distributed import join

    if threads is not None:
        torch.set_num_threads(threads)
    settings = recipe_settings(minutes, steps, overrides or [])
    with join() as ranks:
        if recipe == "digits":
            pictures, _ = digits.load_pictures()
            checkpoint = digits.checkpoint(
                digits.train(pictures, seed=seed, overrides=settings, folder=run, resume=resume, ranks=ranks)
            )
        else:
            data = data_folder()
            if data is None and ranks.first:
                print_note("MEZZOTINT_DATA is not set; training on our own little texts alone")
            corpus = tiny.documents(data)
            if ranks.first:
                print(f"{len(corpus.train)} documents, {len(corpus.held_out)} held out", file=sys.stderr)
            checkpoint = tiny.train(
                corpus, 9.0, None, seed, objective, overrides=settings, folder=run, resume=resume, ranks=ranks
            )
        if ranks.first:
            checkpoint.save(out, torch.float32 if recipe == "digits" else torch.bfloat16)
            print(out)


@reporting
def adapt(
    configuration: Annotated[
        str, typer.Argument(help="cpu-smoke, cpu-hour, gpu-30min or gpu-2b; drafts: a draft head for an adapter.")
    ] = "cpu-smoke",
    overrides: Overrides = None,
    out: Out = "adapted",
    max_minutes: Minutes = None,
    model: ModelName = "base",
    adapter: AdapterFolder = None,
    examples: Annotated[str | None, typer.Option(help="Learn a folder that `data examples` has written.")] = None,
    full: Full = False,
    resume: Resume = False,
    seed: Seed = 0,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Teach a left-to-right model to denoise; its own text stays as it is. --adapter goes on from there.

    Without --examples, text of the folder that MEZZOTINT_DATA names is learnt, or the source of Python's standard library.
    Checkpoints and metrics of the run lie in OUT.run; `mezzotint train-report` draws them.
    """
    began = time.perf_counter()
    from mezzotint.recipes.adapt import CONFIGURATIONS, Corpus, corpus, within
    from mezzotint.recipes.drafts import Drafting
    from mezzotint.train.data import data_folder
    from mezzotint.train.examples import read_examples
    from mezzotint.train.recipe import apply

    settings: Any
    if configuration == "drafts":
        if full or resume:
            raise BadInput("drafts learns a head beside an adapter, in one go; leave --full and --resume out")
        settings = Drafting(seed=seed)
    elif configuration in CONFIGURATIONS:
        settings = replace(CONFIGURATIONS[configuration](), seed=seed, full=full)
        settings = replace(settings, learning_rate=2e-4) if full else settings
    else:
        raise BadInput(f"unknown configuration {configuration!r}; known: {', '.join(CONFIGURATIONS)}, drafts")
    data = data_folder()

    def text_of(checkpoint: Checkpoint, wanted: Any) -> Any:
        if examples is not None:
            read = read_examples(examples, checkpoint.tokenizer, seed=wanted.seed)
            return Corpus(*(within(some, wanted.length) for some in read))
        return corpus(data, checkpoint.tokenizer, wanted.length, wanted.texts)

    if data is None and examples is None:
        print_note("MEZZOTINT_DATA is not set; learning from the source of Python's standard library")
    _adapted(
        apply(settings, recipe_settings(max_minutes, None, overrides or [])), out, model, adapter, resume, threads,
        json_output, began, text_of,
    )  # fmt: skip


@reporting
def finetune(
    rows: Annotated[
        str, typer.Argument(help="JSON lines: messages; prompt, completion; or input, output, instruction.")
    ],
    overrides: Overrides = None,
    out: Out = "finetuned",
    max_minutes: Minutes = None,
    model: ModelName = "default",
    adapter: AdapterFolder = None,
    full: Full = False,
    resume: Resume = False,
    seed: Seed = 0,
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Teach a model your own rows: chats, prompts with completions, edits. A tenth of them is kept to measure on.

    It takes ten minutes if nothing says how long; gate=all changes left-to-right text too.
    """
    began = time.perf_counter()
    from mezzotint.recipes.adapt import Corpus, finetuning
    from mezzotint.train.recipe import apply
    from mezzotint.train.rows import read_examples

    def read(checkpoint: Checkpoint, wanted: Any) -> Corpus:
        return Corpus(*read_examples(rows, checkpoint.tokenizer, wanted.length))

    if not Path(rows).is_file():
        raise BadInput(f"there is no file {rows!r}")
    settings = apply(replace(finetuning(10.0, full), seed=seed), recipe_settings(max_minutes, None, overrides or []))
    _adapted(settings, out, model, adapter, resume, threads, json_output, began, read)


@reporting
def train_report(
    run: Annotated[str, typer.Argument(help="The folder of a training run, with its metrics.jsonl.")],
) -> None:
    """Draw a training run, finished or not: report.html in its folder, one page that needs nothing else."""
    from mezzotint.train.report import write_report

    print(write_report(run))


def _adapted(
    settings: Any, out: str, model: str, adapter: str | None, resume: bool, threads: int | None, json_output: bool,
    began: float, text_of: Callable[[Checkpoint, Any], Any],
) -> None:  # fmt: skip
    """Run an adaptation with its panel on stderr; the folder, or the report as JSON, on stdout."""
    import torch

    import mezzotint as mz
    from mezzotint.recipes import drafts
    from mezzotint.recipes.adapt import finetuning, run
    from mezzotint.train.distributed import join

    folder = _run_folder(out, resume)
    if threads is not None:
        torch.set_num_threads(threads)
    with join() as ranks:
        say: Callable[[str], None] = print_note if ranks.first else lambda line: None
        checkpoint = mz.load(model, adapter)
        text = text_of(checkpoint, settings)
        if settings.name == "finetune" and any(example.draft is not None for example in text.train):
            settings = replace(settings, stages=finetuning(1.0, edits=True).stages)
        say(f"{len(text.train)} texts, {len(text.held_out)} held out")
        if isinstance(settings, drafts.Drafting):
            report = drafts.run(checkpoint, text, settings, out, began=began, say=say)
        else:
            report = run(
                checkpoint, text, settings, out, began=began, say=say, folder=folder, resume=resume, ranks=ranks
            )
        if not ranks.first:
            return
    if json_output:
        print(json.dumps(report))
        return
    for when in ("before", "after"):
        found = report[when]
        nats = ", ".join(f"{value:.3f} nats at {level}" for level, value in found["canvas_nats"].items())
        more = {"accepted_per_round": "tokens accepted a round", "causal_nats": "nats a token as AR"}
        nats += "".join(f", {found[key]:.2f} {what}" for key, what in more.items() if found[key] is not None)
        print_note(f"{when}: {nats}")
    print_note(
        f"{report['steps']} steps in {report['train_seconds']:.0f} s; AR logits bit-equal: {report['ar_bit_equal']}"
    )
    print(out)


def _run_folder(out: str, resume: bool) -> Path:
    """Where a run that is to write `out` keeps its checkpoints."""
    run = Path(f"{out}.run")
    if Path(out).exists():
        raise BadInput(f"{out} exists; give another folder with --out")
    if run.is_dir() and any(run.iterdir()) and not resume:
        raise BadInput(f"{run} holds a run that was stopped; --resume goes on with it, or give another --out")
    return run


def recipe_settings(minutes: float | None, steps: int | None, overrides: list[str]) -> list[str]:
    """Overrides of a recipe that has minutes: steps alone take their place."""
    given = [f"{key}={value}" for key, value in (("minutes", minutes), ("max_steps", steps)) if value is not None]
    given += overrides
    keys = {setting.partition("=")[0] for setting in given}
    return ["minutes=none", *given] if "max_steps" in keys and "minutes" not in keys else given

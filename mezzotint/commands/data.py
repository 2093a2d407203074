"""Training data: `data build`, `show`, `examples`, `questions`, `regenerate`, `translation`."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mezzotint.commands.loading import load_engine
from mezzotint.commands.shared import BadInput, Json, ModelName, Seed, Temperature, print_note, reporting

data_app = typer.Typer(
    help="Training text: tokenise it once, see what is in it.", no_args_is_help=True, rich_markup_mode=None
)


@data_app.command("build")
@reporting
def data_build(
    out: Annotated[str, typer.Argument(help="The folder to write; it must not exist.")],
    files: Annotated[
        list[str],
        typer.Argument(help="Files, folders, names of the training folder's files, or `permissive` for all free ones."),
    ],
    tokenizer: Annotated[str, typer.Option(help="A model whose tokenizer and chat template are used.")] = "default",
    workers: Annotated[int | None, typer.Option(help="Threads; as many as there are cores by default.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be used.")] = False,
    hold_out: Annotated[float, typer.Option(help="Leave this share of the documents' sources out.")] = 0.0,
    only_held_out: Annotated[bool, typer.Option("--only-held-out", help="Take what --hold-out leaves out.")] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Evaluation file; documents that share 13 words in a row with it are left out. `all` of them."
        ),
    ] = None,
    on_ray: Annotated[
        bool, typer.Option("--ray", help="Tokenise files on Ray (RAY_ADDRESS): the same result.")
    ] = False,
) -> None:
    """Tokenise text into a corpus: JSON lines, parquet, plain text; plain or packed with zstd, xz or gzip."""
    from rich.console import Console

    import mezzotint as mz
    from mezzotint.train.corpus import Choice, build
    from mezzotint.train.data import find_evaluations, find_sources
    from mezzotint.train.overlap import evaluation_runs

    sources, runs = find_sources(files), evaluation_runs(find_evaluations(without or []))
    console, choice = Console(stderr=True, highlight=False), Choice(hold_out, only_held_out, runs)
    words = mz.load(tokenizer).tokenizer
    stream: Callable[..., Any] | None = None
    if on_ray:
        from mezzotint.train.ray import encoded

        stream = functools.partial(encoded, tokenizer=words, choice=choice, strict=strict)
    with console.status("") as status:

        def report(source: str, documents: int) -> None:
            status.update(f"{source}: {documents:,} documents")

        corpus = build(out, sources, words, choice, strict, workers or os.cpu_count() or 1, stream, report)
    for name, entry in corpus.manifest["sources"].items():
        for reason, count in entry["skipped"].items():
            print_note(f"{name}: {count} left out: {reason} (first: {entry['first_skipped'][reason]})")
    print(f"{len(corpus)} documents, {corpus.num_tokens} tokens", file=sys.stderr)
    print(out)


@data_app.command("show")
@reporting
def data_show(
    corpus: Annotated[str, typer.Argument(help="A folder made by `data build`.")],
    length: Annotated[int, typer.Option(help="Tokens of a packed row, to see how full rows are.")] = 1024,
    document: Annotated[int, typer.Option(help="The document to print.")] = 0,
    json_output: Json = False,
) -> None:
    """Check a corpus's SHA-256, and show its sources, how it packs and a document: what the model learns to say is bold."""
    from rich.console import Console
    from rich.text import Text

    from mezzotint.checkpoints.tokenizer import Tokenizer
    from mezzotint.render import table
    from mezzotint.train.corpus import Corpus
    from mezzotint.train.packing import Packing

    opened = Corpus.open(corpus)
    opened.verify()
    packing = Packing(opened, length)
    facts = {
        "sha256": opened.sha256, "documents": len(opened), "tokens": opened.num_tokens, "row_length": length,
        "rows": packing.rows_of_epoch(), "fill": round(packing.fill(), 4),
    }  # fmt: skip
    if json_output:
        print(json.dumps({**facts, "sources": opened.manifest["sources"]}, ensure_ascii=False))
        return
    rows = [
        {
            "source": name, "documents": f"{entry['documents']:,}", "tokens": f"{entry['tokens']:,}",
            "learnt": f"{entry['learnt'] / max(entry['tokens'], 1):.0%}", "left out": f"{sum(entry['skipped'].values()):,}",
        }
        for name, entry in opened.manifest["sources"].items()
    ]  # fmt: skip
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    console.print(table(rows))
    print(
        f"{facts['tokens']:,} tokens in {facts['rows']:,} rows of {length}, {facts['fill']:.1%} full; all files are whole"
    )
    read, tokenizer = opened.read(document), Tokenizer.from_file(opened.folder / "tokenizer.json")
    shown, says = Text(f"document {document}: "), [*read.learnt.tolist(), None]
    began = 0
    for at in range(1, len(says)):
        if says[at] != says[began]:
            piece = tokenizer.decode(read.ids[began:at].tolist(), skip_special=False)
            shown.append(piece, "bold" if says[began] else "dim")
            began = at
    console.print(shown)


@data_app.command("examples")
@reporting
def data_examples(
    out: Annotated[str, typer.Argument(help="The folder to write; it must not exist.")],
    tokenizer: Annotated[str, typer.Option(help="A model whose tokenizer and chat template are used.")] = "default",
    length: Annotated[int, typer.Option(help="Most tokens of an example.")] = 512,
    scale: Annotated[float, typer.Option(help="Of the number of examples; 0.01 shows what they are like.")] = 1.0,
    seed: Seed = 0,
    answers: Annotated[
        list[str] | None, typer.Option(help="A file that `data regenerate` has written: the model's own answers.")
    ] = None,
) -> None:
    """Build what an adaptation learns, texts and edits: see README.md in the folder for mixture, counts and licences.

    Texts come from the folder that MEZZOTINT_DATA names; what shares 13 words with an evaluation, there or in the folder that
    MEZZOTINT_EVALDATA names, stays out.
    """
    from rich.console import Console

    import mezzotint as mz
    from mezzotint.recipes.mixture import build

    files = [Path(name) for name in answers or []]
    if missing := [str(path) for path in files if not path.is_file()]:
        raise BadInput(f"there is no file {missing[0]!r}")
    with Console(stderr=True, highlight=False).status("evaluations") as status:
        manifest = build(out, mz.load(tokenizer).tokenizer, length, seed, scale, files, status.update)
    totals = {key: sum(entry[key] for entry in manifest["sources"].values()) for key in ("examples", "edits", "tokens")}
    print(", ".join(f"{count:,} {key}" for key, count in totals.items()), file=sys.stderr)
    print(out)


@data_app.command("questions")
@reporting
def data_questions(
    out: Annotated[str, typer.Argument(help="The JSON-lines file to write.")],
    count: Annotated[int, typer.Option(help="How many are asked; repeated and unfinished ones are left out.")] = 500,
    model: ModelName = "default",
    max_tokens: Annotated[int, typer.Option(help="Longest question.")] = 96,
    temperature: Temperature = 1.0,
    batch: Annotated[int, typer.Option(help="Questions that are asked in one batch.")] = 48,
    seed: Seed = 0,
) -> None:
    """Have a chat model ask itself, for `data regenerate` to answer: text of any subject in its own words."""
    from rich.console import Console

    from mezzotint.recipes.questions import questions, write_questions

    if Path(out).exists():
        raise BadInput(f"{out} exists; give another file")
    engine, _ = load_engine(model)
    with Console(stderr=True, highlight=False).status("") as status:
        asked = questions(
            engine, count, max_tokens, temperature, seed, batch, lambda done, all: status.update(f"{done:,} of {all:,}")
        )
    write_questions(out, asked)
    print(f"{len(asked)} questions", file=sys.stderr)
    print(out)


@data_app.command("regenerate")
@reporting
def data_regenerate(
    out: Annotated[str, typer.Argument(help="The JSON-lines file to write.")],
    files: Annotated[list[str], typer.Argument(help="What to answer again, named as in `data build`.")],
    model: ModelName = "default",
    decode: Annotated[str, typer.Option(help="ar, verified or diffusion.")] = "ar",
    max_tokens: Annotated[int, typer.Option(help="Longest answer; those that do not end in it are left out.")] = 256,
    temperature: Temperature = 0.7,
    cut: Annotated[bool, typer.Option("--cut", help="Keep answers that do not end, marked as cut.")] = False,
    workers: Annotated[int, typer.Option(help="Copies of the model; more than one on Ray (RAY_ADDRESS).")] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs of each copy.")] = 0,
    batch: Annotated[int, typer.Option(help="Questions that are answered in one batch.")] = 16,
    most: Annotated[int | None, typer.Option(help="Ask no more than so many, drawn from all.")] = None,
) -> None:
    """Have a model answer the questions of chat rows again, to be adapted on its own words (self-distillation).

    Interrupted and begun again with the same file it goes on where it was.
    """
    from rich.console import Console

    from mezzotint.train.regenerate import regenerate

    with Console(stderr=True, highlight=False).status("") as status:
        asked, kept = regenerate(
            out, files, model, workers, gpus, batch, most, lambda done, all: status.update(f"{done:,} of {all:,} questions"),
            max_tokens=max_tokens, temperature=temperature, decode=decode, cut=cut,
        )  # fmt: skip
    print(f"{asked} questions, {kept} answers kept", file=sys.stderr)
    print(out)


@data_app.command("translation")
@reporting
def data_translation(
    out: Annotated[str, typer.Argument(help="The JSON-lines file to write.")],
    prefixes: Annotated[float, typer.Option(help="The share of pairs that are learnt as a prefix, too.")] = 0.5,
    seed: Seed = 0,
) -> None:
    """Rows that teach live translation, English to French, for `finetune`: those of the training folder's parallel text whose
    source files `benchmarks/live_translate.py` does not measure on."""
    from mezzotint.live.pairs import write_rows

    print(f"{write_rows(out, prefixes, seed)} rows", file=sys.stderr)
    print(out)

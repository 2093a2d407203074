"""Text that keeps arriving: an editor's with `lsp`, a source's with `translate`, speech with `transcribe`."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from mezzotint.commands.loading import load_engine
from mezzotint.commands.shared import (
    FAILED,
    AdapterFolder,
    BadInput,
    Compute,
    Cores,
    ModelName,
    argument_text,
    print_note,
    reporting,
    utf8_text,
)


@reporting
def lsp(
    model: ModelName = "default",
    adapter: AdapterFolder = None,
    compute: Compute = "auto",
    threads: Cores = None,
    tcp: Annotated[
        str | None, typer.Option(help="PORT or HOST:PORT to listen at, instead of standard input and output.")
    ] = None,
    presets: Annotated[str | None, typer.Option(help="A TOML file with presets of your own.")] = None,
    menu: Annotated[
        bool, typer.Option("--menu", help="Offer completions in menus too, for editors that show no grey text.")
    ] = False,
) -> None:
    """Serve an editor by the Language Server Protocol: completion at the cursor, edits of a selection, doubt."""
    import importlib.util

    if importlib.util.find_spec("pygls") is None:
        raise BadInput("the language server needs pygls; install it with pip install 'mezzotint[lsp]'")
    from mezzotint.live.lsp import serve as run

    if not run(lambda: load_engine(model, adapter, compute, threads)[0], tcp, presets, menu):
        raise typer.Exit(FAILED)  # as the protocol has it: the editor left without a shutdown


@reporting
def translate(
    text: Annotated[str, typer.Argument(help="The text, line by line; - reads standard input.")] = "-",
    live: Annotated[bool, typer.Option("--live", help="Each line of standard input is the source so far.")] = False,
    words: Annotated[bool, typer.Option("--words", help="With --live: a line adds words to the source.")] = False,
    newest: Annotated[
        bool, typer.Option("--newest", help="With --live: pass over lines that newer ones overtook.")
    ] = False,
    source: Annotated[str, typer.Option("--from", help="Its language.")] = "English",
    target: Annotated[str, typer.Option("--to", help="The language wanted.")] = "French",
    rule: Annotated[str, typer.Option(help="What commits a word: agreement, stability or probability.")] = "agreement",
    updates: Annotated[int, typer.Option("--n", help="Drafts that must agree, or updates without a change.")] = 2,
    threshold: Annotated[float, typer.Option(help="Probability that commits a word.")] = 0.9,
    hold: Annotated[int, typer.Option(help="Words at the end of a draft that stay hidden.")] = 0,
    max_erasure: Annotated[
        float | None, typer.Option(help="Most shown text that is ever taken back, as a share of the final text.")
    ] = None,
    max_replaced: Annotated[int | None, typer.Option(help="Most characters taken back in an update.")] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(min=1, help="Milliseconds an update may take, the last excepted.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="A JSON line for every update.")] = False,
    model: ModelName = "default",
    adapter: AdapterFolder = None,
    compute: Compute = "auto",
    threads: Cores = None,
) -> None:
    """Translate; with --live while the source arrives: committed text plain, the draft dim. A blank line ends a text."""
    from mezzotint.live import command
    from mezzotint.live.translate import Live

    told = Live(
        source, target, rule, updates, threshold, hold, max_erasure, max_replaced, deadline_ms and deadline_ms / 1000
    )
    if not live and (words or newest):
        raise BadInput(f"{'--words' if words else '--newest'} goes with --live")
    if live and text != "-":
        raise BadInput("--live reads standard input; leave the text out")
    given = "" if live else argument_text(text, "the text")
    engine, _ = load_engine(model, adapter, compute, threads)
    if engine.tokenizer.chat_template is None:
        print_note(f"{engine.checkpoint.name} reads no instructions, so this will hardly be a translation")
    onto = command.screen(json_output)
    if live:
        lines = (utf8_text(line, "standard input") for line in sys.stdin.buffer)
        command.follow(engine, told, lines, words, onto, newest)
    else:
        command.whole(engine, told, given, onto)


@reporting
def transcribe(
    sound: Annotated[str, typer.Argument(help="A WAV file; - reads a WAV from standard input.")],
    live: Annotated[
        bool, typer.Option("--live", help="Show drafts while it is spoken; a file is heard at its own speed.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="No header: int16, little-endian, of --rate and --channels.")
    ] = False,
    rate: Annotated[int, typer.Option(help="With --raw: samples a second.")] = 16_000,
    channels: Annotated[int, typer.Option(help="With --raw: channels.")] = 1,
    repair: Annotated[bool, typer.Option("--repair", help="Have the model repair what was heard.")] = False,
    repair_by: Annotated[str, typer.Option(help="How: readings or denoise.")] = "readings",
    translate_to: Annotated[str | None, typer.Option(help="Translate it to this language.")] = None,
    source: Annotated[str, typer.Option("--from", help="The language spoken, for the translation.")] = "English",
    form: Annotated[str, typer.Option("--format", help="text, json (a line a caption), srt or vtt.")] = "text",
    transcriber: Annotated[
        str, typer.Option(help="pocketsphinx (English), or a plug-in: its name, or package.module:name.")
    ] = "pocketsphinx",
    model: ModelName = "default",
    adapter: AdapterFolder = None,
    compute: Compute = "auto",
    threads: Cores = None,
) -> None:
    """What is said in a recording or at a microphone, as text, captions or subtitles; translated too, if you want."""
    from mezzotint.live import listen
    from mezzotint.live.mend import WAYS, mender
    from mezzotint.live.sound import Form, pcm
    from mezzotint.live.transcribe import Captioner, maker
    from mezzotint.live.translate import Live, Writer

    onto = listen.screen(form, live)
    shape = Form(rate, channels) if raw else None
    if not raw and (rate, channels) != (16_000, 1):
        raise BadInput("--rate and --channels go with --raw; a WAV says its own")
    if repair_by not in WAYS:
        raise BadInput(f"--repair-by is {repair_by!r}; allowed: {', '.join(WAYS)}")
    told = None if translate_to is None else Live(source, translate_to)
    hears = maker(transcriber)()
    mend = writer = None
    with contextlib.ExitStack() as held:
        stream = sys.stdin.buffer if sound == "-" else held.enter_context(open(sound, "rb"))
        chunks = pcm(stream, "standard input" if sound == "-" else sound, shape)
        if repair or told is not None:
            engine, _ = load_engine(model, adapter, compute, threads)
            mend = mender(engine, repair_by) if repair else None
            writer = Writer(engine) if told is not None else None
        if live and sound != "-":
            chunks = listen.paced(chunks)
        if not listen.listen(hears, Captioner(mend, writer, told), chunks, onto, live):
            print_note("no speech was heard")

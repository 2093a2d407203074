"""Answers to prompts: one with `generate`, turns with `chat`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mezzotint.checkpoints.names import is_remote
from mezzotint.commands.loading import (
    decoding_of,
    hidden_ids,
    load_engine,
    peak_bytes,
    raw_if_untaught,
    summary_line,
    warn_untrained,
)
from mezzotint.commands.shared import (
    AdapterFolder,
    AnyModel,
    BadInput,
    Compute,
    Cores,
    Json,
    Policy,
    Quality,
    Raw,
    Seed,
    ShowSummary,
    Temperature,
    TraceFile,
    argument_text,
    print_note,
    read_text,
    reporting,
    sentence,
    utf8_text,
)

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from mezzotint.constraint.formats import Format
    from mezzotint.engine.conversation import Conversation
    from mezzotint.engine.engine import Engine
    from mezzotint.engine.remote import Remote
    from mezzotint.engine.request import Request
    from mezzotint.sampler.trace import Trace

TWICE = 2.0  # seconds in which a second Ctrl-C ends a chat


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
            help="Drafts of verified: auto, fixed-point, random, text, lookup, or the own canvas: self, self-last, self-two-call."
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
        policy=decoding_of(decode, policy, quality), locks=dict(map(_lock, lock or [])), blocks_in_flight=blocks_in_flight,
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
        engine, load_seconds = load_engine(model, adapter, compute, threads, mesh)
        request = raw_if_untaught(request, engine)
        if explain or chooses:
            request = _planned(engine, request, chooses, explain)
        if engine.checkpoint.facts.whole and policy is quality is None:
            request = replace(request, policy="ancestral")  # the surest canvas of a class would always be the same
        if request.decode == "diffusion":
            warn_untrained(engine)
        answer = _run(engine, request, quiet=json_output)
    if not first:
        return
    trace, seconds = answer.trace, answer.seconds
    if trace_file:
        trace.save(trace_file)
    line = summary_line(trace, seconds, load_seconds)
    if json_output:
        print(json.dumps({
            "text": answer.text, "finish_reason": answer.reason, "tokens": trace.num_tokens, "calls": trace.num_calls,
            "tokens_per_call": trace.tokens_per_call, "positions": trace.num_positions, "seconds": seconds,
            "load_seconds": load_seconds, "peak_bytes": peak_bytes(), "seed": seed, "decode": decode,
        }, ensure_ascii=False))  # fmt: skip
    if show_summary:
        print(line, file=sys.stderr)


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
        painter = Painter(Console(highlight=False), decode, mask_id, hidden_ids(engine.checkpoint)).__enter__()
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
        policy=decoding_of(decode or "verified", policy, quality),
    )  # fmt: skip
    if is_remote(model):
        from mezzotint import remote_command

        more = {"decode": decode, "quality": quality, "policy": policy}
        remote = remote_command.opened(model, {"--adapter": adapter}, more, shows=sys.stdout.isatty())
        talk = Conversation(remote, replace(settings, decode="verified", policy="threshold"), system)
    else:
        engine, _ = load_engine(model, adapter)
        if engine.tokenizer.chat_template is None:
            raise BadInput(
                f"{engine.checkpoint.name} has no chat template to chat by; mezzotint generate continues text"
            )
        if decode == "diffusion":
            warn_untrained(engine)
        talk = Conversation(engine, settings, system)
    stopped = float("-inf")
    while True:
        try:
            line = _next_line()
            if line is None or line.strip() == "/exit":
                return
            if line.strip() == "/reset":
                talk.reset()
                print_note("the turns are forgotten")
            elif line.strip():
                _turn(talk, line.strip())
        except KeyboardInterrupt:
            now = time.monotonic()
            if now - stopped < TWICE:
                raise
            stopped = now
            print_note("stopped; Ctrl-C again ends the chat")


def _next_line() -> str | None:
    """The next line typed or piped, None at the end."""
    if not sys.stdin.isatty():
        data = sys.stdin.buffer.readline()
        return utf8_text(data, "the line") if data else None
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
            print_note(
                f"the context is full; {dropped} of the oldest turns {'was' if dropped == 1 else 'were'} dropped"
            )
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
        print(f"mezzotint: {sentence(error)}", file=sys.stderr)  # at a prompt, the next message may be better

"""Decoding step by step: as it happens with `watch`, from a saved trace with `replay`."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer

from mezzotint.commands.loading import (
    decoding_of,
    hidden_ids,
    load_engine,
    raw_if_untaught,
    summary_line,
    warn_untrained,
)
from mezzotint.commands.shared import (
    AdapterFolder,
    BadInput,
    Json,
    ModelName,
    Quality,
    Raw,
    Seed,
    Temperature,
    argument_text,
    reporting,
)

Decode = Annotated[str, typer.Option(help="ar, verified (the same text, drafts checked) or diffusion.")]


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
            draft_length=draft_length, policy=decoding_of(decode, name, quality),
        )
        for name in names
    ]  # fmt: skip
    engine, load_seconds = load_engine(model, adapter)
    if decode == "diffusion":
        warn_untrained(engine)
    strips, mask_id, hidden = {}, engine.checkpoint.facts.mask_id, hidden_ids(engine.checkpoint)
    for name, request in zip(names, requests, strict=True):
        began = time.perf_counter()
        trace = engine.generate(raw_if_untaught(request, engine))[0].trace
        seconds = time.perf_counter() - began
        strips[str(name)] = strip(trace, engine.tokenizer.decode, mask_id, hidden), short_summary(trace)
    if len(names) > 1:
        show_strips(console, strips)
        return
    for line in strips[str(names[0])][0]:
        console.print(line)
    print(summary_line(trace, seconds, load_seconds), file=sys.stderr)


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
    ids, hidden, mask_id = trace.replay(), hidden_ids(checkpoint), checkpoint.facts.mask_id
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

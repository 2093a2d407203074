"""From the options of a verb to an engine and what a request asks of it; with notes of what will disappoint."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mezzotint.commands.shared import BadInput, print_note

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from mezzotint.checkpoints.load import Checkpoint
    from mezzotint.engine.engine import Engine
    from mezzotint.engine.request import Request
    from mezzotint.sampler.decoding import Decoding
    from mezzotint.sampler.trace import Trace


def load_engine(
    model: str, adapter: str | None = None, compute: str = "float32", threads: int | None = None,
    mesh: DeviceMesh | None = None,
) -> tuple[Engine, float]:  # fmt: skip
    """-> the engine, and the seconds that loading it took, imports included."""
    began = time.perf_counter()
    import mezzotint as mz
    from mezzotint.engine.engine import Engine

    engine = Engine(mz.load(model, adapter), threads=threads, compute=compute, mesh=mesh)
    return engine, time.perf_counter() - began


def hidden_ids(checkpoint: Checkpoint) -> frozenset[int]:
    """Tokens that end a text and are not shown."""
    return frozenset(checkpoint.tokenizer.eos_ids)


def decoding_of(decode: str, policy: str | None, quality: str | None) -> str | Decoding:
    """What --policy and --quality ask for; a note where the decoder takes no notice of them."""
    from mezzotint.sampler.quality import QUALITY

    if quality is not None and quality not in QUALITY:
        raise BadInput(f"unknown quality {quality!r}; known: {', '.join(QUALITY)}")
    if decode in ("ar", "verified") and (quality or policy):
        given = " and ".join(name for name, value in (("--policy", policy), ("--quality", quality)) if value)
        print_note(f"{given} changes diffusion only; {decode} gives the model's own left-to-right text")
    if policy is None:
        return QUALITY[quality]() if quality else "threshold"
    return policy


def raw_if_untaught(request: Request, engine: Engine) -> Request:
    """A model without a chat template continues the text itself: there is nothing else it could do with a prompt."""
    return request if engine.tokenizer.chat_template is not None else replace(request, raw=True)


def warn_untrained(engine: Engine, instead: str = "diffusion gives broken text, verified does not") -> None:
    """A note where the canvas of a model has learnt nothing, or little."""
    if not engine.checkpoint.facts.trained_canvas:
        print_note(f"{engine.checkpoint.name} has not learnt to denoise; {instead}")
    elif engine.checkpoint.name == "default":
        print_note("the canvas of default has learnt little (half a million positions): verified writes better text")


def peak_bytes() -> int:
    """The most memory that this process has held."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes elsewhere


def summary_line(trace: Trace, seconds: float, load_seconds: float) -> str:
    """What --summary says of a request that was answered."""
    from mezzotint.render import summary

    return summary(trace, seconds, load_seconds, peak_bytes())

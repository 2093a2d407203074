"""Mezzotint: text diffusion. Generate, edit and watch text resolve out of noise.

Names load when they are first used, so that `import mezzotint` and the command line start without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Absorbing": "noise", "Canvas": "sampler.canvas", "Checkpoint": "checkpoints.load", "Decoding": "sampler.decoding",
    "Denoiser": "model.denoiser", "Draft": "sampler.canvas", "Draws": "draws", "Edit": "edit.hunks",
    "Engine": "engine.engine", "Hybrid": "noise", "Infilled": "edit.infill", "JsonSchema": "constraint.formats",
    "NoiseProcess": "noise", "Regex": "constraint.formats", "Reply": "engine.request",
    "Request": "engine.request", "Sampler": "sampler.loop", "Schedule": "noise",
    "Scheduler": "engine.scheduler", "Text": "engine.request",
    "ToolCall": "constraint.formats",
    "Trace": "sampler.trace", "Uniform": "noise", "infill": "edit.infill", "load": "checkpoints.load",
    "repair": "edit.repair", "resolve": "edit.editor",
    "revise": "edit.editor", "rewrite": "edit.editor",
}  # fmt: skip

__all__ = [  # the checker cannot read sorted(_HOME); a test holds the two equal
    "Absorbing", "Canvas", "Checkpoint", "Decoding", "Denoiser", "Draft", "Draws", "Edit", "Engine", "Hybrid",
    "Infilled", "JsonSchema", "NoiseProcess", "Regex", "Reply", "Request", "Sampler", "Schedule", "Scheduler", "Text", "ToolCall",
    "Trace", "Uniform", "infill", "load", "repair", "resolve", "revise", "rewrite",
]  # fmt: skip

if TYPE_CHECKING:
    from mezzotint.checkpoints.load import Checkpoint, load
    from mezzotint.constraint.formats import JsonSchema, Regex, ToolCall
    from mezzotint.draws import Draws
    from mezzotint.edit.editor import resolve, revise, rewrite
    from mezzotint.edit.hunks import Edit
    from mezzotint.edit.infill import Infilled, infill
    from mezzotint.edit.repair import repair
    from mezzotint.engine.engine import Engine
    from mezzotint.engine.request import Reply, Request, Text
    from mezzotint.engine.scheduler import Scheduler
    from mezzotint.model.denoiser import Denoiser
    from mezzotint.noise import Absorbing, Hybrid, NoiseProcess, Schedule, Uniform
    from mezzotint.sampler.canvas import Canvas, Draft
    from mezzotint.sampler.decoding import Decoding
    from mezzotint.sampler.loop import Sampler
    from mezzotint.sampler.trace import Trace


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mezzotint' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mezzotint.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

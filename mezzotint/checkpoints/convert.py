"""Convert: a checkpoint in another layout.

    folder   ours: its family's Hugging Face layout, our facts in config.json, the adapter beside the weights
    stock    its AR twin: what transformers, vLLM and all others read, with nothing of ours in it
    gguf     the AR twin of a Llama as one file, for llama.cpp and everything built on it

The twin is what the clean, causal pass computes: canvas rows, role vectors and adapters that act on canvases alone are left
out, because no clean text meets them; an adapter that acts everywhere is merged into the weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from mezzotint.checkpoints import gguf_out
from mezzotint.checkpoints.load import Checkpoint, Facts
from mezzotint.checkpoints.weights import Slot
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser

LAYOUTS = ("folder", "stock", "gguf")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def convert(checkpoint: Checkpoint, out: str | Path, layout: str | None = None, dtype: str | None = None) -> list[str]:
    """Write `checkpoint` at `out`; -> what was left out, in sentences. The result is whole or absent.

    layout: of `LAYOUTS`; without it gguf where `out` ends in .gguf, else folder. dtype: float32, float16, bfloat16, for gguf
    also q8_0 and q4_1; without it as the weights are stored, which loses nothing. Raises ValueError for what cannot be,
    FileExistsError where something is, OSError.
    """
    out = Path(out)
    layout = layout or ("gguf" if out.suffix.lower() == ".gguf" else "folder")
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; allowed: {', '.join(LAYOUTS)}")
    allowed = (*DTYPES, *gguf_out.QUANTISED) if layout == "gguf" else tuple(DTYPES)
    dtype = dtype or stored_dtype(checkpoint)
    if dtype not in allowed:
        raise ValueError(f"dtype is {dtype!r}; allowed for {layout}: {', '.join(allowed)}")
    if layout == "folder":
        checkpoint.save(out, DTYPES[dtype])
        return []
    twin, left = ar_twin(checkpoint)
    if layout == "gguf":
        gguf_out.write(twin, out, dtype)
    else:
        twin.save(out, DTYPES[dtype], ours=False)
    return left


def stored_dtype(checkpoint: Checkpoint) -> str:
    """The narrowest of `DTYPES` that holds every weight as it is stored: float32 where they differ, or are quantised."""
    slots = checkpoint.stored
    found = {slot.dtype for slot in slots.values()} if isinstance(slots, dict) else {torch.float32}
    whole = found.pop() if len(found) == 1 else torch.float32
    return next((name for name, dtype in DTYPES.items() if dtype == whole), "float32")


def ar_twin(checkpoint: Checkpoint) -> tuple[Checkpoint, list[str]]:
    """The left-to-right model in a checkpoint, and what was left out. Raises ValueError where there is none."""
    facts, family, config = checkpoint.facts, checkpoint.family, checkpoint.config
    if facts.visibility not in ("context-causal", "causal"):
        raise ValueError(
            f"{checkpoint.name} reads with {facts.visibility} visibility, not left to right; it has no AR twin"
        )
    if facts.whole or config.condition is not None:
        raise ValueError(
            f"{checkpoint.name} writes whole canvases or follows a condition; a plain {family.name} does not"
        )
    own = config.variant is not None and config.variant.self_conditioning  # a canvas's part, which a twin would lack
    if family.to_json is None or family.reference != "transformers" or own:
        raise ValueError(
            f"checkpoints of the family {family.name} can be read, but have no stock layout to be written in"
        )
    left = [f"trained canvas ({facts.noise} noise)"] if facts.trained_canvas else []
    plain = replace(config, canvas_role=False)
    stored = checkpoint.stored
    adapter = checkpoint.new_adapter()
    if adapter is not None and adapter.config.gate == "all":
        denoiser = checkpoint.denoiser()
        denoiser.adapter = None
        stored = denoiser.add_pairs(adapter)
    elif adapter is not None:
        left.append("adapter, which acts on canvases alone")
    if config.canvas_role:
        left.append("canvas role vector")
    if isinstance(stored, Denoiser) and (stored.adapter is not None or config.canvas_role):
        stored = _clean(stored, plain)
    if isinstance(stored, dict):
        stored = _only(stored, checkpoint, plain)
    told = Facts(family.name, control=facts.control, control_ids=facts.control_ids, mask_id=facts.mask_id)
    twin = replace(checkpoint, config=plain, facts=told, adapter=None, sha256=None, _file=stored)
    return twin, left


def _only(slots: dict[str, Slot], checkpoint: Checkpoint, plain: ModelConfig) -> dict[str, Slot]:
    """The tensors that the plain network has."""
    names = checkpoint.family.entries(plain)
    return {name: slot for name, slot in slots.items() if name in names}


def _clean(denoiser: Denoiser, plain: ModelConfig) -> Denoiser:
    """A copy of a network in memory without what only canvases meet."""
    other = Denoiser(plain, denoiser.shift, denoiser.reader)
    own = denoiser.slots()
    other.load((name, own[name]) for name in other.slots())
    return other

"""Family: what a group of checkpoints has in common, as data. Configuration keys, a table of tensor names, declared facts.

    ours, Hugging Face's Llama           theirs, in the file
    model.layers.{}.self_attn.q_proj  \\
    model.layers.{}.self_attn.k_proj   > model.layers.{}.attention.query_key_value     one tensor, three parts
    model.layers.{}.self_attn.v_proj  /

A name that a table does not mention is the same on both sides. Several of ours with one of theirs are parts of it, stacked
in the order of the network's slots. So a file is read part by part, straight into place, and written the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.keys import Keys
from mezzotint.checkpoints.shapes import Shape, shapes
from mezzotint.checkpoints.weights import CHUNK, Slot, read_part
from mezzotint.model.adapter import fill
from mezzotint.model.config import ModelConfig
from mezzotint.model.low_bit import Rounded

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
Fold = Callable[[ModelConfig, Iterator[tuple[str, Tensor]]], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: its shape, and ours that it holds, in order. way: rows, transposed or plus_one (stored w, meant
    1 + w)."""

    shape: Shape
    parts: tuple[str, ...]
    way: str = "rows"


@dataclass(frozen=True, eq=False)
class Family:
    """config and facts read config.json; to_json is the inverse of `config`, without facts. names: ours -> theirs, `{}` for
    numbers. transposed, plus_one: patterns of theirs that are stored so; packed: all experts in one tensor. ignored: what a
    file may hold beside (old buffers, a vision tower). prefix: of names that some files leave out. fold: makes our tensors
    from theirs where that takes arithmetic; `shapes_of` then says what a file holds. reference: what it was verified with.
    """

    name: str
    model_types: tuple[str, ...]
    config: Callable[[Keys], ModelConfig]
    facts: Callable[[Keys], dict[str, Any]] = lambda keys: {}
    to_json: Callable[[ModelConfig], dict[str, Any]] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    plus_one: tuple[str, ...] = ()
    packed: tuple[str, ...] = ()
    ignored: str = r".*rotary_emb\.inv_freq"
    prefix: str = ""
    shapes_of: Callable[[ModelConfig], dict[str, Shape]] | None = None
    fold: Fold | None = None
    reference: str = ""

    def entries(self, config: ModelConfig) -> dict[str, Entry]:
        """Name in a file -> what it is, for every tensor that a checkpoint of these sizes must hold."""
        return _entries(self, config)

    def check(self, slots: dict[str, Slot], config: ModelConfig, folder: Path) -> dict[str, Slot]:
        """The slots of the tensors that these sizes need, after checking names, shapes and dtypes.

        A tied head that is stored all the same is left out, and so is what the family ignores. Raises CheckpointError.
        """
        entries, ignored, kept = self.entries(config), re.compile(self.ignored), {}
        expected = {name: entry.shape for name, entry in entries.items()}
        head = self.theirs("lm_head.weight")
        free: dict[str, int] = {}  # what a size of -1 turned out to be
        for stored, slot in slots.items():
            name = stored if stored in expected or not self.prefix else self.prefix + stored
            if name not in expected and (ignored.fullmatch(stored) or (config.tied_head and stored == head)):
                continue

            def fail(what: str, problem: str, slot: Slot = slot, stored: str = stored) -> CheckpointError:
                return CheckpointError(slot.file, f"{what}tensor {stored!r}", problem, slot.declared_at)

            if name not in expected:
                raise fail("", f"a {self.name} checkpoint of these sizes has none")
            wanted = expected[name]
            if len(slot.shape) == len(wanted):
                wanted = tuple(
                    free.setdefault("", n) if size < 0 else size for size, n in zip(wanted, slot.shape, strict=True)
                )
            if slot.shape != wanted:
                raise fail("shape of ", f"{slot.shape}; expected {wanted}")
            if slot.dtype not in FLOATS:
                known = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
                raise fail("dtype of ", f"{slot.dtype}; supported: {known}")
            kept[name] = slot
        if missing := [name for name in expected if name not in kept]:
            raise CheckpointError(folder, f"tensor {missing[0]!r}", f"missing ({len(missing)} tensors are)", 0)
        return kept

    def theirs(self, ours: str) -> str:
        """Our name of a tensor -> the file's."""
        numbers = re.findall(r"(?<=\.)\d+(?=\.)", ours)
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "{}", ours)
        stem, _, last = pattern.rpartition(".")
        for known, tail in ((pattern, ""), (stem, "." + last)):
            if known in self.names:
                return self.names[known].format(*numbers) + tail
        return ours

    def weights(self, slots: dict[str, Slot], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        """(our name, tensor in its stored dtype), one part in memory at a time. Raises CheckpointError."""
        if self.fold is not None:
            return self.fold(config, ((name, _whole(slot)) for name, slot in slots.items()))
        return self._parts(slots, config)

    def _parts(self, slots: dict[str, Slot], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        ours = shapes(config)
        for name, slot in slots.items():
            entry, first = self.entries(config)[name], 0
            if entry.way == "transposed":
                rows = [ours[part][0] for part in entry.parts]
                yield from zip(entry.parts, torch.split(_whole(slot).T, rows), strict=True)
                continue
            for part in entry.parts:
                tensor = torch.empty(ours[part], dtype=slot.dtype)
                read_part(slot, first, tensor)
                # float64: 1 + w in bfloat16 would lose most of w
                yield part, tensor.double() + 1 if entry.way == "plus_one" else tensor
                first += prod(ours[part])

    def fill(self, target: Mapping[str, Tensor | Rounded], slots: dict[str, Slot], config: ModelConfig) -> None:
        """Read every tensor straight into the network's places: at no time is another copy of one in memory.

        Raises CheckpointError, also where a number is not finite and rounding is asked for.
        """
        if self.fold is not None or self.transposed:  # these take arithmetic
            fill(target, self.weights(slots, config))
            return
        for name, slot in slots.items():
            entry, first = self.entries(config)[name], 0
            for part in entry.parts:
                place = target[part]
                if isinstance(place, Rounded):
                    try:
                        _round_into(slot, first, place)
                    except CheckpointError:
                        raise
                    except ValueError as error:
                        raise CheckpointError(slot.file, f"tensor {name!r}", str(error), slot.declared_at) from None
                else:
                    read_part(slot, first, place)
                    if entry.way == "plus_one":
                        place.add_(1)
                first += prod(place.shape)

    def stored(self, config: ModelConfig, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Our tensors -> theirs, as soon as all parts of one are there: what `convert` writes."""
        entries = self.entries(config)
        home = {part: name for name, entry in entries.items() for part in entry.parts}
        waiting: dict[str, dict[str, Tensor]] = {}
        for part, tensor in weights:
            name = home[part]
            entry, found = entries[name], waiting.setdefault(name, {})
            found[part] = tensor.detach()
            if len(found) < len(entry.parts):
                continue
            del waiting[name]
            whole = torch.cat([found[p] for p in entry.parts])
            whole = whole.T if entry.way == "transposed" else whole - 1 if entry.way == "plus_one" else whole
            yield name, whole.reshape(entry.shape)


@lru_cache(maxsize=8)
def _entries(family: Family, config: ModelConfig) -> dict[str, Entry]:
    ours = shapes(config)
    if family.shapes_of is not None:
        return {name: Entry(shape, ()) for name, shape in family.shapes_of(config).items()}
    groups: dict[str, list[str]] = {}
    for part in ours:
        groups.setdefault(family.theirs(part), []).append(part)
    entries = {}
    for name, parts in groups.items():
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "{}", name)
        rest = ours[parts[0]][1:]
        shape = (sum(ours[part][0] for part in parts), *rest)
        if pattern in family.packed:
            assert config.variant is not None and config.variant.experts is not None
            count = config.variant.experts.count
            shape = (count, shape[0] // count, *rest)
        way = "transposed" if pattern in family.transposed else "rows"
        way = "plus_one" if any(re.fullmatch(p, pattern) for p in family.plus_one) else way
        entries[name] = Entry(shape[::-1] if way == "transposed" else shape, tuple(parts), way)
    return entries


def _round_into(slot: Slot, first: int, place: Rounded) -> None:
    """Fill a place `[N, K]` from element number `first` of a stored tensor on, some rows at a time."""
    width = prod(place.shape[1:])
    step = max(1, CHUNK // 8 // width)  # rounding takes four copies in float32
    for start in range(0, len(place), step):
        part = place[start : start + step]
        piece = torch.empty(part.shape, dtype=slot.dtype)
        read_part(slot, first + start * width, piece)
        part.copy_(piece)


def _whole(slot: Slot) -> Tensor:
    tensor = torch.empty(slot.shape, dtype=slot.dtype)
    read_part(slot, 0, tensor)
    return tensor

"""Ranks: one scheduler, and a network split over several processes (`model/parallel.py`) that all make its passes.

    rank 0       scheduler -> Leading.run:  segments made, copied, gone; the pass   ->  its part of the pass
    other ranks  follow:                    the same segments, each its own heads   ->  their parts of the pass

What is to be read and written, and when, is decided by rank 0 alone, so no clock and no queue can part them. A pass costs a
broadcast of some kilobytes more than on one process.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mezzotint.model.condition import Condition
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.lanes import Lane, Part, Ragged, Said, Segment
from mezzotint.model.visibility import Places

Shown = list[tuple[int, int]]  # numbers of segments, and how many positions of each are read


class Made(NamedTuple):
    number: int
    capacity: int


class Copied(NamedTuple):
    source: int
    target: int
    length: int


class Gone(NamedTuple):
    number: int


class Told(NamedTuple):
    """A `Part` without its lane, whose segments are named by number."""

    shared: Shown
    own: int
    kept: int
    condition: Condition | None
    tokens: Tensor
    places: Places
    hidden: Tensor | None
    want: Tensor
    feedback: Tensor | None


Order = Made | Copied | Gone


class Numbered(Segment):
    """One that the other ranks have too."""

    number: int
    orders: list[Order]

    def copy(self, source: Segment, count: int) -> None:
        super().copy(source, count)
        assert isinstance(source, Numbered)
        self.orders.append(Copied(source.number, self.number, count))


class Leading:
    """The network as rank 0's scheduler has it (`lanes.Network`). A pass that not all ranks can make ends the process."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self._orders: list[Order] = []
        self._made = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "denoiser":  # copying asks an object that has no network yet
            raise AttributeError(name)
        return getattr(self.denoiser, name)

    def __call__(self, *_: Any, **more: Any) -> Any:
        raise ValueError("states of a text alone are not there with a network that is split over ranks")

    def segment(self, capacity: int) -> Segment:
        weight, self._made = self.denoiser.embedding.weight, self._made + 1
        with torch.inference_mode(False):  # what is made there can be written there alone
            made = Numbered(self.denoiser.held, capacity, weight.dtype, weight.device)
        made.number, made.orders = self._made, self._orders
        self._orders.append(Made(made.number, capacity))
        weakref.finalize(made, self._orders.append, Gone(made.number))
        return made

    def run(self, batch: Ragged) -> Said:
        orders, self._orders[:] = list(self._orders), []
        try:
            with torch.inference_mode(False), torch.no_grad():  # in inference mode a DTensor is a hundred times slower
                dist.broadcast_object_list([orders, [_told(part) for part in batch.parts]], src=0)
                return self.denoiser.run(batch)
        except RuntimeError:
            os._exit(1)  # a rank is gone, or does not know what it should


def _told(part: Part) -> Told:
    lane = part.lane
    path = [(_number(segment), count) for segment, count in lane.shared]
    assert lane.own is not None, "a pass without room"
    return Told(path, _number(lane.own), lane.kept, lane.condition, *part[1:])


def _number(segment: Segment) -> int:
    assert isinstance(segment, Numbered)
    return segment.number


@torch.no_grad()
def follow(denoiser: Denoiser) -> None:
    """Make every pass that rank 0 makes, until it is gone. Raises RuntimeError then."""
    held: dict[int, Segment] = {}
    while True:
        box: list[Any] = [None, None]
        dist.broadcast_object_list(box, src=0)
        orders, parts = box
        for order in orders:
            if isinstance(order, Made):
                held[order.number] = denoiser.segment(order.capacity)
            elif isinstance(order, Copied):
                held[order.target].copy(held[order.source], order.length)
            else:
                del held[order.number]
        try:
            denoiser.run(Ragged([_part(told, held) for told in parts]))
        except ValueError:  # rank 0 has been refused just so, and says so
            continue


def _part(told: Told, held: dict[int, Segment]) -> Part:
    lane = Lane(told.condition)
    lane.shared = [(held[number], count) for number, count in told.shared]
    lane.own, lane.kept = held[told.own], told.kept
    return Part(lane, *told[4:])

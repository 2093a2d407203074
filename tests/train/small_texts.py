"""Little random texts, and what of a batch is canvas: for the tests of canvases and of their loss."""

import torch

from mezzotint.model.visibility import CANVAS
from mezzotint.train.canvases import Example, Ids

V, MASK, END = 60, 0, 3
CONTROL = {"MASK": 0, "DELETE": 1, "INSERT": 2, "EXPAND": 4}


def ids(shift=0):
    return Ids(MASK, END, torch.arange(5, V), CONTROL, shift)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def texts(count=12, seed=0, low=8, high=40, context=0, **how):
    g = generator(seed)
    lengths = torch.randint(low, high, (count,), generator=g).tolist()

    def draw(n):
        return torch.randint(5, V, (n,), generator=g).tolist()

    return [Example(draw(context), draw(n), **how) for n in lengths]


def split(batch):
    width = int((batch.places.role[0] == CANVAS).sum())
    return width, batch.places.valid[:, :width], batch.places.start[:, :width]

"""FastDenoiser: a Denoiser whose products run in ONNX Runtime, with packed weights and int8 activations.

    tokens -> embedding, roles (torch) -> all blocks (one call of the runtime) -> norm (torch) -> head (another) -> logits

- The low-rank pairs of an adapter are added to the rows that its gate opens to, none in a clean pass: a merged copy would
  have to be rounded to 8 bits, and products of 8 bits cost about twice those of 4 on processors without VNNI.
- An activation is quantised with its own neighbours in a row only, 32 at a time: rows of a batch do not affect each other.
- Keys and values stay float32.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from mezzotint.model.adapter import Adapter
from mezzotint.model.cache import KVCache, Recorded
from mezzotint.model.condition import Conditioner, Conditions
from mezzotint.model.denoiser import Denoiser, Prediction
from mezzotint.model.layers import rotary_tables
from mezzotint.model.visibility import CANVAS, CLEAN, Places, Visibility
from mezzotint.runtime import graph
from mezzotint.runtime.cache import PagedCache
from mezzotint.runtime.packed import Packed
from mezzotint.runtime.weights import Parts
from mezzotint.shapes import Logits, Tokens

if TYPE_CHECKING:
    import onnxruntime

KINDS = {torch.float32: np.float32, torch.int64: np.int64, torch.int32: np.int32, torch.bool: np.bool_}
CHUNK = 128  # positions of one pass: wider ones are no faster a position, and attend to more that they may not see


def session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """Loads by way of a file that is gone afterwards: of weights given in memory the runtime keeps a second copy.

    Where no file can be written, it has to.
    `model` loses its weights by it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # between two calls torch works on the same cores: threads that wait by spinning would be in its way
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        folder = tempfile.TemporaryDirectory(prefix="mezzotint-", ignore_cleanup_errors=True)
    except FileNotFoundError:  # nowhere may be written
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with folder as name:
        path = os.path.join(name, "graph.onnx")
        onnx.save_model(model, path, save_as_external_data=True, location="weights", size_threshold=1024)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def give_back() -> None:
    """Return to the system what loading alone has used: freed memory, which glibc keeps, and the libraries' code.

    Of a library's code a few hundred MB are mapped around what an import has run; pages that are run again are mapped again.
    """
    gc.collect()
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    try:
        regions = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not every sandbox shows it
        return
    for start, end in code_regions(regions):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def code_regions(smaps: str) -> list[tuple[int, int]]:
    """Where files lie in memory as code that nobody has written to: what is dropped there is read from the file again."""
    found = []
    for region in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps):
        head, *rows = region.splitlines() or [""]
        place = re.match(r"([0-9a-f]+)-([0-9a-f]+) r-xp [0-9a-f]+ \S+ [1-9]\d* +/", head)
        sizes = dict(row.split(":", 1) for row in rows if ":" in row)
        if place and all(sizes.get(name, "").split() == ["0", "kB"] for name in ("Private_Dirty", "Anonymous", "Swap")):
            found.append((int(place[1], 16), int(place[2], 16)))
    return found


class _Call:
    """One graph with its inputs and outputs bound to torch tensors, none of them copied."""

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        self.session = session(model, threads)
        self.binding = self.session.io_binding()
        self.cache: tuple[int, ...] = ()  # whose keys and values are bound
        self.bound = ""  # what inputs that were bound to stay
        self.held: list[Tensor] = []

    def hold(self, tables: Mapping[str, graph.Array]) -> None:
        """Give tables for good."""
        for name, array in tables.items():
            self.held.append(torch.from_numpy(np.ascontiguousarray(array)))
            self.give(name, self.held[-1])

    def give(self, name: str, tensor: Tensor) -> None:
        self.binding.bind_input(name, "cpu", 0, KINDS[tensor.dtype], list(tensor.shape), tensor.data_ptr())

    def attend(self, cache: PagedCache) -> None:
        """Bind the cache's buffers, which the graph reads and writes, unless they are bound."""
        if (here := (cache.keys.data_ptr(), cache.values.data_ptr(), *cache.keys.shape)) == self.cache:
            return
        for layer in range(cache.keys.shape[0]):
            for kind, buffer in (("keys", cache.keys[layer]), ("values", cache.values[layer])):
                self.give(f"{kind}{layer}", buffer)
                self._leave(f"kept_{kind}{layer}", buffer)
        self.cache = here

    def _leave(self, name: str, tensor: Tensor) -> None:
        self.binding.bind_output(name, "cpu", 0, np.float32, list(tensor.shape), tensor.data_ptr())

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = torch.empty(shape)
        self._leave(name, tensor)
        return tensor

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)


class PackedEmbedding(nn.Module):
    """Rows of a packed table. `weight` holds no numbers: it tells others the dtype and device of what comes out."""

    def __init__(self, table: Packed) -> None:
        super().__init__()
        self.table = table
        self.weight = nn.Parameter(torch.empty(0, table.inputs), requires_grad=False)

    def forward(self, tokens: Tokens) -> Tensor:
        ids = tokens.flatten().numpy()
        return self.table.rows(ids).weight().view(*tokens.shape, -1)


class FastDenoiser(Denoiser):
    """The same network for decoding on a CPU. It cannot be trained, adapted, merged or saved."""

    wide_calls_pay = False
    lanes = False  # its graphs attend over caches of their own

    def __init__(
        self, parts: Parts, threads: int | None = None, exact: bool = False, again: Callable[[], Parts] | None = None
    ) -> None:  # fmt: skip
        """threads: of the runtime; None for all cores that this process may use. exact: see `blocks_graph`.

        again: where the parts come from once more, when several texts are first in one pass; without it they are kept.
        """
        nn.Module.__init__(self)
        c = parts.config
        self.config, self.held, self.shift = c, c, parts.shift
        self.threads = threads or available_cores()
        self.embedding = PackedEmbedding(parts.embedding)  # type: ignore[assignment]  # it answers as one does
        self.blocks = nn.ModuleList()
        self.norm = nn.Identity()  # the graph's states are normed
        self.conditioner: Conditioner | None = None
        self._following: Conditions | None = None
        self.reader = self.self_conditioning = None
        self.level = self.norm_level = None
        self.canvas_role = parts.canvas_role
        self.head = None
        self.adapter: Adapter | None = parts.adapter
        self._everywhere = parts.adapter is not None and parts.adapter.config.gate == "all"
        self._paired, self._fused, self._exact = bool(parts.pairs), graph.fused(c), exact
        self._again = again or (lambda: parts)
        self._several: list[_Call] = []  # made when it is needed, and shared by copies of this
        self._blocks = self._call(parts, one=self._fused)
        if not self._fused:
            self._several.append(self._blocks)
        self._one: dict[str, Tensor] = {}  # inputs of a pass over one token
        self._one_state = torch.empty(0)
        self._head = _Call(graph.head_graph(parts.head, exact), self.threads)
        self.requires_grad_(False).eval()

    def _call(self, parts: Parts, one: bool) -> _Call:
        c = parts.config
        cos, sin = (table[:, : c.head_size // 2].contiguous().numpy() for table in rotary_tables(c))
        norms = {name: gain.numpy() for name, gain in parts.norms.items()}
        model = graph.blocks_graph(c, parts.linears, norms, (cos, sin), parts.pairs, self._exact, one)
        call = _Call(model, self.threads)
        call.hold(graph.pair_inputs(parts.pairs))
        return call

    def _for_several(self) -> _Call:
        if not self._several:
            self._several.append(self._call(self._again(), one=False))
            give_back()
        return self._several[0]

    # -- the forward pass ------------------------------------------------------------------------------------------

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        cache = PagedCache(self.config, rows, capacity)
        if self._following is not None:
            assert len(self._following) == rows, f"{len(self._following)} conditions for {rows} rows"
            cache.conditions = tuple(self._following)
        return cache

    def read(self, tokens: Tokens, counts: Tensor, cache: KVCache, every: bool = False) -> Prediction:
        """As `Denoiser.read`; a long text is read in pieces."""
        if tokens.shape == (1, 1) and int(counts[0]) == 1 and self._fused:
            return self._read_one(tokens, cache)
        pieces = []
        for start in range(0, max(tokens.shape[1], 1), CHUNK):
            part = tokens[:, start : start + CHUNK]
            pieces.append(super().read(part, (counts - start).clamp(0, part.shape[1]), cache, every))
        if len(pieces) == 1:
            return pieces[0]
        if every:
            return Prediction(*(torch.cat(field, 1) for field in zip(*pieces, strict=True)))
        last = (counts - 1).clamp(min=0) // CHUNK  # each row's last token was in this piece
        row = torch.arange(len(counts))
        return Prediction(*(torch.stack(field, 1)[row, last] for field in zip(*pieces, strict=True)))

    def _read_one(self, tokens: Tokens, cache: KVCache) -> Prediction:
        """`read` of the next token of one text. AR does nothing else, so what is bound stays bound from call to call."""
        assert isinstance(cache, PagedCache), type(cache).__name__
        at, one, call = int(cache.lengths[0]), self._one, self._blocks
        self._must_reach(at)
        cache.make_room(at + 2)  # what the second asking leaves there is behind the end
        if call.bound != "one":
            one |= {"x": torch.empty(1, 1, self.config.width), "positions": torch.empty(1, 2, dtype=torch.int64)}
            one |= {"last": torch.empty(1, dtype=torch.int32), "total": torch.empty((), dtype=torch.int32)}
            one["asked"] = torch.zeros(2, dtype=torch.int64)
            if self._paired:
                one["rows"] = torch.zeros(int(self._everywhere), 2, dtype=torch.int64)
            for name, tensor in one.items():
                call.give(name, tensor)
            self._one_state = call.take("state", (1, 1, self.config.width))
            call.bound = "one"
        mask = torch.zeros(1, 1, 2, at + 2)
        mask[..., -1] = -torch.inf
        one["x"].copy_(self.embedding(tokens))
        one["positions"].fill_(at)
        one["last"].fill_(at + 1)
        one["total"].fill_(at + 2)
        call.give("mask", mask)
        call.attend(cache)
        call.run()
        hidden = self._one_state.clone()
        logits = self.speak(hidden, torch.full((1, 1), CLEAN))
        cache.keep([1])
        cache.ahead = logits[:, 0]
        return Prediction(logits, torch.full((1, 1), at + 1), hidden)

    def _must_reach(self, position: int) -> None:
        if position >= self.config.max_length:
            raise ValueError(f"position {position} is beyond the model's {self.config.max_length}")

    def states(
        self, tokens: Tokens, places: Places, visible: Visibility, cache: Any = None,
        condition: Conditions | None = None, feedback: Tensor | None = None, level: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        assert level is None, "a network that is told the level runs in float"
        if isinstance(cache, Recorded):
            raise ValueError("int8 kernels do not train: load the checkpoint with compute 'float32'")
        self._must_reach(int(places.position.max()))
        if feedback is not None:
            raise ValueError("this checkpoint declares no feedback; pass feedback=None")
        if cache is None:
            cache = PagedCache(self.config, *tokens.shape)
        assert isinstance(cache, PagedCache), type(cache).__name__
        canvas = places.role != CLEAN
        some = bool(canvas.any())
        x = self.embedding(tokens)
        if self.canvas_role is not None and some:
            x = x + (places.role == CANVAS)[:, :, None] * self.canvas_role
        x, _ = self._told(x, places, condition, cache)
        if self.adapter is not None and some:
            x = self.adapter.embed(x, tokens, places)
        rows, count = tokens.shape
        slots, longest = cache.slots(count), int(cache.lengths.max())
        one = self._fused and rows == 1
        call = self._blocks if one else self._for_several()
        asked = torch.zeros(2, dtype=torch.int64) if one and count == 1 else torch.arange(count)
        cache.make_room(longest + len(asked))
        given = {
            "x": x.contiguous(), "positions": places.position[:, asked].contiguous(),
            "mask": self._additive(places, visible, cache, asked, one),
        }  # fmt: skip
        if one:
            given |= {"asked": asked, "last": torch.tensor([longest + len(asked) - 1], dtype=torch.int32)}
            given["total"] = torch.tensor(longest + len(asked), dtype=torch.int32)
        else:
            given["slots"] = slots
        if self._paired:
            given["rows"] = (canvas | self._everywhere).nonzero().contiguous()
        for name, tensor in given.items():
            call.give(name, tensor)
        call.bound = ""
        call.attend(cache)
        state = call.take("state", (rows, count, self.config.width))
        call.run()
        return state

    def _additive(self, places: Places, visible: Visibility, cache: PagedCache, asked: Tensor, one: bool) -> Tensor:
        """0 where a place sees a slot of the buffer and -inf where not: `[B, 1, W, L]` for `one_text`, else `[B, 1, G T, S]`."""
        seen = (visible.dense(places, cache.places(places)) | ~places.valid[:, :, None])[:, asked]
        width = seen.shape[2] + len(asked) - places.position.shape[1]  # with the slot of a second asking
        mask = torch.full((*seen.shape[:2], width if one else cache.room), -torch.inf)
        mask[:, :, : seen.shape[2]].masked_fill_(seen, 0.0)
        if one:
            return mask[:, None]
        return mask.repeat(1, self.config.num_heads // self.config.num_kv_heads, 1)[:, None].contiguous()

    def speak(self, hidden: Tensor, role: Tensor) -> Logits:
        flat = hidden.reshape(1, -1, hidden.shape[-1]).contiguous()
        if flat.shape[1] == 0:
            return hidden.new_empty(*hidden.shape[:-1], self.config.vocab_size)
        self._head.give("hidden", flat)
        logits = self._head.take("logits", (1, flat.shape[1], self.config.vocab_size))
        self._head.run()
        logits = logits.view(*hidden.shape[:-1], -1)
        return logits if self.adapter is None else self.adapter.speak(logits, hidden, role)

    def encode_feedback(self, logits: Logits) -> Tensor | None:
        return None

    # -- what these weights cannot do ------------------------------------------------------------------------------

    def slots(self) -> dict[str, Tensor]:
        raise ValueError(
            "packed weights are for decoding; load the checkpoint with compute 'float32' to change or save it"
        )

    def adapt(self, config: Any) -> Denoiser:
        raise ValueError("packed weights cannot be adapted; load the checkpoint with compute 'float32'")

    def merged(self) -> Denoiser:
        raise ValueError("packed weights cannot be merged; load the checkpoint with compute 'float32'")


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

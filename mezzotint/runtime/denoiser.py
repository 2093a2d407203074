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
import os
import sys
import tempfile
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

CHUNK = 128  # positions of one pass: wider ones are no faster a position, and attend to more that they may not see


def session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """Loads by way of a file that is gone afterwards: of weights that are given in memory the runtime keeps a second copy.

    `model` loses its weights by it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # between two calls torch works on the same cores: threads that wait by spinning would be in its way
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory(prefix="mezzotint-", ignore_cleanup_errors=True) as folder:
        path = os.path.join(folder, "graph.onnx")
        onnx.save_model(model, path, save_as_external_data=True, location="weights", size_threshold=1024)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def give_back() -> None:
    """Return freed memory to the system: glibc keeps what the weights took while they were packed."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class _Call:
    """One graph with its inputs and outputs bound to torch tensors, none of them copied."""

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        self.session = session(model, threads)
        self.binding = self.session.io_binding()
        self.cache: tuple[int, ...] = ()  # whose keys and values are bound

    def give(self, name: str, tensor: Tensor) -> None:
        kind = np.int64 if tensor.dtype == torch.int64 else np.float32
        self.binding.bind_input(name, "cpu", 0, kind, list(tensor.shape), tensor.data_ptr())

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = torch.empty(shape)
        self.binding.bind_output(name, "cpu", 0, np.float32, list(shape), tensor.data_ptr())
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

    def __init__(self, parts: Parts, threads: int | None = None, exact: bool = False) -> None:
        """threads: of the runtime; None for all cores that this process may use. exact: see `blocks_graph`."""
        nn.Module.__init__(self)
        c = parts.config
        self.config, self.shift = c, parts.shift
        self.threads = threads or available_cores()
        self.embedding = PackedEmbedding(parts.embedding)  # type: ignore[assignment]  # it answers as one does
        self.blocks = nn.ModuleList()
        self.norm = nn.RMSNorm(c.width, eps=c.norm_eps)
        self.norm.weight.data = parts.norms["final"]
        self.conditioner: Conditioner | None = None
        self._following: Conditions | None = None
        self.reader = self.self_conditioning = None
        self.canvas_role = parts.canvas_role
        self.head = None
        self.adapter: Adapter | None = parts.adapter
        cos, sin = (table[:, : c.head_size // 2].contiguous().numpy() for table in rotary_tables(c))
        norms = {name: gain.numpy() for name, gain in parts.norms.items()}

        self._everywhere = parts.adapter is not None and parts.adapter.config.gate == "all"
        self._blocks = _Call(graph.blocks_graph(c, parts.linears, norms, (cos, sin), parts.pairs, exact), self.threads)
        self._pairs = {
            name: torch.from_numpy(array).contiguous() for name, array in graph.pair_inputs(parts.pairs).items()
        }
        for name, tensor in self._pairs.items():  # for good
            self._blocks.give(name, tensor)
        self._head = _Call(graph.head_graph(parts.head, exact), self.threads)
        self.requires_grad_(False).eval()

    # -- the forward pass ------------------------------------------------------------------------------------------

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        cache = PagedCache(self.config, rows, capacity)
        if self._following is not None:
            assert len(self._following) == rows, f"{len(self._following)} conditions for {rows} rows"
            cache.conditions = tuple(self._following)
        return cache

    def read(self, tokens: Tokens, counts: Tensor, cache: KVCache, every: bool = False) -> Prediction:
        """As `Denoiser.read`; a long text is read in pieces."""
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

    def states(
        self, tokens: Tokens, places: Places, visible: Visibility, cache: Any = None,
        condition: Conditions | None = None, feedback: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if isinstance(cache, Recorded):
            raise ValueError("int8 kernels do not train: load the checkpoint with compute 'float32'")
        if int(places.position.max()) >= self.config.max_length:
            raise ValueError(f"position {int(places.position.max())} is beyond the model's {self.config.max_length}")
        if feedback is not None:
            raise ValueError("this checkpoint declares no feedback; pass feedback=None")
        if cache is None:
            cache = PagedCache(self.config, len(tokens), 1)
        assert isinstance(cache, PagedCache), type(cache).__name__
        canvas = places.role != CLEAN
        some = bool(canvas.any())
        x = self.embedding(tokens)
        if self.canvas_role is not None and some:
            x = x + (places.role == CANVAS)[:, :, None] * self.canvas_role
        x, _ = self._told(x, places, condition, cache)
        if self.adapter is not None and some:
            x = self.adapter.embed(x, tokens, places)
        call = self._blocks
        mask = self._additive(places, visible, cache)
        x = x.contiguous()
        given = {"x": x, "positions": places.position.contiguous(), "mask": mask}
        if self._pairs:
            given["rows"] = (canvas | self._everywhere).flatten().nonzero()
        for name, tensor in given.items():
            call.give(name, tensor)
        cache.bind(call)
        c, (rows, count) = self.config, tokens.shape
        state = call.take("state", (rows, count, c.width))
        new = (c.num_layers, rows, c.num_kv_heads, count, c.head_size)
        cache.fresh = call.take("new_keys", new), call.take("new_values", new)
        call.run()
        return state

    def _additive(self, places: Places, visible: Visibility, cache: PagedCache) -> Tensor:
        """0 where a place sees a key and -inf where not, `[B, 1, G T, S + T]`: cached slots, then the places themselves."""
        if places.position.shape == (1, 1):  # a token a call: it sees all there is
            seen = torch.cat((cache.filled(), torch.ones(1, 1, dtype=torch.bool)), 1)[:, None]
        else:
            seen = visible.dense(places, cache.slots(places).cat(places)) | ~places.valid[:, :, None]
        mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        return mask.repeat(1, self.config.num_heads // self.config.num_kv_heads, 1)[:, None].contiguous()

    def speak(self, hidden: Tensor, role: Tensor) -> Logits:
        flat = hidden.reshape(-1, hidden.shape[-1]).contiguous()
        if len(flat) == 0:
            return hidden.new_empty(*hidden.shape[:-1], self.config.vocab_size)
        self._head.give("hidden", flat)
        logits = self._head.take("logits", (len(flat), self.config.vocab_size))
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

"""The blocks of a network as an ONNX graph: states and cached keys in, states and new keys out.

    x [B, T, D] -> block 0 .. block N-1 -> state [B, T, D]                   hidden [M, D] -> head -> logits [M, V]
                     | q against cached keys [B, K, S, H] and the T new ones; the new ones are an output
                     | a linear = packed weights by int8 activations  (+ low-rank pairs, on the rows that are told)

- A graph reads the cache and never writes it: what is kept of a pass is decided outside, after the pass.
- Scores against cached and new keys are two products and one softmax, so the cache is never copied to be joined.
- Embedding, roles and masks stay outside: one graph serves causal, bidirectional and mixed passes alike.
- Groups of Q4_1 have a minimum, `MatMulNBits` a zero point of 4 bits. w = d q + m is d (q - 8) + (m + 8 d): the first term is
  the kernel's own form, the second a small product with the sums of x over each group, so no weight is rounded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mezzotint.model.config import ModelConfig
from mezzotint.runtime.packed import GROUP, Packed

Array = NDArray[np.float32]
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
LINEARS = ("qkv", "out", "gate_up", "down")


class Pairs(NamedTuple):
    """What an adapter adds to a fused product: x `a` `[I, P R]`, then to each of its P parts `b[p]` `[R, O_p]`."""

    a: Array
    b: Sequence[Array]


class _Graph:
    """Nodes and constants in the order in which they are made; every method returns the name of what it makes."""

    def __init__(self, exact: bool) -> None:
        self.accuracy = 1 if exact else 4  # of MatMulNBits: activations in float32, or rounded to int8
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, value: Any, name: str | None = None) -> str:
        array = np.asarray(value)
        name = name or f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def many(self, kind: str, inputs: Sequence[str], count: int, domain: str = "", **attributes: Any) -> list[str]:
        names = [f"v{len(self.nodes)}.{number}" for number in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names

    def one(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        return self.many(kind, inputs, 1, domain, **attributes)[0]

    def reshape(self, x: str, *shape: int) -> str:
        """0 copies a dimension of x, -1 is what is left."""
        return self.one("Reshape", x, self.constant(np.array(shape)))

    def split(self, x: str, sizes: Sequence[int], axis: int = -1) -> list[str]:
        return self.many("Split", [x, self.constant(np.array(sizes))], len(sizes), axis=axis)

    def linear(self, x: str, weight: Packed, rows: str | None = None, pairs: Sequence[str] = ()) -> str:
        """x `[M, I]` by a packed weight -> `[M, O]`. rows `[N, 1]`, perhaps none: those to which the pairs are added.

        pairs: names of the inputs that hold a and the parts of b.
        """
        table = [self.constant(weight.values), self.constant(weight.scales)]
        y = self.one(
            "MatMulNBits", x, *table, domain=MICROSOFT, K=weight.inputs, N=weight.outputs, bits=weight.bits,
            block_size=GROUP, accuracy_level=self.accuracy,
        )  # fmt: skip
        if weight.offsets is not None:
            sums = self.one("ReduceSum", self.reshape(x, 0, -1, GROUP), self.constant(np.array([-1])), keepdims=0)
            y = self.one("Gemm", sums, self.constant(weight.offsets), y)
        if pairs and rows is not None:
            low, parts = self.one("MatMul", self.one("GatherND", x, rows), pairs[0]), len(pairs) - 1
            lows = self.many("Split", [low], parts, axis=-1) if parts > 1 else [low]
            deltas = [self.one("MatMul", half, b) for half, b in zip(lows, pairs[1:], strict=True)]
            delta = self.one("Concat", *deltas, axis=-1) if parts > 1 else deltas[0]
            y = self.one("ScatterND", y, rows, delta, reduction="add")
        return y

    def model(
        self, name: str, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, tuple[str, Sequence[Any]]]
    ) -> onnx.ModelProto:
        """inputs: name -> shape; outputs: name -> what it is called inside, shape. All float32 but `positions` and `rows`."""
        for public, (inside, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [inside], [public]))
        graph = helper.make_graph(
            self.nodes, name,
            [helper.make_tensor_value_info(n, TensorProto.INT64 if n in ("positions", "rows") else TensorProto.FLOAT, list(s))
             for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, (_, s) in outputs.items()],
            list(self.constants.values()),
        )  # fmt: skip
        sets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=sets, ir_version=10)


def pair_inputs(pairs: Mapping[str, Pairs]) -> dict[str, Array]:
    """Inputs, not constants: of what is constant the runtime keeps a second copy, in an order of its own."""
    return {f"{name}.pair{n}": array for name, pair in pairs.items() for n, array in enumerate((pair.a, *pair.b))}


def blocks_graph(
    config: ModelConfig, weights: Mapping[str, Packed], norms: Mapping[str, Array], tables: tuple[Array, Array],
    pairs: Mapping[str, Pairs] | None = None, exact: bool = False,
) -> onnx.ModelProto:  # fmt: skip
    """All blocks. weights, pairs: "3.qkv" -> of that product; norms: "3.attention", "3.mlp".

    tables: cos and sin `[max_length, H / 2]`. With pairs there is one more input, rows `[N, 1]`: places of
    `[B T]` to which they are added, N = 0 for a pass that is the base's; and those of `pair_inputs`.
    exact: activations stay float32, which is slower and equal to torch to rounding.
    """
    c, g = config, _Graph(exact)
    kv, size = c.num_kv_heads, c.head_size
    cos, sin = (g.constant(table) for table in tables)
    inputs: dict[str, Sequence[Any]] = {
        "x": ("B", "T", c.width),
        "positions": ("B", "T"),
        "mask": ("B", 1, "GT", "S+T"),
    }
    pairs = pairs or {}
    held = pair_inputs(pairs)
    inputs |= {"rows": ("N", 1)} | {name: array.shape for name, array in held.items()} if pairs else {}
    named = {name: [n for n in held if n.startswith(f"{name}.pair")] for name in pairs}
    cached = {f"{kind}{i}": ("B", kv, "S", size) for i in range(c.num_layers) for kind in ("keys", "values")}
    count = g.one("Gather", g.one("Shape", "x"), g.constant(np.array([1])), axis=0)
    before = g.one("Gather", g.one("Shape", "keys0"), g.constant(np.array([2])), axis=0)
    halves = g.one("Concat", before, count, axis=0)
    together = g.one("Concat", g.constant(np.array([0, c.num_heads])), count, g.constant(np.array([size])), axis=0)
    apart = g.one("Concat", g.one("Slice", g.one("Shape", "x"), *map(g.constant, ([0], [2]))), g.constant([-1]), axis=0)
    rows = "rows" if pairs else None
    state, step, new_keys, new_values = g.reshape("x", -1, c.width), None, [], []  # [M, D], M = B T

    def norm(name: str) -> tuple[str, str]:
        """The state with the last step added, and its norm."""
        gain = g.constant(norms[name])
        if step is None:
            normed = g.many("SimplifiedLayerNormalization", [state, gain], 1, axis=-1, epsilon=c.norm_eps)
            return state, normed[0]
        found = g.many(
            "SkipSimplifiedLayerNormalization", [state, step, gain], 4, MICROSOFT, epsilon=c.norm_eps
        )  # normed, two that are not used, sum
        return found[3], found[0]

    for i in range(c.num_layers):
        state, normed = norm(f"{i}.attention")
        qkv = g.linear(normed, weights[f"{i}.qkv"], rows, named.get(f"{i}.qkv", ()))
        qk, v = g.split(g.one("Reshape", qkv, apart), [(c.num_heads + kv) * size, kv * size])
        qk = g.one(
            "RotaryEmbedding", qk, "positions", cos, sin, domain=MICROSOFT, num_heads=c.num_heads + kv, interleaved=0,
            rotary_embedding_dim=0,
        )  # fmt: skip
        q, k = g.split(qk, [c.num_heads * size, kv * size])
        q = g.one("Transpose", g.reshape(q, 0, 0, c.num_heads, size), perm=[0, 2, 1, 3])
        q = g.reshape(q, 0, kv, -1, size)  # [B, K, G T, H]: grouped queries are folded into the query axis
        k, v = (g.one("Transpose", g.reshape(part, 0, 0, kv, size), perm=[0, 2, 1, 3]) for part in (k, v))
        scores = [
            g.one("FusedMatMul", q, keys, domain=MICROSOFT, transB=1, alpha=size**-0.5) for keys in (f"keys{i}", k)
        ]
        law = g.one("Softmax", g.one("Add", g.one("Concat", *scores, axis=-1), "mask"), axis=-1)
        old, new = g.many("Split", [law, halves], 2, axis=-1)
        mixed = g.one("Add", g.one("MatMul", old, f"values{i}"), g.one("MatMul", new, v))
        mixed = g.one("Transpose", g.one("Reshape", mixed, together), perm=[0, 2, 1, 3])
        step = g.linear(g.reshape(mixed, -1, c.num_heads * size), weights[f"{i}.out"], rows, named.get(f"{i}.out", ()))
        state, normed = norm(f"{i}.mlp")
        gates, up = g.split(
            g.linear(normed, weights[f"{i}.gate_up"], rows, named.get(f"{i}.gate_up", ())), [c.mlp_width] * 2
        )
        inner = g.one("Mul", g.one("QuickGelu", gates, domain=MICROSOFT, alpha=1.0), up)  # at alpha 1 it is SiLU
        step = g.linear(inner, weights[f"{i}.down"], rows, named.get(f"{i}.down", ()))
        new_keys.append(g.one("Unsqueeze", k, g.constant(np.array([0]))))
        new_values.append(g.one("Unsqueeze", v, g.constant(np.array([0]))))
    state = g.one("Reshape", g.one("Add", state, step or state), apart)
    shape = (c.num_layers, "B", kv, "T", size)
    return g.model("blocks", inputs | cached, {
        "state": (state, ("B", "T", c.width)),
        "new_keys": (g.one("Concat", *new_keys, axis=0), shape),
        "new_values": (g.one("Concat", *new_values, axis=0), shape),
    })  # fmt: skip


def head_graph(head: Packed, exact: bool = False) -> onnx.ModelProto:
    """hidden `[M, D]` -> logits `[M, V]`."""
    g = _Graph(exact)
    logits = g.linear("hidden", head)
    return g.model("head", {"hidden": ("M", head.inputs)}, {"logits": (logits, ("M", head.outputs))})

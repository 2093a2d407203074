"""The blocks of a network as an ONNX graph: states and cached keys in, states and new keys out.

    x [B, T, D] -> block 0 .. block N-1 -> state [B, T, D]             hidden [1, M, D] -> head -> logits [1, M, V]
                     | the T new keys go into the cache [B, K, S, H], behind what is kept; q against all of it
                     | a linear = packed weights by int8 activations  (+ low-rank pairs, on the rows that are told)

- The cache is an input and an output in the same memory: only the new places are written, as in `KVCache.view`.
- Embedding, roles and masks stay outside: one graph serves causal, bidirectional and mixed passes alike.
- Groups of Q4_1 have a minimum, `MatMulNBits` a zero point of 4 bits. w = d q + m is d (q - 8) + (m + 8 d): the first term is
  the kernel's own form, the second a product with the means of x over each group. At batch 1 a node costs more than its
  arithmetic, so both are one product, over x and its means (`Packed.folded`), and attention is one node, which takes one text.
  Several take the long way, in a graph of its own with a second copy of the weights: an `If` a layer costs a token 8%.
- A place must come out with the same bits alone and among others, or drafts would change the text: activations are rounded, and
  one bit before that is another rounding. The attention kernel adds up otherwise for a single place, so that is asked twice.
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
    """What an adapter adds to a fused product of P parts: (x `a` `[I, P R]`) `b` `[P R, O]`, which has a block for each part."""

    a: Array
    b: Array


class _Graph:
    """Nodes and constants in the order in which they are made; every method returns the name of what it makes."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact  # activations stay in float32, else they are rounded to int8
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
        """x `[B, T, I]` by a packed weight -> `[B, T, O]`. rows `[N, 2]`, perhaps none: places to which the pairs are added.

        pairs: names of the inputs that hold a and b.
        """
        means, factors, used, inputs = "", x, weight, weight.inputs
        if weight.offsets is not None:
            means = self.one("AveragePool", x, kernel_shape=[GROUP], strides=[GROUP])
        if means and not self.exact:
            used, copies = weight.folded()
            factors, inputs = self.one("Concat", x, *[means] * copies, axis=-1), inputs + copies * inputs // GROUP
        y = self.one(
            "MatMulNBits", factors, self.constant(used.values), self.constant(used.scales), domain=MICROSOFT, K=inputs,
            N=weight.outputs, bits=weight.bits, block_size=GROUP, accuracy_level=1 if self.exact else 4,
        )  # fmt: skip
        if means and self.exact:
            assert weight.offsets is not None
            y = self.one("Add", y, self.one("MatMul", means, self.constant(weight.offsets * np.float32(GROUP))))
        if pairs and rows is not None:
            delta = self.one("MatMul", self.one("MatMul", self.one("GatherND", x, rows), pairs[0]), pairs[1])
            y = self.one("ScatterND", y, rows, delta, reduction="add")
        return y

    def model(
        self, name: str, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, tuple[str, Sequence[Any]]]
    ) -> onnx.ModelProto:
        """inputs: name -> shape; outputs: name -> what it is called inside, shape. All float32 but KINDS."""
        public = {inside: name for name, (inside, _) in outputs.items()}
        for node in self.nodes:
            for names in (node.input, node.output):
                for at, inside in enumerate(names):
                    names[at] = public.get(inside, inside)
        graph = helper.make_graph(
            self.nodes, name,
            [helper.make_tensor_value_info(n, KINDS.get(n, TensorProto.FLOAT), list(s)) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, (_, s) in outputs.items()],
            list(self.constants.values()),
        )  # fmt: skip
        sets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=sets, ir_version=10)


KINDS = dict.fromkeys(("asked", "positions", "rows", "slots"), TensorProto.INT64)  # of inputs that are not float32
KINDS |= {"last": TensorProto.INT32, "total": TensorProto.INT32}


def fused(config: ModelConfig) -> bool:
    """Has the runtime one kernel for the attention of these heads?"""
    return config.head_size % 16 == 0


def pair_inputs(pairs: Mapping[str, Pairs]) -> dict[str, Array]:
    """Inputs, not constants: of what is constant the runtime keeps a second copy, in an order of its own."""
    return {f"{name}.pair{n}": array for name, pair in pairs.items() for n, array in enumerate(pair)}


def blocks_graph(
    config: ModelConfig, weights: Mapping[str, Packed], norms: Mapping[str, Array], tables: tuple[Array, Array],
    pairs: Mapping[str, Pairs] | None = None, exact: bool = False, one: bool = False,
) -> onnx.ModelProto:  # fmt: skip
    """All blocks, for one text, where the runtime has a kernel for it (`fused`), or for several.

    weights, pairs: "3.qkv" -> of that product; norms: "3.attention", "3.mlp", "final".
    tables: cos and sin `[max_length, H / 2]`. Inputs beside x: mask, added to scores, and

        one text       asked [W], the places that attention is computed for: 0 .. T - 1, or 0 twice; positions [1, W], mask
                       [1, 1, W, L], total () = L places, last [1] the slot of the last
        several        positions [B, T], mask [B, 1, G T, S], slots [B, K, T, 3]: (row, head, slot) of each new place in the cache

    With pairs there are rows `[N, 2]`, the places `(b, t)` to which they are added, N = 0 for a pass that is the base's, and
    the `pair_inputs`. State `[B, T, D]` comes out normed. exact: activations stay float32, which is slower and equal to
    torch to rounding.
    """
    c, g, pairs = config, _Graph(exact), pairs or {}
    kv, size = c.num_kv_heads, c.head_size
    cos, sin = (g.constant(table) for table in tables)
    held = pair_inputs(pairs)
    inputs: dict[str, Sequence[Any]] = {
        "x": ("B", "T", c.width),
        "positions": ("B", "W"),
        "mask": ("B", 1, "Q", "L"),
    }
    inputs |= {"asked": ("W",), "last": ("B",), "total": ()} if one else {"slots": ("B", kv, "T", 3)}
    inputs |= {"rows": ("N", 2)} if pairs else {}
    inputs |= {name: array.shape for name, array in held.items()}
    cached = {f"{kind}{i}": ("B", kv, "S", size) for i in range(c.num_layers) for kind in ("keys", "values")}
    rows = "rows" if pairs else None
    count = g.one("Gather", g.one("Shape", "x"), g.constant(np.array([1])), axis=0)
    together = g.one("Concat", g.constant(np.array([0, c.num_heads])), count, g.constant(np.array([size])), axis=0)
    first, second = g.constant([0]), g.constant([1])
    places = g.one("Slice", g.one("Shape", "x"), *map(g.constant, ([0], [2])))
    heads = g.one("Concat", places, g.constant([c.num_heads + 2 * kv, size]), axis=0)
    merged = g.one("Concat", places, g.constant([c.num_heads * size]), axis=0)
    kept: dict[str, tuple[str, Sequence[Any]]] = {}
    state, step = "x", ""

    def norm(name: str) -> str:
        """The norm of the state, to which the last step is added."""
        nonlocal state
        gain = g.constant(norms[name])
        if not step:
            return g.one("SimplifiedLayerNormalization", state, gain, axis=-1, epsilon=c.norm_eps)
        found = g.many(
            "SkipSimplifiedLayerNormalization", [state, step, gain], 4, MICROSOFT, epsilon=c.norm_eps
        )  # normed, two that are not used, sum
        state = found[3]
        return found[0]

    def linear(x: str, name: str) -> str:
        return g.linear(x, weights[name], rows, [n for n in held if n.startswith(f"{name}.pair")])

    def one_text(qkv: str, i: int) -> list[str]:
        qkv = g.one("Gather", qkv, "asked", axis=1)
        mixed, *new = g.many(
            "GroupQueryAttention", [qkv, "", "", f"keys{i}", f"values{i}", "last", "total", cos, sin, "positions", "mask"], 3,
            MICROSOFT, num_heads=c.num_heads, kv_num_heads=kv, do_rotary=1, causal=0,
        )  # fmt: skip
        return [g.one("Slice", mixed, first, count, second), *new]

    def several(qkv: str, i: int) -> list[str]:
        qkv = g.one("Transpose", g.one("Reshape", qkv, heads), perm=[0, 2, 1, 3])
        qk, v = g.split(qkv, [c.num_heads + kv, kv], axis=1)
        qk = g.one("RotaryEmbedding", qk, "positions", cos, sin, domain=MICROSOFT, interleaved=0)
        q, k = g.split(qk, [c.num_heads, kv], axis=1)
        q = g.reshape(q, 0, kv, -1, size)  # [B, K, G T, H]: queries that share a key are one after another
        keys, values = (g.one("ScatterND", f"{kind}{i}", "slots", new) for kind, new in (("keys", k), ("values", v)))
        scores = g.one("FusedMatMul", q, keys, domain=MICROSOFT, transB=1, alpha=size**-0.5)
        mixed = g.one("MatMul", g.one("Softmax", g.one("Add", scores, "mask"), axis=-1), values)
        mixed = g.one("Transpose", g.one("Reshape", mixed, together), perm=[0, 2, 1, 3])
        return [g.one("Reshape", mixed, merged), keys, values]

    for i in range(c.num_layers):
        qkv = linear(norm(f"{i}.attention"), f"{i}.qkv")
        mixed, *new = (one_text if one else several)(qkv, i)
        kept |= {
            f"kept_{kind}{i}": (name, cached[f"{kind}{i}"]) for kind, name in zip(("keys", "values"), new, strict=True)
        }
        step = linear(mixed, f"{i}.out")
        gates, up = g.split(linear(norm(f"{i}.mlp"), f"{i}.gate_up"), [c.mlp_width] * 2)
        inner = g.one("Mul", g.one("QuickGelu", gates, domain=MICROSOFT, alpha=1.0), up)  # at alpha 1 it is SiLU
        step = linear(inner, f"{i}.down")
    outputs = {"state": (norm("final"), ("B", "T", c.width))} | kept
    return g.model("blocks", inputs | cached, outputs)


def head_graph(head: Packed, exact: bool = False) -> onnx.ModelProto:
    """hidden `[1, M, D]` -> logits `[1, M, V]`."""
    g = _Graph(exact)
    logits = g.linear("hidden", head)
    return g.model("head", {"hidden": (1, "M", head.inputs)}, {"logits": (logits, (1, "M", head.outputs))})

"""The canvas adapter: what a frozen AR network learns in order to denoise.

    clean place    y = W x                         the base's own number, bit for bit
    canvas place   y = W x + (alpha / r) B A x     low-rank pairs on all seven linears (LoRA, arXiv 2106.09685)
                   x = embedding + role            one vector says "you are on the canvas"
                   MASK DELETE INSERT EXPAND       rows of their own, going in and coming out, untied
                   x + f(feedback)                 self-conditioning, where the adapter has it: what was said last
    draft          h + g(h, tokens before)         the draft head, where the adapter has one: see `DraftHead`

The gate is the role of a place. A pass over clean places alone costs nothing more; one over canvas places alone adds the
pairs everywhere; a mixed one gathers the canvas places, so that the base's product is never computed twice. What clean
places say, and the keys and values that a cache keeps of them, are those of the base: AR decoding is unchanged by
construction. `gate="all"` adds the pairs at every place instead: an ordinary LoRA, as peft trains it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.model.config import ModelConfig
from mezzotint.model.layers import Term, Terms
from mezzotint.model.low_bit import Rounded
from mezzotint.model.visibility import CLEAN, Places
from mezzotint.shapes import Logits, Probs, Tokens

# Our fused product -> the linears of a Hugging Face Llama that it holds, in order.
LINEARS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
TARGETS = tuple(name for names in LINEARS.values() for name in names)
GATES = ("canvas", "all")
TOKENS_BEFORE = 2  # that a draft head hears


@dataclass(frozen=True)
class AdapterConfig:
    """alpha: the pairs are scaled by alpha / rank. targets: which of the seven linears have a pair. canvas: is there a role
    vector? control_ids: ids with rows of their own on the canvas. confidence: is there a head that says whether a visible
    token is right? self_conditioning: is what was said last of a canvas heard? draft_head: width of the draft head, 0 for none.
    Raises ValueError for what cannot be built."""

    rank: int = 32
    alpha: float = 64.0
    gate: str = "canvas"
    targets: tuple[str, ...] = TARGETS
    canvas: bool = True
    control_ids: tuple[int, ...] = ()
    confidence: bool = False
    self_conditioning: bool = False
    draft_head: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.draft_head <= 1 << 16:
            raise ValueError(f"draft_head is {self.draft_head}; it must lie between 0 and {1 << 16}")
        if not 1 <= self.rank <= 1024:
            raise ValueError(f"rank is {self.rank}; it must lie between 1 and 1024")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha is {self.alpha}; it must be positive")
        if self.gate not in GATES:
            raise ValueError(f"gate is {self.gate!r}; allowed: {', '.join(GATES)}")
        if unknown := set(self.targets) - set(TARGETS):
            raise ValueError(f"no linear is named {min(unknown)!r}; allowed: {', '.join(TARGETS)}")
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError(f"targets are {self.targets}; name at least one linear, each once")
        if len(set(self.control_ids)) != len(self.control_ids):
            raise ValueError(f"control ids {self.control_ids} are not distinct")


class Gate(NamedTuple):
    """Where the pairs act in one pass: indices int64 `[n]` into the flattened B x T places; None: at all of them.

    share `[B, T, 1]`: or at all of them, times this: what is computed then depends on no number (`runtime/captured.py`).
    """

    places: Tensor | None
    share: Tensor | None = None


class LowRank(nn.Module):
    """The pairs of one fused product. A `[P r, I]` stacked, one B `[O_p, r]` for each of its P parts; B starts at zero."""

    def __init__(self, inputs: int, parts: dict[str, int], config: AdapterConfig) -> None:
        super().__init__()
        self.names = [name for name in parts if name in config.targets]
        self.sizes, self.rank, self.scale = parts, config.rank, config.alpha / config.rank
        self.a = nn.Parameter(torch.empty(len(self.names) * config.rank, inputs))
        if not self.a.is_meta:  # as in `layers.embedding_table`
            nn.init.normal_(self.a, std=inputs**-0.5)
        self.b = nn.ParameterList(torch.zeros(parts[name], config.rank) for name in self.names)

    def add(self, y: Tensor, x: Tensor, gate: Gate) -> Tensor:
        """y = W x `[B, T, O]` with the pairs' part of x `[B, T, I]` added where the gate is open."""
        seen = x if gate.places is None else x.flatten(0, 1)[gate.places]
        halves = dict(zip(self.names, torch.split(F.linear(seen, self.a), self.rank, -1), strict=True))
        ups = dict(zip(self.names, self.b, strict=True))
        delta = torch.cat(
            [
                F.linear(halves[name], ups[name]) if name in ups else seen.new_zeros(*seen.shape[:-1], size)
                for name, size in self.sizes.items()
            ],
            -1,
        )
        delta = (self.scale * delta).to(y.dtype)
        if gate.share is not None:
            return y + delta * gate.share
        if gate.places is None:
            return y + delta
        return y.flatten(0, 1).index_add(0, gate.places, delta).view_as(y)

    def product(self) -> Tensor:
        """(alpha / r) B A, `[O, I]`: what merging adds to the weight."""
        ups = dict(zip(self.names, self.b, strict=True))
        downs = dict(zip(self.names, torch.split(self.a, self.rank), strict=True))
        rows = [
            ups[name] @ downs[name] if name in ups else self.a.new_zeros(size, self.a.shape[1])
            for name, size in self.sizes.items()
        ]
        return self.scale * torch.cat(rows)


class LayerPairs(nn.Module):
    """The pairs of one block."""

    def __init__(self, config: ModelConfig, adapter: AdapterConfig) -> None:
        super().__init__()
        q, kv = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        sizes = {
            "qkv": (config.width, (q, kv, kv)),
            "out": (q, (config.width,)),
            "gate_up": (config.width, (config.mlp_width, config.mlp_width)),
            "down": (config.mlp_width, (config.width,)),
        }
        self.pairs = nn.ModuleDict(
            {
                product: LowRank(inputs, dict(zip(LINEARS[product], outputs, strict=True)), adapter)
                for product, (inputs, outputs) in sizes.items()
                if set(LINEARS[product]) & set(adapter.targets)
            }
        )

    def terms(self, gate: Gate) -> Terms:
        """What each product of the block adds in a pass with this gate."""

        def term(pair: nn.Module) -> Term:
            assert isinstance(pair, LowRank)
            return lambda y, x: pair.add(y, x, gate)

        return Terms(**{name: term(pair) for name, pair in self.pairs.items()})

    def products(self) -> dict[str, Tensor]:
        """Name of a fused product -> what merging adds to its weight."""
        return {name: pair.product() for name, pair in self.pairs.items() if isinstance(pair, LowRank)}


class SelfConditioning(nn.Module):
    """What the network said last of a canvas, added to its next input: down(silu(gate h) * up h), h = norm(feedback).

    DiffusionGemma's form, without its norm of the sum: `down` starts at zero, so that an untrained one adds nothing, and no
    feedback, which is zeros, adds nothing ever.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=False)
        nn.init.zeros_(self.down_proj.weight)

    def forward(self, feedback: Tensor) -> Tensor:
        h = self.pre_norm(feedback)
        return self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


class DraftHead(nn.Module):
    """What a canvas says of a place once the tokens before it are known: h + down(silu(gate x) * up x), x = [h, e1, e2].

    A canvas speaks about all of its places at once, so what it says of one does not depend on what was drafted for the one
    before. A draft is chosen from left to right, and this head, which costs next to nothing, hears what has been chosen:
    h is the normed state, e1 and e2 what the base embeds the last two tokens as, all of unit mean square. `down` starts at
    zero. Sequentially dependent draft heads, Hydra (arXiv 2402.05109); here the states are a denoiser's.
    """

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        inputs = (1 + TOKENS_BEFORE) * config.width
        self.gate_proj = nn.Linear(inputs, width, bias=False)
        self.up_proj = nn.Linear(inputs, width, bias=False)
        self.down_proj = nn.Linear(width, config.width, bias=False)
        nn.init.zeros_(self.down_proj.weight)

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        """What is added to normed states `[..., D]`. before `[..., 2, D]`: embeddings of the tokens before, last first."""
        size = hidden.shape[-1:]
        x = torch.cat((F.rms_norm(hidden, size), F.rms_norm(before, size).flatten(-2)), -1)
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def fill(slots: Mapping[str, Tensor | Rounded], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy named tensors into all `slots`, one at a time. Raises ValueError for a missing, unknown or misshapen one."""
    slots = dict(slots)
    for name, tensor in tensors:
        if name not in slots:
            raise ValueError(f"unknown or repeated tensor {name!r} of shape {tuple(tensor.shape)}")
        slot = slots.pop(name)
        if slot.shape != tensor.shape:
            raise ValueError(f"tensor {name!r} has shape {tuple(tensor.shape)}; expected {tuple(slot.shape)}")
        try:
            slot.copy_(tensor)
        except ValueError as error:
            raise ValueError(f"tensor {name!r} {error}") from None
    if slots:
        raise ValueError(f"{len(slots)} tensors are missing, the first is {min(slots)!r}")


class Adapter(nn.Module):
    """All of it, for a network of the given sizes. `start` makes its canvas rows those of the base."""

    def __init__(self, config: ModelConfig, adapter: AdapterConfig) -> None:
        super().__init__()
        if adapter.control_ids and not 0 <= min(adapter.control_ids) <= max(adapter.control_ids) < config.vocab_size:
            raise ValueError(f"control ids {adapter.control_ids} do not fit a vocabulary of {config.vocab_size}")
        self.config = adapter
        self.layers = nn.ModuleList(LayerPairs(config, adapter) for _ in range(config.num_layers))
        self.role = nn.Parameter(torch.zeros(config.width)) if adapter.canvas else None
        rows = len(adapter.control_ids)
        self.control_in = nn.Parameter(torch.zeros(rows, config.width)) if rows else None
        self.control_out = nn.Parameter(torch.zeros(rows, config.width)) if rows else None
        self.confidence = nn.Linear(config.width, 1) if adapter.confidence else None
        if self.confidence is not None:
            nn.init.zeros_(self.confidence.weight)
            nn.init.zeros_(self.confidence.bias)
        self.self_conditioning = SelfConditioning(config) if adapter.self_conditioning else None
        self.draft_head = DraftHead(config, adapter.draft_head) if adapter.draft_head else None
        self.row: Tensor  # [V]: which control row an id has, -1 for none
        row = torch.full((config.vocab_size,), -1, dtype=torch.int64)
        if not row.is_meta:
            row[list(adapter.control_ids)] = torch.arange(rows)
        self.register_buffer("row", row, persistent=False)

    def add_draft_head(self, sizes: ModelConfig, width: int) -> Adapter:
        """A fresh one, for an adapter that was made without. Raises ValueError as `AdapterConfig` does."""
        self.config = replace(self.config, draft_head=width)
        self.draft_head = DraftHead(sizes, width)
        return self

    @torch.no_grad()
    def start(self, embedding: Tensor, head: Tensor) -> Adapter:
        """Control rows begin at the mean of the base's rows `[V, D]`: an id that means nothing yet."""
        if self.control_in is not None and self.control_out is not None:
            self.control_in.copy_(embedding.mean(0).expand_as(self.control_in))
            self.control_out.copy_(head.mean(0).expand_as(self.control_out))
        return self

    def gate(self, places: Places) -> Gate | None:
        """Where the pairs act; None when they act nowhere and the pass is the base's."""
        if self.config.gate == "all":
            return Gate(None)
        canvas = places.role != CLEAN
        if not bool(canvas.any()):
            return None
        return Gate(None if bool(canvas.all()) else canvas.flatten().nonzero()[:, 0])

    def terms(self, layer: int, gate: Gate) -> Terms:
        pairs = self.layers[layer]
        assert isinstance(pairs, LayerPairs)
        return pairs.terms(gate)

    def embed(self, x: Tensor, tokens: Tokens, places: Places, feedback: Tensor | None = None) -> Tensor:
        """Embeddings `[B, T, D]` as they are at clean places; at canvas places with control rows, role vector and feedback.

        feedback `[B, T, D]`: see `expected`; zeros where there is none.
        """
        canvas = (places.role != CLEAN)[..., None]
        if self.control_in is not None:
            row = self.row[tokens]
            x = torch.where(canvas & (row >= 0)[..., None], self.control_in[row.clamp(min=0)].to(x.dtype), x)
        if self.role is not None:
            x = torch.where(canvas, x + self.role, x)
        if feedback is None or self.self_conditioning is None:
            return x
        return torch.where(canvas, x + self.self_conditioning(feedback.to(x.dtype)).to(x.dtype), x)

    def expected(self, probs: Probs, embedding: Tensor) -> Tensor:
        """The mean of what the canvas embeds its tokens as `[..., D]`, under `probs` `[..., V]`. embedding: the base's."""
        if self.control_in is None:
            return probs @ embedding
        ids = torch.tensor(self.config.control_ids, device=probs.device)
        return probs.index_fill(-1, ids, 0.0) @ embedding + probs[..., ids] @ self.control_in

    def speak(self, logits: Logits, hidden: Tensor, role: Tensor, some: bool | None = None) -> Logits:
        """The base's logits `[..., V]`; where `role` is not CLEAN the control ids are scored by their own rows.

        some: is there such a place? None asks `role`.
        """
        canvas = (role != CLEAN)[..., None]
        if self.control_out is None or not (bool(canvas.any()) if some is None else some):
            return logits
        ids = torch.tensor(self.config.control_ids, device=logits.device)
        own = F.linear(hidden, self.control_out).to(logits.dtype)
        return logits.index_copy(-1, ids, torch.where(canvas, own, logits[..., ids]))

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor (or slice of a stacked one). Pairs have peft's names, the rest begins with `canvas.`."""
        found: dict[str, Tensor] = {}
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, LayerPairs)
            for pair in layer.pairs.values():
                assert isinstance(pair, LowRank)
                for name, a, b in zip(pair.names, torch.split(pair.a, pair.rank), pair.b, strict=True):
                    prefix = f"base_model.model.model.layers.{index}.{name}."
                    found |= {prefix + "lora_A.weight": a, prefix + "lora_B.weight": b}
        for name in ("role", "control_in", "control_out"):
            if (tensor := getattr(self, name)) is not None:
                found[f"canvas.{name}"] = tensor
        if self.confidence is not None:
            found |= {
                "canvas.confidence.weight": self.confidence.weight,
                "canvas.confidence.bias": self.confidence.bias,
            }
        for name in ("self_conditioning", "draft_head"):
            if (module := getattr(self, name)) is not None:
                found |= {f"canvas.{name}.{key}": tensor for key, tensor in module.named_parameters()}
        return {name: tensor.detach() for name, tensor in found.items()}

    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> Adapter:
        """Copy named tensors in. Raises ValueError for a missing, unknown or misshapen one."""
        fill(self.tensors(), tensors)
        return self

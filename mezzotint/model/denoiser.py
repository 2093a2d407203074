"""Denoiser: the network. Tokens in, for every position a distribution over the clean token out.

    clean rows    [t0 t1 t2]  causal         row i speaks about position i + 1: the AR model, and the cache's source
    canvas rows   [?  on  ?]  bidirectional  speaks about its own positions, reads the clean rows before it

One set of weights and one forward for both; the role of each place and the visibility decide. `read` and `denoise` are
the two ways it is called while decoding. `shift` is a fact of the weights: 1 when the raw canvas row i is about position
i + 1, as in any AR checkpoint that has not learnt otherwise; `denoise` undoes it, once, here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.model.adapter import Adapter, AdapterConfig, Gate, LayerPairs, fill
from mezzotint.model.cache import PIECE, KVCache, Recorded
from mezzotint.model.condition import NULL, Conditioner, Conditions
from mezzotint.model.config import ModelConfig
from mezzotint.model.lanes import Ragged, Said, Segment
from mezzotint.model.layers import PLAIN, Block, embedding_table, rotary_tables, wide
from mezzotint.model.layers_variant import SelfConditioning, VariantBlock, cap, make_norm, rotary_frequencies
from mezzotint.model.level import LevelEmbedding, modulated
from mezzotint.model.low_bit import Rounded, RoundedLinear, held, in_low_bits, rows_of
from mezzotint.model.parallel import beside, is_split
from mezzotint.model.stale import BlockReader
from mezzotint.model.variant import LevelInput
from mezzotint.model.visibility import CANVAS, CLEAN, SHADOW, Places, Visibility, context_causal, with_shadows
from mezzotint.shapes import Logits, Tokens, Where

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


CANDIDATES = 256  # tokens that a draft head chooses among


class Prediction(NamedTuple):
    """logits `[B, W, V]` of the wanted places; `about` int64 `[B, W]`, the position each row of them concerns."""

    logits: Logits
    about: Tensor
    hidden: Tensor  # [B, W, D], after the final norm


class Denoiser(nn.Module):
    wide_calls_pay = True  # does a call over ten positions cost little more than one over one?
    flexible = False  # FlexAttention instead of a dense mask: for long passes without a cache, on a GPU

    def __init__(self, config: ModelConfig, shift: int = 0, reader: BlockReader | None = None) -> None:
        """reader: for weights whose clean text is not causal (`stale.py`); None is a causal clean stream."""
        super().__init__()
        if shift not in (0, 1):
            raise ValueError(f"shift is {shift}; a checkpoint's canvas logits are shifted by 0 or 1")
        self.config, self.shift, self.reader = config, shift, reader
        self.held = (
            config  # the sizes of what this process holds: less of it where ranks share a network (`parallel.py`)
        )
        self.embedding = embedding_table(config.vocab_size, config.width)
        if config.variant is None:
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
            self.norm: nn.Module = nn.RMSNorm(config.width, eps=config.norm_eps)
        else:
            self.blocks = nn.ModuleList(VariantBlock(config, layer) for layer in range(config.num_layers))
            self.norm = make_norm(config)
        told = config.condition
        level = config.level
        width = level.width if told is not None and told.way == "level" and level is not None else config.width
        self.conditioner = None if told is None else Conditioner(told, width, config.num_layers)
        self.level = None if level is None else LevelEmbedding(level.width)
        self.norm_level = None if level is None else nn.Linear(level.width, 2 * config.width)
        self._following: Conditions | None = None
        self.canvas_role = nn.Parameter(torch.zeros(config.width)) if config.canvas_role else None
        variant = config.variant
        bias = variant is not None and variant.head_bias
        self.head: nn.Linear | RoundedLinear | None = None
        if not config.tied_head:
            self.head = nn.Linear(config.width, config.vocab_size, bias=bias)
        self.rounded = False  # are its products' weights in 8 or 4 bits?
        self.self_conditioning: SelfConditioning | None = None
        self.position_embedding: nn.Embedding | None = None
        self.layer_scalars: nn.Parameter | None = None  # [layers, 2]: at clean and at canvas places
        if variant is not None:
            self.self_conditioning = SelfConditioning(config) if variant.self_conditioning else None
            if variant.learned_positions:
                self.position_embedding = embedding_table(config.max_length, config.width)
            if variant.layer_scalars:
                self.layer_scalars = nn.Parameter(torch.ones(config.num_layers, 2))
        self.cos: Tensor
        self.sin: Tensor
        self.rotary: list[Tensor] = []  # of a variant: frequencies of each kind of layer
        if self.embedding.weight.device.type != "meta":
            self.make_rotary()
        self.adapter: Adapter | None = None

    def make_rotary(self, device: torch.device | str | None = None) -> None:
        """Tables of rotary positions; again after a network was made without memory (`device="meta"`)."""
        config = self.config
        if config.variant is None:
            for name, table in zip(("cos", "sin"), rotary_tables(config), strict=True):
                self.register_buffer(name, table.to(device), persistent=False)
            return
        layers = [config.variant.kind_of.index(kind) for kind in range(len(config.variant.kinds))]
        self.rotary = [rotary_frequencies(config.kind(layer), config.heads(layer)[2]) for layer in layers]

    def adapt(self, config: AdapterConfig) -> Denoiser:
        """Put a fresh adapter on these weights: it says what they say until it has learnt (its control rows apart)."""
        weight = self.embedding.weight
        if self.config.variant is not None and not self.config.variant.even:
            raise ValueError("an adapter needs layers of one shape without experts; this network's layers differ")
        head = weight if self.head is None else self.head.weight
        head = head if isinstance(head, Tensor) else head.floats(weight.dtype)
        self.adapter = Adapter(self.config, config).to(device=weight.device, dtype=weight.dtype).start(weight, head)
        return self

    def to_low_bits(self, kind: str) -> Denoiser:
        """Make room for products in 8 or 4 bits (`low_bit.py`): what they hold comes from `load`. It then only computes."""
        in_low_bits(self.blocks, kind)
        if isinstance(self.head, nn.Linear):
            self.head = RoundedLinear(self.head, kind)
        self.rounded = True
        return self.requires_grad_(False)

    # -- weights ---------------------------------------------------------------------------------------------------

    def slots(self) -> dict[str, Tensor]:
        """Hugging Face Llama name -> the tensor (or slice of a fused one) that holds it. Writing to a slot loads it.

        Raises ValueError where weights are rounded or split over ranks: nothing can be saved, merged or trained of them.
        """
        if is_split(self.embedding.weight):
            raise ValueError("a network that is split over ranks only decodes; load it whole to save, merge or train")
        if self.rounded:
            raise ValueError(
                "rounded weights only compute; load the checkpoint without rounding to save, merge or train"
            )
        return {name: slot for name, slot in self.every_slot().items() if isinstance(slot, Tensor)}

    def every_slot(self) -> dict[str, Tensor | Rounded]:
        """`slots`, rounded weights among them."""
        c = self.config
        q, kv = c.num_heads * c.head_size, c.num_kv_heads * c.head_size
        slots: dict[str, Tensor | Rounded] = {"model.embed_tokens.weight": self.embedding.weight}
        slots |= {f"model.norm.{name}": tensor for name, tensor in self.norm.named_parameters()}
        if self.head is not None:
            slots |= {f"lm_head.{name}": tensor for name, tensor in held(self.head)}
        if self.position_embedding is not None:
            slots["model.embed_positions.weight"] = self.position_embedding.weight
        if self.layer_scalars is not None:
            for i, scalars in enumerate(self.layer_scalars):
                slots |= {
                    f"model.layers.{i}.scalar.{role}": scalars[n : n + 1] for n, role in enumerate(("clean", "canvas"))
                }
        if self.self_conditioning is not None:
            slots |= {f"model.self_conditioning.{name}": tensor for name, tensor in self.self_conditioning.named()}
        if self.level is not None and self.norm_level is not None:
            slots |= {f"model.level.{name}": tensor for name, tensor in self.level.named_parameters()}
            slots |= {f"model.norm_level.{name}": tensor for name, tensor in self.norm_level.named_parameters()}
        if self.canvas_role is not None:
            slots["mezzotint.canvas_role"] = self.canvas_role
        if self.conditioner is not None:
            slots |= self.conditioner.slots()
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            p = f"model.layers.{i}."
            if isinstance(block, VariantBlock):
                slots |= {p + name: tensor for name, tensor in block.named()}
                continue
            qkv, gate_up = block.attention.qkv.weight, block.mlp.gate_up.weight
            slots[p + "input_layernorm.weight"] = block.attention_norm.weight
            slots[p + "self_attn.q_proj.weight"] = qkv[:q]
            slots[p + "self_attn.k_proj.weight"] = qkv[q : q + kv]
            slots[p + "self_attn.v_proj.weight"] = qkv[q + kv :]
            slots[p + "self_attn.o_proj.weight"] = block.attention.out.weight
            slots[p + "post_attention_layernorm.weight"] = block.mlp_norm.weight
            slots[p + "mlp.gate_proj.weight"] = gate_up[: c.mlp_width]
            slots[p + "mlp.up_proj.weight"] = gate_up[c.mlp_width :]
            slots[p + "mlp.down_proj.weight"] = block.mlp.down.weight
        return {name: slot.detach() if isinstance(slot, Tensor) else slot for name, slot in slots.items()}

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> Denoiser:
        """Copy named weights in, one at a time. Raises ValueError for a missing, unknown or misshapen tensor."""
        fill(self.every_slot(), weights)
        return self

    @torch.no_grad()
    def add_pairs(self, adapter: Adapter) -> Denoiser:
        """The low-rank pairs of an adapter for networks of these sizes become part of the weights."""
        for block, pairs in zip(self.blocks, adapter.layers, strict=True):
            assert isinstance(block, Block) and isinstance(pairs, LayerPairs)
            linears = {
                "qkv": block.attention.qkv, "out": block.attention.out, "gate_up": block.mlp.gate_up,
                "down": block.mlp.down,
            }  # fmt: skip
            for name, product in pairs.products().items():
                linears[name].weight += product
        return self

    @torch.no_grad()
    def merged(self) -> Denoiser:
        """A copy without adapter whose weights hold it: ungated pairs for good, gated ones for canvas passes only.

        Its canvas passes say what this network's say and cost what the base's cost, given a cache that the base has read;
        what it reads itself is another model's text when the pairs were gated. Raises ValueError without an adapter, or
        for one with self-conditioning.
        """
        adapter = self.adapter
        if adapter is None:
            raise ValueError("there is no adapter to merge")
        if adapter.self_conditioning is not None:
            raise ValueError("an adapter with self-conditioning cannot be merged: plain weights hear no feedback")
        tied = self.config.tied_head and adapter.control_out is None
        role = self.config.canvas_role or adapter.role is not None
        other = Denoiser(replace(self.config, tied_head=tied, canvas_role=role), self.shift, self.reader)
        own = self.slots()
        for name, slot in other.slots().items():
            if name in own:
                slot.copy_(own[name])
        other.add_pairs(adapter)
        if other.canvas_role is not None and adapter.role is not None:
            other.canvas_role.add_(adapter.role)
        if adapter.control_in is not None and adapter.control_out is not None:
            assert isinstance(other.head, nn.Linear) and not isinstance(self.head, RoundedLinear)
            other.head.weight.copy_(self.embedding.weight if self.head is None else self.head.weight)
            ids = list(adapter.config.control_ids)
            other.embedding.weight[ids], other.head.weight[ids] = adapter.control_in, adapter.control_out
        return other.requires_grad_(False).eval()

    # -- the forward pass ------------------------------------------------------------------------------------------

    def following(self, conditions: Conditions) -> Denoiser:
        """The same network, its weights shared, whose new caches follow these conditions, one a row."""
        other = copy.copy(self)
        other._following = tuple(conditions)
        return other

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        weight = self.embedding.weight
        cache = KVCache(self.held, rows, capacity, weight.dtype, weight.device)
        if self._following is not None:
            assert len(self._following) == rows, f"{len(self._following)} conditions for {rows} rows"
            cache.conditions = tuple(self._following)
        return cache

    def forward(
        self,
        tokens: Tokens,
        places: Places,
        visible: Visibility,
        cache: KVCache | Recorded | None = None,
        want: Tensor | None = None,
        condition: Conditions | None = None,
        feedback: Tensor | None = None,
        logits: bool = True,
        sigma: Tensor | None = None,
    ) -> Prediction:
        """One pass over tokens `[B, T]` standing at `places` `[B, T]`, after what `cache` holds.

        want: int64 `[B, W]`, indices into T whose logits are computed; None for all of them. logits: False leaves the head
        out, and them empty (training computes them in chunks). condition: one a row, for a checkpoint that declares them;
        None is what the cache remembers, else the null. Tokens at the clean positions of a condition's prefix are
        placeholders. feedback `[B, T, D]`: from `encode_feedback`, zeros where there is none. Nothing is kept in the cache
        until `cache.keep`. sigma `[B]`: -log alpha, the total noise of each row, for weights that are told it. Raises
        ValueError for a condition, feedback or sigma that these weights do not have, and without one that they must have.
        """
        if condition is not None and self.conditioner is None:
            raise ValueError("this checkpoint declares no condition; pass condition=None")
        level = self._level(sigma, condition, cache, len(tokens))
        x = self.states(tokens, places, visible, cache, condition, feedback, level)
        about, role = places.position + torch.where(places.role == CLEAN, 1, self.shift), places.role
        if want is not None:
            x = x.gather(1, want[:, :, None].expand(-1, -1, x.shape[-1]))
            about, role = about.gather(1, want), role.gather(1, want)
        hidden = self.norm(x)
        if self.norm_level is not None and level is not None:
            hidden = modulated(hidden, *self.norm_level(level).chunk(2, -1))
        return Prediction(self.speak(hidden, role) if logits else hidden.new_empty(*about.shape, 0), about, hidden)

    @property
    def lanes(self) -> bool:
        """Can one pass hold places of many texts (`segment`, `run`)? Not where layers differ in what they see."""
        return self.config.variant is None and self.reader is None

    def segment(self, capacity: int) -> Segment:
        weight = self.embedding.weight
        return Segment(self.held, capacity, weight.dtype, weight.device)

    def run(self, batch: Ragged) -> Said:
        """One pass over places of many texts (see `lanes.Network`): what `forward` says of each text alone, to rounding."""
        x = self.states(batch.tokens[None], batch.places, context_causal(), batch, feedback=batch.feedback)
        hidden = self.norm(x[0, batch.want])
        return Said(self.speak(hidden, batch.places.role[0, batch.want]), hidden)

    def states(
        self, tokens: Tokens, places: Places, visible: Visibility, cache: KVCache | Recorded | Ragged | None = None,
        condition: Conditions | None = None, feedback: Tensor | None = None, level: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """`forward` up to the last block: `[B, T, D]`, before the final norm. level `[B, 1, C]`: from `_level`."""
        if int(places.position.max()) >= self.config.max_length:
            raise ValueError(f"position {int(places.position.max())} is beyond the model's {self.config.max_length}")
        if feedback is not None and not self.self_conditioned:
            raise ValueError("this checkpoint declares no feedback; pass feedback=None")
        adapter = self.adapter
        gate = None if adapter is None else adapter.gate(places)
        x = beside(F.embedding, tokens, self.embedding.weight)  # [B, T, D]
        if self.config.variant is not None:
            assert not isinstance(cache, Ragged), "a network of this kind has no lanes"
            return self._variant_states(x, tokens, places, visible, cache, condition, feedback, gate, level)
        mask = (
            None if isinstance(cache, Ragged) else self._mask(visible, places, cache, 0)
        )  # each lane knows who sees whom
        if self.canvas_role is not None:
            x = x + (places.role == CANVAS)[:, :, None] * self.canvas_role
        x, modulation = self._told(x, places, condition, cache)
        if adapter is not None and gate is not None:
            x = adapter.embed(x, tokens, places, feedback)
        cos, sin = self.cos[places.position][:, :, None].to(x.dtype), self.sin[places.position][:, :, None].to(x.dtype)
        for layer, block in enumerate(self.blocks):
            terms = PLAIN if adapter is None or gate is None else adapter.terms(layer, gate)
            x = block(x, cos, sin, mask, layer, cache, terms, modulation[layer])
        return x

    def _mask(
        self, visible: Visibility, places: Places, cache: KVCache | Recorded | None, layer: int
    ) -> BlockMask | Tensor | None:
        """Who sees whom in this layer: bool `[B, 1, Q/K * T, S]`, None when everyone sees everyone, or a BlockMask.

        A layer with a window may have fewer columns than there are keys: then they are those of the last ones.
        """
        if self.flexible and cache is None:
            return visible.block_mask(places)
        seen = visible.dense(places, places if cache is None else cache.places(places))  # [B, T, S]
        start = 0
        if self.config.variant is not None and self.config.kind(layer).window is not None:
            start = int(
                (seen & places.valid[:, :, None]).flatten(0, 1).any(0).int().argmax()
            )  # before it, nobody looks
            seen = seen[:, :, start:]
        seen = seen | ~places.valid[:, :, None]  # padding attends anywhere: a row with no key would be nan
        heads, kv_heads, _ = self.held.heads(layer)
        return None if start == 0 and bool(seen.all()) else seen[:, None].repeat(1, 1, heads // kv_heads, 1)

    def _variant_states(
        self, x: Tensor, tokens: Tokens, places: Places, visible: Visibility, cache: KVCache | Recorded | None,
        condition: Conditions | None, feedback: Tensor | None, gate: Gate | None, level: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """`states` of a network that is not a Llama, from its embeddings `[B, T, D]` on."""
        variant, adapter = self.config.variant, self.adapter
        assert variant is not None
        x = x * variant.embed_scale
        if self.position_embedding is not None:
            x = x + self.position_embedding(places.position)
        canvas = (places.role != CLEAN)[:, :, None]
        if self.self_conditioning is not None:
            x = torch.where(canvas, self.self_conditioning(x, feedback), x)
        if self.canvas_role is not None:
            x = x + canvas * self.canvas_role
        x, modulation = self._told(x, places, condition, cache)
        if adapter is not None and gate is not None:
            x = adapter.embed(x, tokens, places, feedback)
        if self.layer_scalars is not None:
            modulation = list(self.layer_scalars[:, canvas.long()[..., 0]][..., None])
        if level is not None:
            modulation = [level] * self.config.num_layers
        masks: list[BlockMask | Tensor | None] = []
        angles: list[tuple[Tensor, Tensor]] = []
        for kind, frequency in zip(variant.kinds, self.rotary, strict=True):
            rule = visible if kind.window is None else visible.within_context(kind.window)
            layer = variant.kind_of.index(len(masks))
            masks.append(self._mask(rule, places, cache, layer))
            angle = places.position[..., None].float() * frequency.to(x.device)  # [B, T, pairs]
            angle = torch.cat((angle, angle), -1)[:, :, None]
            grown = 1.0 if kind.scaling is None else kind.scaling.attention
            angles.append(((angle.cos() * grown).to(x.dtype), (angle.sin() * grown).to(x.dtype)))
        for layer, block in enumerate(self.blocks):
            kind_of = variant.kind_of[layer]
            terms = PLAIN if adapter is None or gate is None else adapter.terms(layer, gate)
            x = block(x, *angles[kind_of], masks[kind_of], layer, cache, terms, modulation[layer])
        return x

    def speak(self, hidden: Tensor, role: Tensor) -> Logits:
        """Logits `[..., V]` of normed states `[..., D]` at places of `role` `[...]`."""
        head, variant = self.head, self.config.variant
        logits = beside(F.linear, hidden, self.embedding.weight) if head is None else head(hidden)
        logits = logits if variant is None else cap(logits, variant)
        return logits if self.adapter is None else self.adapter.speak(logits, hidden, role)

    @property
    def self_conditioned(self) -> bool:
        if self.self_conditioning is not None:
            return True
        return self.adapter is not None and self.adapter.self_conditioning is not None

    @property
    def drafts_in_order(self) -> bool:
        """Is there a draft head, for which a draft is chosen token by token (`redraft`)?"""
        return self.adapter is not None and self.adapter.draft_head is not None

    def draft_among(self, hidden: Tensor, before: Tokens, among: Tensor) -> Logits:
        """The draft head's logits `[N, K]` of the ids `among` `[N, K]`, for normed canvas states `[N, D]`.

        before `[N, 2]`: the tokens before each, the last one first. Raises ValueError without a draft head.
        """
        if self.adapter is None or self.adapter.draft_head is None:
            raise ValueError("this checkpoint has no draft head")
        weight = self.embedding(among) if self.head is None else rows_of(self.head.weight, among)
        moved = hidden + self.adapter.draft_head(hidden, self.embedding(before))
        return (weight @ moved[..., None].to(weight.dtype))[..., 0]

    def redraft(self, logits: Logits, hidden: Tensor, before: Tokens) -> Logits:
        """Canvas logits `[N, V]` as the draft head sees them: the likeliest are judged again, all others stay below these."""
        among = logits.topk(min(CANDIDATES, logits.shape[-1]), -1).indices
        had, now = logits.gather(-1, among), self.draft_among(hidden, before, among).to(logits.dtype)
        return (logits + (now.amin(-1, keepdim=True) - had.amin(-1, keepdim=True))).scatter(-1, among, now)

    @property
    def level_input(self) -> LevelInput | None:
        """How the level of noise is told, None where it is not."""
        return self.config.level

    @property
    def hears_tempered(self) -> bool:
        """Does it hear what it said at the temperature of the step, rather than at 1 (DiffusionGemma)?"""
        return self.self_conditioning is not None

    def encode_feedback(self, logits: Logits) -> Tensor | None:
        """What was said of places `[..., V]`, as feedback to the next pass over them `[..., D]`; None if it is not heard."""
        weight, variant = self.embedding.weight, self.config.variant
        if self.self_conditioning is not None and variant is not None:
            said = wide(logits).softmax(-1).to(weight.dtype)
            return beside(torch.matmul, said, weight) * variant.embed_scale
        if self.adapter is None or self.adapter.self_conditioning is None:
            return None
        return self.adapter.expected(logits.softmax(-1).to(weight.dtype), weight)

    def _level(
        self, sigma: Tensor | None, condition: Conditions | None, cache: KVCache | Recorded | Ragged | None, rows: int
    ) -> Tensor | None:
        """The embedding `[B, 1, C]` of the noise level, a condition told with it added; None where none is told."""
        if self.level is None:
            if sigma is not None:
                raise ValueError("this checkpoint is not told the level of noise; pass sigma=None")
            return None
        if sigma is None:
            raise ValueError(
                "this checkpoint is told the level of noise (sigma, -log alpha of each row), which only plain diffusion does: "
                "generate, with decode 'diffusion'"
            )
        found: Tensor = self.level(sigma)[:, None]
        if self.conditioner is None or self.conditioner.conditioning.way != "level":
            return found
        given = condition or getattr(cache, "conditions", None) or [NULL] * rows
        return found + F.silu(self.conditioner.vectors(given).to(found.dtype))

    def _told(
        self, x: Tensor, places: Places, condition: Conditions | None, cache: KVCache | Recorded | Ragged | None
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """x `[B, T, D]` with the condition's prefix in its places, and each block's modulation."""
        if self.conditioner is None or self.conditioner.conditioning.way == "level":
            return x, [None] * self.config.num_layers
        if condition is None:
            condition = getattr(cache, "conditions", None) or [NULL] * len(x)
        row = cache.row[None] if isinstance(cache, Ragged) else torch.arange(len(x), device=x.device)[:, None]
        if not isinstance(cache, Ragged) and len(condition) != len(x):
            raise ValueError(f"{len(condition)} conditions for {len(x)} rows; give one a row")
        vectors = self.conditioner.vectors(condition).to(x.dtype)
        if self.conditioner.modulation is not None:
            return x, [told[:, row, 0] for told in self.conditioner.modulations(vectors)]
        here = (places.role == CLEAN) & (places.position < vectors.shape[1])
        index = places.position.clamp(max=vectors.shape[1] - 1)
        return torch.where(here[:, :, None], vectors[row, index], x), [None] * self.config.num_layers

    def read(self, tokens: Tokens, counts: Tensor, cache: KVCache, every: bool = False) -> Prediction:
        """Causal pass over clean text, kept in the cache: prefill, commit, verify and AR are all this.

        tokens `[B, T]` right-padded, counts int64 `[B]` of real tokens a row (0 leaves a row as it is). every: logits of
        all T rows (about position + 1), else of each row's last real token. Sets `cache.ahead` where a row read.
        A network with a `reader` reads as that says.
        """
        if self.reader is not None:
            return self.reader.read(self, tokens, counts, cache)
        if tokens.shape[1] > PIECE and not every:
            return self._read_pieces(tokens, counts, cache)
        step = torch.arange(tokens.shape[1])
        position = cache.lengths[:, None] + step
        valid = step < counts[:, None]
        position = torch.where(valid, position, 0)
        places = Places.of(position, torch.full_like(position, CLEAN), valid=valid)
        places = Places(*(x.to(tokens.device) for x in places))
        last = (counts - 1).clamp(min=0)
        want = None if every else last[:, None].to(tokens.device)
        prediction = self(tokens, places, context_causal(), cache, want)
        cache.keep(counts)
        row = torch.arange(tokens.shape[0])
        newest = prediction.logits[row, last if every else 0]
        had = cache.ahead
        cache.ahead = newest if had is None else torch.where((counts > 0)[:, None].to(newest.device), newest, had)
        return prediction

    def _read_pieces(self, tokens: Tokens, counts: Tensor, cache: KVCache) -> Prediction:
        """`read` of a long text: a piece sees only what is before it, where one pass computes the whole square of scores."""
        said = self.read(tokens[:, :PIECE], counts.clamp(max=PIECE), cache)
        for start in range(PIECE, tokens.shape[1], PIECE):
            here = (counts - start).clamp(0, PIECE)
            new = self.read(tokens[:, start : start + PIECE], here, cache)
            reads = (here > 0)[:, None].to(tokens.device)
            logits, hidden = (
                torch.where(reads[..., None], a, b) for a, b in ((new.logits, said.logits), (new.hidden, said.hidden))
            )
            said = Prediction(logits, torch.where(reads, new.about, said.about), hidden)
        return said

    def denoise(
        self,
        tokens: Tokens,
        positions: Tensor,
        valid: Where,
        cache: KVCache,
        condition: Conditions | None = None,
        feedback: Tensor | None = None,
        sigma: Tensor | None = None,
    ) -> Logits:
        """Bidirectional pass over one canvas a row, reading the cached clean text: logits `[B, C, V]` about `positions`.

        tokens and positions int64 `[B, C]` in order, valid bool `[B, C]`. feedback `[B, C, D]`: from the logits that the
        last pass over this canvas gave. sigma `[B]`: as in `forward`. Keeps nothing.
        """
        if self.reader is not None:
            return self.reader.denoise(self, tokens, valid, cache, sigma)
        places = Places.of(torch.where(valid, positions, 0), torch.full_like(positions, CANVAS), valid=valid)
        logits = self(tokens, places, context_causal(), cache, None, condition, feedback, sigma=sigma).logits
        return self._unshift(logits, cache)

    def denoise_with_shadow(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: KVCache, masks: Tokens
    ) -> tuple[Logits, Logits]:
        """`denoise`, and from the same pass the leave-one-out opinion: logits `[B, C, V]` each.

        masks int64 `[B, C]` stand in the shadows' places. A shifted checkpoint speaks about a position from the one before
        it, so there a shadow repeats the token before, and the canvas's first position has the causal logits.
        """
        if self.reader is not None:
            raise ValueError("a shadow pass needs a causal clean stream, which these weights do not have")
        count = tokens.shape[1]
        role = torch.cat((torch.full_like(positions, CANVAS), torch.full_like(positions, SHADOW)), 1)
        twice = torch.cat((valid, valid), 1)
        places = Places.of(torch.where(twice, torch.cat((positions, positions), 1), 0), role, valid=twice)
        shadows = masks if self.shift == 0 else tokens
        logits = self(torch.cat((tokens, shadows), 1), places, with_shadows(self.shift), cache).logits
        return self._unshift(logits[:, :count], cache), self._unshift(logits[:, count:], cache)

    def _unshift(self, logits: Logits, cache: KVCache) -> Logits:
        """Canvas logits as the weights give them -> about their own positions."""
        if self.shift == 0:
            return logits
        if cache.ahead is None:
            raise ValueError(
                "a shifted checkpoint needs the causal logits of the last clean token: read before denoising"
            )
        return torch.cat((cache.ahead[:, None].to(logits.dtype), logits[:, :-1]), 1)

"""Variant: in what a checkpoint's network differs from Llama. Sizes and switches only; `layers_variant.py` builds them.

    Llama      RMSNorm, rotary positions, grouped queries, SwiGLU, no biases             -> ModelConfig.variant is None
    Qwen2      + biases of q, k, v                      Qwen3     + norms of q and k
    Gemma 3    + norms after attention and MLP, two kinds of layer (window, rotary), GELU, scaled embeddings
    GPT-2      LayerNorm, learned positions, biases everywhere, no gate
    LLaDA2     + rotary on half of a head, experts chosen within groups
    SEDD       LayerNorm modulated by the level of noise, no gate in the MLP

A kind is what may differ from layer to layer. A layer's number in `kind_of` says which kind it is of.
"""

from __future__ import annotations

from dataclasses import dataclass

NORMS = ("rms", "layer")
ACTIVATIONS = ("silu", "gelu_tanh")
SCALINGS = ("linear", "llama3", "yarn")
PREDICTIONS = ("full", "leave_one_out", "score")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(str, allowed))}")


@dataclass(frozen=True)
class Scaling:
    """How rotary frequencies are stretched beyond the `original` context. Sources: `rotary_frequencies`.

    way: linear (all by `factor`), llama3 (the slow ones), yarn (blended between `fast` and `slow` turns, cos and sin
    multiplied by `attention`).
    """

    way: str
    factor: float
    original: int = 8192
    slow: float = 1.0
    fast: float = 4.0
    attention: float = 1.0

    def __post_init__(self) -> None:
        _one_of("rotary scaling", self.way, SCALINGS)
        if not self.factor >= 1 or self.original < 1 or not 0 < self.slow < self.fast:
            raise ValueError(f"rotary scaling {self} cannot be: factor >= 1, original >= 1, 0 < slow < fast")


@dataclass(frozen=True)
class Kind:
    """One kind of layer. theta 0: no rotary positions. share: of a head's pairs that rotate, the first ones.

    proportional: their frequencies are those of the whole head (Gemma 4), else those of a head of share * H.
    window: keys further back than this are not seen. head_size, num_kv_heads: None for the network's.
    value_is_key: values are the unnormed keys, and there is no product for them.
    """

    theta: float = 10000.0
    share: float = 1.0
    proportional: bool = False
    scaling: Scaling | None = None
    window: int | None = None
    head_size: int | None = None
    num_kv_heads: int | None = None
    value_is_key: bool = False

    def __post_init__(self) -> None:
        if self.theta < 0 or not 0 < self.share <= 1:
            raise ValueError(f"theta {self.theta} and share {self.share} of rotary positions; expected >= 0 and (0, 1]")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1")


@dataclass(frozen=True)
class Experts:
    """Mixture of experts in the layers from `first` on: `per_token` of `count`, each an MLP of `width`.

    score: softmax over all, or sigmoid with a bias that counts for the choice alone. groups: only the experts of the
    `groups_kept` best of so many groups may be chosen. scale: of the weights. normalised: the weights sum to `scale`.
    shared_width: of an MLP that every token takes too, 0 for none. beside: the layer's own MLP stays, each half with
    norms of its own, and the router reads the raw residual (Gemma 4).
    """

    count: int
    per_token: int
    width: int
    first: int = 0
    score: str = "softmax"
    groups: int = 1
    groups_kept: int = 1
    scale: float = 1.0
    normalised: bool = True
    shared_width: int = 0
    beside: bool = False

    def __post_init__(self) -> None:
        _one_of("score", self.score, ("softmax", "sigmoid"))
        if not 1 <= self.per_token <= self.count or self.width < 1 or self.shared_width < 0 or self.first < 0:
            raise ValueError(f"experts cannot be: {self}")
        if self.count % self.groups or not 1 <= self.groups_kept <= self.groups:
            raise ValueError(f"{self.count} experts in {self.groups} groups, {self.groups_kept} kept; cannot be")
        if self.per_token > self.groups_kept * (self.count // self.groups):
            raise ValueError(f"{self.per_token} experts a token, but only {self.groups_kept} groups may be chosen from")
        if self.groups > 1 and self.count // self.groups < 2:
            raise ValueError(f"{self.count} experts in {self.groups} groups; a group is judged by its best two")


@dataclass(frozen=True)
class LevelInput:
    """The network is told the level of noise (`level.py`), as an embedding of `width` numbers.

    prediction: its logits are those of the clean token given all of the noisy text (full) or all but the token's own place
    (leave_one_out), or logarithms of ratios p(text with this token here) / p(text) of noisy texts (score, arXiv 2310.16834).
    scaled: the ratios are exp(logits) / ((exp(sigma) - 1) (V - 1)), so that the logits stay near 0 at every level.
    """

    width: int
    prediction: str = "full"
    scaled: bool = False

    def __post_init__(self) -> None:
        _one_of("prediction", self.prediction, PREDICTIONS)
        if self.width < 1:
            raise ValueError(f"width of the level's embedding is {self.width}; it must be at least 1")
        if self.scaled and self.prediction != "score":
            raise ValueError(f"only scores are scaled; prediction is {self.prediction!r}")


@dataclass(frozen=True)
class Variant:
    """All switches; the defaults are Llama's.

    sandwich: norms after attention and MLP too. layer_scalars: a block's output is multiplied by one number, another for
    clean than for canvas places. attention_scale: of q k, None for head_size ** -0.5. logit_cap: c tanh(logits / c).
    """

    kinds: tuple[Kind, ...] = (Kind(),)
    kind_of: tuple[int, ...] = ()
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False
    v_norm: bool = False
    norm: str = "rms"
    norm_bias: bool = False
    gated: bool = True
    activation: str = "silu"
    sandwich: bool = False
    layer_scalars: bool = False
    self_conditioning: bool = False
    learned_positions: bool = False
    embed_scale: float = 1.0
    attention_scale: float | None = None
    logit_cap: float | None = None
    experts: Experts | None = None
    level: LevelInput | None = None

    def __post_init__(self) -> None:
        _one_of("norm", self.norm, NORMS)
        _one_of("activation", self.activation, ACTIVATIONS)
        if not self.kinds or any(not 0 <= i < len(self.kinds) for i in self.kind_of):
            raise ValueError(f"layers of kinds {sorted(set(self.kind_of))}, but there are {len(self.kinds)} kinds")
        for name in ("embed_scale", "attention_scale", "logit_cap"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive")

    @property
    def even(self) -> bool:
        """Are all layers of the same shape, without experts? Then an adapter fits."""
        return self.experts is None and all(
            k.head_size is k.num_kv_heads is None and not k.value_is_key for k in self.kinds
        )

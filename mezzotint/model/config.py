"""Sizes of a denoiser: everything that fixes the shapes of its weights and the meaning of its positions."""

from __future__ import annotations

from dataclasses import dataclass

from mezzotint.model.variant import Kind, LevelInput, Variant


@dataclass(frozen=True)
class Conditioning:
    """What a network can be told beside its text (`model/condition.py`). Raises ValueError for what cannot be.

    classes: how many labels; embedding: numbers of an embedding; 0 for none. way: prefix (`length` soft tokens before the
    text), adaln (every block modulated, length 1) or level (added to the embedding of the level of noise, length 1).
    """

    classes: int = 0
    embedding: int = 0
    way: str = "prefix"
    length: int = 1

    def __post_init__(self) -> None:
        for name in ("classes", "embedding"):
            if not 0 <= (value := getattr(self, name)) <= 1 << 16:
                raise ValueError(f"{name} is {value}; it must lie between 0 and {1 << 16}")
        if self.classes == self.embedding == 0:
            raise ValueError("a conditioning needs classes, an embedding or both; both are 0")
        if self.way not in ("prefix", "adaln", "level"):
            raise ValueError(f"way is {self.way!r}; allowed: prefix, adaln, level")
        if not 1 <= self.length <= (most := 64 if self.way == "prefix" else 1):
            raise ValueError(f"length is {self.length}; with {self.way} it must lie between 1 and {most}")

    @property
    def prefix(self) -> int:
        """Positions that the condition takes up before the text."""
        return self.length if self.way == "prefix" else 0


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-like network. variant: in what it differs from Llama, None for in nothing.

    Raises ValueError for sizes that cannot be built.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    mlp_width: int
    max_length: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied_head: bool = True
    canvas_role: bool = (
        False  # a vector `[D]` added to canvas embeddings: one set of weights, told which role a place has
    )
    condition: Conditioning | None = None
    variant: Variant | None = None

    def kind(self, layer: int) -> Kind:
        """What kind of layer this is."""
        if self.variant is None:
            return Kind(self.rope_theta)
        return self.variant.kinds[self.variant.kind_of[layer]]

    def heads(self, layer: int) -> tuple[int, int, int]:
        """(query heads, key and value heads, head size) of a layer."""
        kind = self.kind(layer)
        return self.num_heads, kind.num_kv_heads or self.num_kv_heads, kind.head_size or self.head_size

    @property
    def cached(self) -> tuple[int, int]:
        """(heads, head size) that hold the keys and values of every layer."""
        if self.variant is None or self.variant.even:
            return self.num_kv_heads, self.head_size
        sizes = [self.heads(layer) for layer in range(self.num_layers)]
        return max(kv for _, kv, _ in sizes), max(size for _, _, size in sizes)

    @property
    def level(self) -> LevelInput | None:
        """How the network is told the level of noise, None where it is not."""
        return None if self.variant is None else self.variant.level

    @property
    def prefix(self) -> int:
        """Positions before the text that belong to the condition; a prompt's ids there are placeholders."""
        return self.condition.prefix if self.condition else 0

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_size", "mlp_width", "max_length"
        ):  # fmt: skip
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_size % 2:
            raise ValueError(f"head_size is {self.head_size}; rotary positions need an even size")
        if not self.rope_theta > 0 or not self.norm_eps > 0:
            raise ValueError(f"rope_theta {self.rope_theta} and norm_eps {self.norm_eps} must be positive")
        if self.variant is not None:
            self._check(self.variant)
        if self.condition is not None and self.condition.way == "level" and self.level is None:
            raise ValueError("a condition told with the level needs a network that is told the level")

    def _check(self, variant: Variant) -> None:
        if len(variant.kind_of) != self.num_layers:
            raise ValueError(f"{self.num_layers} layers, but kinds for {len(variant.kind_of)}")
        if self.condition is not None and self.condition.way == "adaln":
            raise ValueError("a condition told by adaln is only known to networks without a variant")
        for layer in range(self.num_layers):
            heads, kv_heads, size = self.heads(layer)
            if kv_heads < 1 or heads % kv_heads or size < 2 or size % 2:
                raise ValueError(
                    f"layer {layer} has {heads} heads of {size}, {kv_heads} for keys and values; cannot be"
                )

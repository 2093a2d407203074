"""The fast runtime: the same networks with packed weights and int8 products, for decoding on a CPU (`mezzotint[fast]`)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mezzotint.checkpoints.load import Checkpoint
    from mezzotint.model.denoiser import Denoiser

COMPUTE = ("float32", "int8", "int8-weights", "fp8-weights", "int4-weights", "auto")
NEEDS = ("onnx", "onnxruntime")


def chosen(compute: str) -> str:
    """`auto` is int8 where its packages are installed, else float32. Raises ValueError for another, and without them."""
    if compute not in COMPUTE:
        raise ValueError(f"compute is {compute!r}; allowed: {', '.join(COMPUTE)}")
    if compute == "float32" or compute.endswith("-weights"):
        return compute
    lacking = [name for name in NEEDS if find_spec(name) is None]
    if lacking and compute == "int8":
        raise ValueError(f"compute 'int8' needs {' and '.join(lacking)}: pip install 'mezzotint[fast]'")
    return "float32" if lacking else "int8"


def fast_denoiser(checkpoint: Checkpoint, threads: int | None = None) -> Denoiser:
    """The network of a checkpoint on the fast runtime. Raises ValueError for one that it cannot compute."""
    from mezzotint.runtime.denoiser import FastDenoiser, give_back
    from mezzotint.runtime.weights import Parts

    denoiser = FastDenoiser(Parts.of(checkpoint), threads)
    give_back()
    return denoiser

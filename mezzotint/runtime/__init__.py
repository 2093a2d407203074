"""The fast runtimes: the same networks with packed weights and int8 products on a CPU (`mezzotint[fast]`), captured on a GPU."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from mezzotint.checkpoints.load import Checkpoint
    from mezzotint.model.denoiser import Denoiser

COMPUTE = ("float32", "int8", "int8-weights", "fp8-weights", "int4-weights", "cuda", "cuda-float32", "auto")
NEEDS = ("onnx", "onnxruntime")


def chosen(compute: str) -> str:
    """`auto` is int8 where its packages are installed, else float32.

    Raises ValueError for another, for int8 without its packages, and for cuda where torch sees no GPU.
    """
    if compute not in COMPUTE:
        raise ValueError(f"compute is {compute!r}; allowed: {', '.join(COMPUTE)}")
    if compute == "float32" or compute.endswith("-weights"):
        return compute
    if compute.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"compute is {compute!r}, but torch sees no GPU here; auto takes the best of the CPU")
        return compute
    lacking = [name for name in NEEDS if find_spec(name) is None]
    if lacking and compute == "int8":
        raise ValueError(f"compute 'int8' needs {' and '.join(lacking)}: pip install 'mezzotint[fast]'")
    return "float32" if lacking else "int8"


def fast_denoiser(checkpoint: Checkpoint, threads: int | None = None) -> Denoiser:
    """The network of a checkpoint on the fast runtime. Raises ValueError for one that it cannot compute."""
    from mezzotint.runtime.denoiser import FastDenoiser, give_back
    from mezzotint.runtime.weights import Parts

    denoiser = FastDenoiser(Parts.of(checkpoint), threads, again=partial(Parts.of, checkpoint))
    give_back()
    return denoiser


def captured(checkpoint: Checkpoint, dtype: torch.dtype) -> Denoiser:
    """The network of a checkpoint on this machine's GPU. Raises ValueError for one whose passes are not captured."""
    from mezzotint.runtime.captured import CapturedDenoiser

    return CapturedDenoiser(checkpoint.denoiser(dtype=dtype), "cuda", dtype)

"""Weights in 8 bits: what a product, a network of every family and a file that is being read make of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import toy
import toy_folder
from safetensors.numpy import save_file

import mezzotint as mz
from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.load import load
from mezzotint.model import int8
from mezzotint.model.adapter import AdapterConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.int8 import Int8Linear, Rounded, Weight, product
from mezzotint.model.visibility import CLEAN, Places, full


def rounded(weight: torch.Tensor) -> Rounded:
    found = Weight(*weight.shape).whole
    found.copy_(weight)
    return found


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_number_is_within_half_a_step_of_its_row() -> None:
    weight = numbers(3, 20, 50) * torch.logspace(-30, 3, 60).view(3, 20, 1)
    weight[1, 4] = 0
    held = rounded(weight)
    step = weight.abs().amax(-1, keepdim=True) / 127
    assert bool(((held.floats() - weight).abs() <= 0.5001 * step).all())
    assert held.rows.dtype == torch.int8 and int(held.rows.abs().max()) == 127
    assert not bool(held.floats()[1, 4].any())


@pytest.mark.parametrize("width", [24, 128])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_product_is_that_of_the_rounded_weights(rows: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "PIECE", 7 * width)  # 7 rows a piece: the last one is not whole
    weight, bias = rounded(numbers(37, width)), numbers(37)
    x = numbers(2, rows, width, seed=1)
    expected = F.linear(x, weight.floats(), bias)
    assert torch.allclose(product(x, weight, bias), expected, atol=1e-5)
    near = product(x.bfloat16(), weight, bias.bfloat16())
    assert near.dtype == torch.bfloat16 and float((near - expected).norm() / expected.norm()) < 0.01


def test_the_kernel_for_bytes_agrees_where_it_is_used() -> None:
    weight, x = rounded(numbers(48, 256)), numbers(int8.FEW, 256, seed=1).bfloat16()
    few, many = product(x, weight), product(torch.cat((x, x)), weight)
    assert float((few - many[: len(x)]).float().norm() / many.float().norm()) < 0.005


def test_what_is_not_finite_is_refused() -> None:
    for bad in (torch.inf, torch.nan):
        with pytest.raises(ValueError, match="not finite"):
            rounded(torch.tensor([[1.0, bad]]))


@pytest.mark.parametrize("name", toy_folder.NAMES)
def test_a_network_of_every_family_computes_with_its_rounded_weights(name: str, tmp_path: Path) -> None:
    toy_folder.write(name, tmp_path)
    checkpoint = load(tmp_path)
    network, plain = checkpoint.denoiser(quantize="int8"), checkpoint.denoiser()
    slots, count = plain.slots(), 0
    for slot, held in network.every_slot().items():
        if isinstance(held, Rounded):
            step = slots[slot].abs().amax(-1, keepdim=True) / 127
            assert bool(((held.floats() - slots[slot]).abs() <= 0.5001 * step).all()), slot
            slots[slot].copy_(held.floats())
            count += held.rows.numel()
        else:
            assert torch.equal(held, slots[slot]), slot
    assert count > 0.4 * checkpoint.parameters  # all but embeddings and norms, which are large beside toys
    tokens = torch.tensor([[3, 17, 8, 30, 5, 22, 11, 36, 2]])
    places = Places.of(torch.arange(9)[None], torch.full((1, 9), CLEAN))
    with torch.inference_mode():
        said, expected = network(tokens, places, full()).logits, plain(tokens, places, full()).logits
    assert torch.allclose(said, expected, atol=1e-4)


def test_its_scales_stay_float32_and_its_bytes_are_few(tmp_path: Path) -> None:
    toy_folder.write("qwen3_moe", tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        network = load(tmp_path).denoiser(dtype, quantize="int8")
        scales = [module.scale for module in network.modules() if isinstance(module, Weight)]
        assert scales and all(scale.dtype == torch.float32 for scale in scales)
        assert network.embedding.weight.dtype == dtype
        assert not any(p.requires_grad for p in network.parameters())


def test_it_only_computes(tmp_path: Path) -> None:
    toy_folder.write("sdar", tmp_path)
    checkpoint = load(tmp_path)
    network = checkpoint.denoiser(quantize="int8")
    assert isinstance(network, Denoiser) and isinstance(network.head, Int8Linear)
    with pytest.raises(ValueError, match="weights in 8 bits only compute"):
        network.slots()
    for unknown in ("fp8", "int4", "8"):
        with pytest.raises(ValueError, match=rf"quantize is '{unknown}'; allowed: int8 \(fp8"):
            checkpoint.denoiser(quantize=unknown)
    with pytest.raises(ValueError, match="compute is 'fp8'; allowed: float32, int8, int8-weights, auto"):
        mz.Engine(checkpoint, compute="fp8")


def test_an_adapter_lies_on_it_as_on_any_other(tmp_path: Path) -> None:
    toy_folder.write("llama", tmp_path)
    network = load(tmp_path).denoiser(quantize="int8")
    network.adapt(AdapterConfig(rank=2, alpha=4, control_ids=(36, 37, 38, 39)))
    adapter = network.adapter
    assert adapter is not None and adapter.control_out is not None
    head = network.every_slot()["lm_head.weight"]
    assert isinstance(head, Rounded)
    assert torch.allclose(adapter.control_out, head.floats().mean(0).expand(4, -1), atol=1e-6)


def test_a_number_that_is_not_finite_names_its_tensor(tmp_path: Path) -> None:
    tensors = toy_folder.write("qwen3", tmp_path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"tensor 'model.layers.1.mlp.up_proj.weight' at byte \d+: holds numbers that"
    ):
        load(tmp_path).denoiser(quantize="int8")
    assert toy.checksum(tensors) != toy_folder.golden("qwen3")["checksum"]


def test_an_engine_writes_with_it(tmp_path: Path) -> None:
    """A network of a kind that the fast runtime does not know."""
    toy_folder.write("sdar", tmp_path)
    checkpoint = load(tmp_path)
    with pytest.raises(ValueError, match="use compute 'float32' or 'int8-weights'"):
        mz.Engine(checkpoint, compute="int8")
    engine = mz.Engine(checkpoint, compute="int8-weights")
    (reply,) = engine.generate(mz.Request("ABC", raw=True, max_tokens=8, decode="diffusion"))
    assert engine.compute == "int8-weights" and reply.text

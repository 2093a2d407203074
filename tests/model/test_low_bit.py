"""Weights in 8 and 4 bits: what a product, a network of every family and a file that is being read make of them."""

from __future__ import annotations

import itertools
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
from mezzotint.model import low_bit
from mezzotint.model.adapter import AdapterConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.low_bit import FP8, KINDS, Rounded, RoundedLinear, Weight, fp8_product, product
from mezzotint.model.visibility import CLEAN, Places, full


def rounded(weight: torch.Tensor, kind: str = "int8") -> Rounded:
    found = Weight(kind, *weight.shape).whole
    found.copy_(weight)
    return found


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step_of(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """How far the rounded numbers may be from the weight `[.., K]`: half a step, and in 4 bits what float16 rounds off."""
    largest = weight.abs().amax(-1, keepdim=True)
    if kind == "int8":
        return 0.5001 * largest / 127
    if kind == "fp8":  # three bits behind the first: 2^-4 of a number, and of the smallest normal one below it
        return 1.001 * (weight.abs() * 2**-4).clamp(min=largest / 448 * 2**-10)
    blocks = torch.cat((weight, weight[..., -1:].expand(*weight.shape[:-1], -weight.shape[-1] % 32)), -1)
    low, high = blocks.unflatten(-1, (-1, 32)).aminmax(dim=-1)
    half = 0.502 * (high - low) / 15 + 2**-11 * (low.abs() + (high - low)) + 2**-24  # subnormal steps too
    return half.repeat_interleave(32, -1)[..., : weight.shape[-1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [50, 64])
def test_every_number_is_within_half_a_step_of_its_row(kind: str, width: int) -> None:
    low, high = (-3, 3) if kind == "int4" else (-30, 3)
    weight = numbers(3, 20, width) * torch.logspace(low, high, 60).view(3, 20, 1)
    weight[1, 4] = 0
    held = rounded(weight, kind)
    assert held.shape == weight.shape and held.floats().shape == weight.shape
    assert bool(((held.floats() - weight).abs() <= step_of(weight, kind)).all())
    assert (
        held.rows.element_size() == 1 and held.rows.dtype == {"int8": torch.int8, "fp8": FP8, "int4": torch.uint8}[kind]
    )
    if kind == "int8":
        assert int(held.rows.abs().max()) == 127
    assert not bool(held.floats()[1, 4].any())
    again = rounded(held.floats(), kind)
    assert torch.allclose(again.floats(), held.floats(), rtol=1e-3, atol=0)  # rounding what is rounded changes nothing
    assert torch.equal(held[1].floats(), held.floats()[1]) and torch.equal(held[2, 3:5].floats(), held.floats()[2, 3:5])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [24, 128])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_product_is_that_of_the_rounded_weights(
    rows: int, width: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_bit, "PIECE", 7 * width)  # 7 rows a piece: the last one is not whole
    weight, bias = rounded(numbers(37, width), kind), numbers(37)
    x = numbers(2, rows, width, seed=1)
    expected = F.linear(x, weight.floats(), bias)
    assert torch.allclose(product(x, weight, bias), expected, atol=2e-5)
    near = product(x.bfloat16(), weight, bias.bfloat16())
    assert near.dtype == torch.bfloat16 and float((near - expected).norm() / expected.norm()) < 0.01


def test_the_kernel_for_bytes_agrees_where_it_is_used() -> None:
    weight, x = rounded(numbers(48, 256)), numbers(low_bit.FEW, 256, seed=1).bfloat16()
    few, many = product(x, weight), product(torch.cat((x, x)), weight)
    assert float((few - many[: len(x)]).float().norm() / many.float().norm()) < 0.005


def test_products_of_fp8_by_fp8() -> None:
    """What a GPU that has them does; torch computes the same call here."""
    weight, x = rounded(numbers(48, 256), "fp8"), numbers(9, 256, seed=1) * torch.logspace(-3, 3, 9)[:, None]
    found, expected = fp8_product(x, weight), F.linear(x, weight.floats())
    rows = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert found.shape == expected.shape and 0.001 < float(rows.max()) < 0.05
    assert not bool(fp8_product(torch.zeros(2, 256), weight).any())


def test_every_byte_of_fp8_is_the_number_that_torch_says() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F].view(FP8)[None]  # not the two that are no numbers
    held = Rounded(codes, torch.ones(1), None, codes.shape[1])
    piece = torch.empty(codes.shape)
    held.unscaled_into(piece)
    assert torch.equal(piece * 256, codes.float()) and float(held.row_scale) == 256


def test_blocks_of_q4_1_are_kept() -> None:
    """A GGUF's numbers, made float and rounded again: the same numbers."""
    generator = torch.Generator().manual_seed(3)
    steps = torch.randint(0, 16, (40, 4, 32), generator=generator).float()
    steps[..., 0], steps[..., 1] = 0, 15  # as its own rounding leaves them
    d = (torch.rand(40, 4, 1, generator=generator) * 0.01).half().float()
    m = (torch.randn(40, 4, 1, generator=generator) * 0.1).half().float()
    weight = (d * steps + m).flatten(1)
    assert torch.equal(rounded(weight, "int4").floats(), weight)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_refused(kind: str) -> None:
    for bad in (torch.inf, torch.nan):
        with pytest.raises(ValueError, match="not finite"):
            rounded(torch.tensor([[1.0, bad]]), kind)


def test_what_float16_cannot_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond what float16 does"):
        rounded(torch.tensor([[1e6, -1e6]]), "int4")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", toy_folder.NAMES)
def test_a_network_of_every_family_computes_with_its_rounded_weights(name: str, kind: str, tmp_path: Path) -> None:
    toy_folder.write(name, tmp_path)
    checkpoint = load(tmp_path)
    network, plain = checkpoint.denoiser(quantize=kind), checkpoint.denoiser()
    slots, count = plain.slots(), 0
    for slot, held in network.every_slot().items():
        if isinstance(held, Rounded):
            assert bool(((held.floats() - slots[slot]).abs() <= step_of(slots[slot], kind)).all()), slot
            slots[slot].copy_(held.floats())
            count += held.shape.numel()
        else:
            assert torch.equal(held, slots[slot]), slot
    assert count > 0.4 * checkpoint.parameters  # all but embeddings and norms, which are large beside toys
    tokens = torch.tensor([[3, 17, 8, 30, 5, 22, 11, 36, 2]])
    places = Places.of(torch.arange(9)[None], torch.full((1, 9), CLEAN))
    with torch.inference_mode():
        level = {} if plain.config.level is None else {"sigma": torch.tensor([0.7])}
        said, expected = (one(tokens, places, full(), **level).logits for one in (network, plain))
    assert torch.allclose(said, expected, atol=1e-4)


def test_its_scales_stay_float32_and_its_bytes_are_few(tmp_path: Path) -> None:
    toy_folder.write("qwen3_moe", tmp_path)
    for dtype, kind in itertools.product((torch.float32, torch.bfloat16), KINDS):
        network = load(tmp_path).denoiser(dtype, quantize=kind)
        scales = [module.scale for module in network.modules() if isinstance(module, Weight)]
        wanted = torch.float16 if kind == "int4" else torch.float32
        assert scales and all(scale.dtype == wanted for scale in scales)
        assert network.embedding.weight.dtype == dtype
        assert not any(p.requires_grad for p in network.parameters())


def test_it_only_computes(tmp_path: Path) -> None:
    toy_folder.write("sdar", tmp_path)
    checkpoint = load(tmp_path)
    network = checkpoint.denoiser(quantize="int8")
    assert isinstance(network, Denoiser) and isinstance(network.head, RoundedLinear)
    with pytest.raises(ValueError, match="rounded weights only compute"):
        network.slots()
    for unknown in ("fp4", "8"):
        with pytest.raises(ValueError, match=rf"quantize is '{unknown}'; allowed: int8, fp8, int4"):
            checkpoint.denoiser(quantize=unknown)
    with pytest.raises(
        ValueError,
        match="compute is 'fp8'; allowed: float32, int8, int8-weights, fp8-weights, int4-weights, cuda, cuda-float32, auto",
    ):
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


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_writes_with_it(kind: str, tmp_path: Path) -> None:
    """A network of a kind that the fast runtime does not know."""
    toy_folder.write("sdar", tmp_path)
    checkpoint = load(tmp_path)
    with pytest.raises(ValueError, match="use compute 'float32', or 'int8-weights'"):
        mz.Engine(checkpoint, compute="int8")
    engine = mz.Engine(checkpoint, compute=f"{kind}-weights")
    (reply,) = engine.generate(mz.Request("ABC", raw=True, max_tokens=8, decode="diffusion"))
    assert engine.compute == f"{kind}-weights" and reply.text

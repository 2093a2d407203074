"""Every family against its reference implementation: logits of a tiny checkpoint in its layout, in every way we compute them.

The goldens were recorded by `tests/golden/families/make.py`; the weights are made from the tensors' names (`toy.py`).
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
import toy_folder
from safetensors.numpy import save_file
from torch import Tensor

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.families import FAMILIES, find
from mezzotint.checkpoints.load import Checkpoint, load
from mezzotint.model.condition import Condition
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.stale import BlockReader
from mezzotint.model.visibility import CANVAS, CLEAN, Places, Visibility, blocks, context_causal, full
from mezzotint.sampler.level import log_scores

TOLERANCE = 1e-4


def checkpoint_of(name: str, folder: Path) -> Checkpoint:
    """A family's tiny checkpoint, written and loaded."""
    tensors = toy_folder.write(name, folder)
    assert toy.checksum(tensors) == toy_folder.golden(name)["checksum"]
    return load(folder)


def near(logits: Tensor, expected: list[list[float]]) -> None:
    wanted = torch.tensor(expected)
    assert logits.shape == wanted.shape
    assert float((logits - wanted).abs().max()) < TOLERANCE


def places(count: int, role: int, first: int = 0) -> Places:
    position = torch.arange(first, first + count)[None]
    return Places.of(position, torch.full_like(position, role))


def row(tokens: list[int]) -> Tensor:
    return torch.tensor([tokens])


def flexed(
    denoiser: Denoiser, tokens: list[int], visible: Visibility, at: Places | None = None, **more: Tensor
) -> Tensor:  # fmt: skip
    """Logits `[1, T, V]` of one pass with FlexAttention."""
    denoiser.flexible = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FlexAttention without compiling says that it is slow
        logits = denoiser(row(tokens), at or places(len(tokens), CLEAN), visible, **more).logits
    denoiser.flexible = False
    return logits


def causal(denoiser: Denoiser, mode: dict[str, Any]) -> None:
    """One pass; into a cache at once, in pieces, and beside a shorter row; FlexAttention."""
    tokens, expected = mode["tokens"], mode["logits"]
    count = len(tokens)
    near(denoiser(row(tokens), places(count, CLEAN), context_causal()).logits[0], expected)
    for pieces in ([count], [1] * count, [3, count - 3]):
        cache, first, said = denoiser.new_cache(1, count), 0, []
        for size in pieces:
            part = row(tokens[first : first + size])
            said.append(denoiser.read(part, torch.tensor([size]), cache, every=True).logits[0])
            first += size
        near(torch.cat(said), expected)
        near(cache.ahead, expected[-1:])
    cache = denoiser.new_cache(2, count + 2)
    both = torch.tensor([tokens, tokens[:4] + [0] * (count - 4)])
    logits = denoiser.read(both, torch.tensor([count, 4]), cache, every=True).logits
    near(logits[0], expected)
    near(logits[1, :4], expected[:4])
    rest = torch.tensor([[0, 0], tokens[4:6]])
    near(denoiser.read(rest, torch.tensor([0, 2]), cache, every=True).logits[1], expected[4:6])
    near(flexed(denoiser, tokens, context_causal())[0], expected)


def denoised(denoiser: Denoiser, context: list[int], canvas: list[int], feedback: Tensor | None = None) -> Tensor:
    """Logits `[C, V]` as the weights give them, the context read into a cache."""
    cache = denoiser.new_cache(1, len(context) + len(canvas))
    denoiser.read(row(context), torch.tensor([len(context)]), cache)
    shift, denoiser.shift = denoiser.shift, 0
    positions = torch.arange(len(context), len(context) + len(canvas))[None]
    valid = torch.ones(1, len(canvas), dtype=torch.bool)
    logits = denoiser.denoise(row(canvas), positions, valid, cache, None, feedback)[0]
    denoiser.shift = shift
    return logits


def canvas(denoiser: Denoiser, mode: dict[str, Any]) -> None:
    """Behind a cache, and in one pass with its context."""
    context, tokens, expected = mode["context"], mode["canvas"], mode["logits"]
    near(denoised(denoiser, context, tokens), expected)
    both = places(len(context), CLEAN).cat(places(len(tokens), CANVAS, len(context)))
    near(denoiser(row(context + tokens), both, context_causal()).logits[0, len(context) :], expected)
    near(flexed(denoiser, context + tokens, context_causal(), both)[0, len(context) :], expected)


def feedback(denoiser: Denoiser, mode: dict[str, Any]) -> None:
    """The next call hears what the last one said, at the temperature of its step."""
    said = denoised(denoiser, mode["context"], mode["canvas"])
    heard = denoiser.encode_feedback(said[None] / mode["temperature"])
    near(denoised(denoiser, mode["context"], mode["next"], heard), mode["logits"])


def whole(denoiser: Denoiser, mode: dict[str, Any]) -> None:
    """Everyone sees everyone: one pass, and as a canvas behind any part of the text."""
    tokens, expected = mode["tokens"], mode["logits"]
    near(denoiser(row(tokens), places(len(tokens), CLEAN), full()).logits[0], expected)
    near(flexed(denoiser, tokens, full())[0], expected)
    denoiser.reader = BlockReader(None)
    for known in (1, 5):
        near(denoised(denoiser, tokens[:known], tokens[known:]), expected[known:])


def block(denoiser: Denoiser, mode: dict[str, Any]) -> None:
    """One pass; and each block as a canvas behind the cached ones, from its start and from its middle, rows uneven."""
    tokens, expected, size = mode["tokens"], mode["logits"], mode["size"]
    near(denoiser(row(tokens), places(len(tokens), CLEAN), blocks(size)).logits[0], expected)
    near(flexed(denoiser, tokens, blocks(size))[0], expected)
    denoiser.reader = BlockReader(size)
    for known in (size, size + 1, 2 * size - 1, 2 * size):
        end = (known // size + 1) * size
        near(denoised(denoiser, tokens[:known], tokens[known:end]), expected[known:end])
    cache = denoiser.new_cache(2, len(tokens))
    denoiser.read(torch.tensor([tokens[:5], [*tokens[:3], 0, 0]]), torch.tensor([5, 3]), cache)
    denoiser.read(torch.tensor([tokens[5:8], [tokens[3], 0, 0]]), torch.tensor([3, 1]), cache)
    shift, denoiser.shift = denoiser.shift, 0
    logits = denoiser.denoise(torch.tensor([tokens[8:12], tokens[4:8]]), torch.zeros(2, 4), torch.ones(2, 4) > 0, cache)
    denoiser.shift = shift
    near(logits[0], expected[8:12])
    near(logits[1], expected[4:8])


def level(denoiser: Denoiser, mode: dict[str, Any]) -> None:
    """One pass; as a canvas behind any part of the text; in a batch whose rows are told other levels, FlexAttention."""
    tokens, expected, told = mode["tokens"], mode["logits"], denoiser.level_input
    assert told is not None
    sigma = torch.tensor([mode["sigma"]])
    if "class" in mode:
        told_classes = denoiser.config.condition
        assert told_classes is not None
        label = mode["class"] if mode["class"] < told_classes.classes else None  # the row behind the last is the null
        denoiser = denoiser.following([Condition(class_label=label)])

    def heard(logits: Tensor, ids: list[int]) -> Tensor:
        """What the reference's network says: of scores their logarithms."""
        return log_scores(told, logits[None], row(ids), sigma)[0] if told.prediction == "score" else logits

    for known in (1, 5):
        cache = denoiser.new_cache(1, len(tokens))
        denoiser.read(row(tokens[:known]), torch.tensor([known]), cache)
        positions, rest = torch.arange(known, len(tokens))[None], row(tokens[known:])
        logits = denoiser.denoise(rest, positions, rest >= 0, cache, sigma=sigma)
        near(heard(logits[0], tokens[known:]), expected[known:])
    if "class" in mode:
        return
    at, sigmas = places(len(tokens), CLEAN), torch.tensor([mode["sigma"], 1.1])
    both = Places.of(at.position.expand(2, -1), at.role.expand(2, -1))
    near(heard(denoiser(row(tokens), at, full(), sigma=sigma).logits[0], tokens), expected)
    two = denoiser(torch.tensor([tokens, tokens[::-1]]), both, full(), sigma=sigmas).logits
    near(heard(two[0], tokens), expected)
    assert not torch.allclose(two[0], denoiser(row(tokens), at, full(), sigma=sigmas[1:]).logits[0], atol=0.1)
    near(heard(flexed(denoiser, tokens, full(), sigma=sigma)[0], tokens), expected)
    with pytest.raises(ValueError, match=r"told the level of noise \(sigma.*only plain diffusion does"):
        denoiser(row(tokens), at, full())


CHECKS = {"causal": causal, "canvas": canvas, "feedback": feedback, "full": whole, "blocks": block, "level": level}


@pytest.mark.parametrize("name", toy_folder.NAMES)
def test_logits(name: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(name, tmp_path)
    with torch.inference_mode():
        for mode in toy_folder.golden(name)["modes"]:
            CHECKS[mode["mode"]](checkpoint.denoiser(), mode)


def test_nemotron_is_ministral3_under_names_of_its_own(tmp_path: Path) -> None:
    """Its `encoder` is Ministral 3 and its head `diffusion_head`, says its modelling file, which could not be run."""
    told = toy_folder.golden("ministral3")
    names = {"model.": "encoder.", "lm_head.": "diffusion_head."}
    tensors = {
        re.sub(r"^(model|lm_head)\.", lambda match: names[match[0]], name): tensor
        for name, tensor in toy.weights(told["tensors"]).items()
    }
    own = {
        "model_type": "nemotron_labs_diffusion", "dlm_paradigm": "bidirectional", "block_size": 8, "mask_token_id": 39,
    }  # fmt: skip
    toy_folder.write("ministral3", tmp_path, **own)
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = load(tmp_path)
    assert (checkpoint.facts.family, checkpoint.facts.policy, checkpoint.facts.shift) == ("nemotron", "nemotron", 0)
    with torch.inference_mode():
        for mode in told["modes"]:
            CHECKS[mode["mode"]](checkpoint.denoiser(), mode)
    toy_folder.write("ministral3", tmp_path, **own | {"dlm_paradigm": "sbd"})
    with pytest.raises(CheckpointError, match=r"'dlm_paradigm'.*'sbd'; supported: 'bidirectional'"):
        load(tmp_path)


def test_every_family_has_a_golden_or_is_listed_as_unverified() -> None:
    verified = {find(Path("config.json"), toy_folder.golden(name)["config"]).name for name in toy_folder.NAMES}
    assert verified == {name for name, family in FAMILIES.items() if family.reference}

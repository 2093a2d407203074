"""Weights with a draft head draft for themselves unless told otherwise; under an adapter the canvas does not lead."""

from dataclasses import replace

import pytest
import torch

import mezzotint as mz
from mezzotint.edit.ask import Ask
from mezzotint.edit.router import choose
from mezzotint.engine.engine import Engine
from mezzotint.model.adapter import AdapterConfig
from mezzotint.sampler.lens import Tilt

ASK = mz.Request("Mia has a red", raw=True, max_tokens=12)


@pytest.fixture(scope="module")
def headed():
    engine = Engine(mz.load("tiny"))
    engine.denoiser.adapt(AdapterConfig(2, draft_head=8)).requires_grad_(False)
    torch.nn.init.normal_(engine.denoiser.adapter.draft_head.down_proj.weight, std=0.02)
    return engine


def test_a_draft_head_is_used_unless_another_draft_is_asked_for_or_the_law_is_tilted(headed):
    ar, own, named, other = (
        headed.generate(replace(ASK, **how))[0]
        for how in ({"decode": "ar"}, {}, {"draft": "self", "draft_length": 2}, {"draft": "fixed-point"})
    )
    assert ar.text == own.text == named.text == other.text
    computed = [sum(frame.positions for frame in reply.trace.frames) for reply in (own, named, other)]
    assert computed[0] == computed[1] > computed[2]  # a canvas for every outcome
    for how in ({"tilt": Tilt(bias={5: 1.0})}, {"logprobs": "causal"}):
        asked = replace(ASK, **how)
        same = headed.generate(replace(asked, draft="fixed-point"))[0]
        assert headed.generate(asked)[0].trace.num_calls == same.trace.num_calls
    plain = Engine(mz.load("tiny"))
    assert (
        plain.generate(ASK)[0].trace.num_calls == plain.generate(replace(ASK, draft="fixed-point"))[0].trace.num_calls
    )


def test_the_canvas_leads_only_where_no_adapter_lies_on_weights_that_write_without_it(headed):
    assert Engine(mz.load("tiny")).canvas_leads and not headed.canvas_leads


def test_what_was_measured_decides_the_way_of_an_edit():
    tiny = mz.load("tiny")
    engine = Engine(replace(tiny, name="default"))
    assert choose(Engine(tiny), Ask("fix the grammar")).way == "diffusion"
    found = choose(engine, Ask("fix the grammar"))
    assert found.way == "rescore" and "0.47 GLEU in 16.6 s" in found.why and "docs/log.md" in found.why

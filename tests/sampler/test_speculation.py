"""Self-speculation on tiny networks: the text is AR's, each fused canvas is the separate draft pass, good drafts save calls."""

import math

import pytest
import torch

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS
from mezzotint.noise import Absorbing, Uniform
from mezzotint.sampler.canvas import GIVEN
from mezzotint.sampler.speculate import SelfSpeculation
from mezzotint.sampler.trace import Trace
from mezzotint.sampler.verify import Answers, Verified, pad

V, MASK, STOP = 41, 40, 39
CONFIG = ModelConfig(V, 32, 2, 4, 2, 8, 48, 96)
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12], [3, 3], [20, 1, 6, 2], [30] * 9, [11, 4]]
PROCESSES = {"absorbing": Absorbing(MASK, V), "uniform": Uniform(range(1, MASK), V)}


def load(model, seed=0, scale=0.35):
    torch.manual_seed(seed)
    model.requires_grad_(False)
    return model.load([(n, torch.randn_like(s) * scale + ("norm" in n)) for n, s in model.slots().items()])


MODELS = {shift: load(Denoiser(CONFIG, shift)) for shift in (0, 1)}


class Recalls(Denoiser):
    """A tiny network whose canvas pass knows the texts that it will write; its causal pass is untouched."""

    def know(self, texts, wrong=lambda position: False):
        self.texts, self.wrong = texts, wrong
        return self

    def forward(self, tokens, places, visible, cache=None, want=None, condition=None, feedback=None):
        prediction = super().forward(tokens, places, visible, cache, want)
        role = places.role if want is None else places.role.gather(1, want)
        for row, index in (role == CANVAS).nonzero().tolist():
            about = int(prediction.about[row, index])
            text = next(t for t in self.texts if self.ids(cache, row, t))
            if about < len(text):
                prediction.logits[row, index] = 0.0
                prediction.logits[row, index, text[about] if not self.wrong(about) else MASK - 1] = 50.0
        return prediction

    def ids(self, cache, row, text):
        return True  # one text


def traced(run, prompts=PROMPTS, seeds=None, max_tokens=24, forced=None):
    traces = [Trace() for _ in prompts]
    for frame in run.frames(prompts, max_tokens, Draws.of(seeds or list(range(len(prompts)))), forced):
        traces[frame.row].add(frame)
    return [trace.replay() for trace in traces], traces


def speculative(model, length, outcomes="all", noise="absorbing", **settings):
    settings = {"stop_ids": frozenset({STOP}), "controls": (0,), **settings}
    return SelfSpeculation(model, PROCESSES[noise], length, outcomes, **settings)


def plain(model, temperature=0.0, **settings):
    return Verified(model, None, 0, temperature, stop_ids=frozenset({STOP}), **settings)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("shift", [0, 1])
def test_fused_and_two_call_texts_are_ars(shift, temperature):
    model = MODELS[shift]
    ar, single = traced(plain(model, temperature))
    assert any(len(text) < 24 for text in ar) == any(text[-1] == STOP for text in ar)
    for noise in PROCESSES:
        for length in (1, 4, 9):
            for outcomes in ("all", "last", "none"):
                text, traces = traced(speculative(model, length, outcomes, noise, temperature=temperature))
                assert text == ar
                for trace, alone in zip(traces, single, strict=True):
                    assert trace.num_calls <= alone.num_calls
                    assert trace.num_tokens == alone.num_tokens

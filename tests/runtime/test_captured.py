"""The captured runtime without its GPU: the same buffers and passes, not captured, against the network itself."""

import copy
import gc
from dataclasses import replace

import pytest
import torch

import mezzotint as mz
from mezzotint.engine.engine import Engine
from mezzotint.engine.scheduler import Scheduler
from mezzotint.model.adapter import AdapterConfig
from mezzotint.model.config import Conditioning, ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.runtime.captured import CHUNK, SMALLEST, CapturedDenoiser

CONFIG = ModelConfig(61, 32, 2, 4, 2, 8, 64, 1200)


def network(adapter=None, **changes):
    torch.manual_seed(3)
    made = Denoiser(replace(CONFIG, **changes)).requires_grad_(False)
    made.load([(n, torch.randn_like(t) * 0.2 + ("norm" in n)) for n, t in made.slots().items()])
    if adapter is not None:
        made.adapt(adapter)
        for tensor in made.adapter.tensors().values():
            tensor.copy_(torch.randn_like(tensor) * 0.2)
    return made.eval()


ADAPTERS = {
    "none": None,
    "canvas": AdapterConfig(rank=4, alpha=8.0, control_ids=(3, 4), draft_head=16),
    "all": AdapterConfig(rank=4, alpha=8.0, gate="all"),
}


@pytest.fixture(scope="module", params=ADAPTERS)
def both(request):
    plain = network(ADAPTERS[request.param])
    return plain, CapturedDenoiser(copy.deepcopy(plain), "cpu")


def ids(*shape):
    return torch.randint(7, 61, shape, generator=torch.Generator().manual_seed(sum(shape)))


def near(a, b):
    assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * a.std()


def test_reading_by_pieces_and_across_rooms(both):
    caches = [n.new_cache(2, 900) for n in both]
    text, counts = ids(2, 700), torch.tensor([700, 411])
    said = [n.read(text, counts, c) for n, c in zip(both, caches, strict=True)]
    near(said[0].logits, said[1].logits)
    near(caches[0].ahead, caches[1].ahead)
    assert caches[1].room == 1024 > 2 * CHUNK > SMALLEST
    for count in (1, 3, 9):
        counts = torch.tensor([count, max(1, count - 2)])
        said = [n.read(ids(2, count), counts, c, every=True) for n, c in zip(both, caches, strict=True)]
        for row, upto in enumerate(counts):
            near(said[0].logits[row, :upto], said[1].logits[row, :upto])
    forks = [c.fork([1, 1, 0]) for c in caches]
    for fork in forks:
        fork.truncate([400, 300, 650])
    said = [n.read(ids(3, 2), torch.tensor([2, 1, 2]), f) for n, f in zip(both, forks, strict=True)]
    near(said[0].logits, said[1].logits)


def test_canvases_shadows_and_mixed_passes(both):
    caches = [n.new_cache(2, 90) for n in both]
    for n, c in zip(both, caches, strict=True):
        n.read(ids(2, 20), torch.tensor([20, 12]), c)
    positions = torch.tensor([[20], [12]]) + torch.arange(8)
    valid = torch.arange(8) < torch.tensor([[8], [5]])
    canvas = ids(2, 8)
    canvas[0, 2] = 3  # a control id, where there are any
    said = [n.denoise(canvas, positions, valid, c) for n, c in zip(both, caches, strict=True)]
    near(said[0][valid], said[1][valid])
    said = [n.denoise_with_shadow(canvas, positions, valid, c, ids(2, 8)) for n, c in zip(both, caches, strict=True)]
    for plain, captured in zip(*said, strict=True):
        near(plain[valid], captured[valid])


WAYS = {
    "ar": {"decode": "ar"}, "diffusion": {"decode": "diffusion"}, "self": {"draft": "self", "draft_length": 3},
    "two calls": {"draft": "self-two-call"}, "lookup": {"draft": "lookup"}, "sampled": {"temperature": 0.9},
}  # fmt: skip


@pytest.fixture(scope="module")
def engines():
    tiny = mz.load("tiny")
    plain, captured = Engine(tiny), Engine(tiny)
    captured.denoiser = CapturedDenoiser(tiny.denoiser(), "cpu")
    return plain, captured


@pytest.mark.parametrize("way", WAYS)
def test_texts_and_frames_are_those_of_the_network_itself(engines, way):
    asked = [mz.Request("Mia has a red", raw=True, max_tokens=24, seed=seed, **WAYS[way]) for seed in range(2)]
    plain, captured = ([e.generate(one)[0] for one in asked] + e.generate(asked) for e in engines)
    assert [reply.ids for reply in plain] == [reply.ids for reply in captured]
    assert [r.trace.num_calls for r in plain] == [r.trace.num_calls for r in captured]


def test_rooms_are_lent_again_and_shapes_stay_few(engines):
    _, engine = engines
    asked = mz.Request("Mia has a red", raw=True, max_tokens=24, decode="diffusion")
    engine.generate(asked)
    gc.collect()
    passes, rooms = len(engine.denoiser._passes), sum(map(len, engine.denoiser.rooms.free.values()))
    for _ in range(3):
        engine.generate(asked)
        gc.collect()
    assert len(engine.denoiser._passes) == passes
    assert sum(map(len, engine.denoiser.rooms.free.values())) == rooms


def test_a_scheduler_gives_each_row_its_turns(engines):
    plain, engine = engines
    asked = [mz.Request(text, raw=True, max_tokens=12) for text in ("Mia has", "The dog ran")]
    with Scheduler(engine) as scheduler:
        streams = [scheduler.submit(one) for one in asked]
        said = ["".join(event.piece for event in s if isinstance(event, mz.Text)) for s in streams]
    assert said == [plain.generate(one)[0].text for one in asked]


def test_what_it_refuses(both):
    _, captured = both
    cache = captured.new_cache(1, 20)
    with pytest.raises(ValueError, match="after 0 does not fit the cache of 20"):
        captured.read(ids(1, 21), torch.tensor([21]), cache, every=True)
    with pytest.raises(ValueError, match="1200 is beyond"):
        captured.denoise(ids(1, 2), torch.tensor([[1199, 1200]]), torch.ones(1, 2, dtype=torch.bool), cache)
    with pytest.raises(ValueError, match="a network with a condition"):
        CapturedDenoiser(network(condition=Conditioning(classes=3)), "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="compute is 'cuda', but torch sees no GPU"):
            Engine(mz.load("tiny"), compute="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_graphs_say_what_the_network_says():
    plain, captured = network(ADAPTERS["canvas"]), CapturedDenoiser(network(ADAPTERS["canvas"]), "cuda")
    for _ in range(2):  # captured, then replayed
        test_reading_by_pieces_and_across_rooms((plain, captured))
        test_canvases_shadows_and_mixed_passes((plain, captured))
    assert captured.num_captures > 3

"""The fast runtime against torch on tiny weights: every kind of pass, caches, batches, adapters, and what it refuses."""

import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("onnxruntime")
sys.path.append(__file__.rsplit("/", 2)[0] + "/checkpoints")

import numpy as np
import tiny_checkpoint
from gguf import quants

import mezzotint as mz
from mezzotint.engine.request import Text
from mezzotint.engine.scheduler import Scheduler
from mezzotint.model.adapter import AdapterConfig
from mezzotint.model.cache import Recorded
from mezzotint.model.denoiser import Denoiser
from mezzotint.runtime.denoiser import CHUNK, FastDenoiser, session
from mezzotint.runtime.graph import head_graph
from mezzotint.runtime.packed import from_q4_1, from_q8_0, joined, rounded
from mezzotint.runtime.weights import Parts

CLOSE = 1e-4  # of the logits' spread: with float32 activations only the order of sums differs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    tiny_checkpoint.write_gguf(path)
    return mz.load(str(path))


@torch.no_grad()
def same_weights(slow, parts):
    """The torch network with what the packed weights stand for: some of this file's types have to be rounded."""
    for i, block in enumerate(slow.blocks):
        linears = {
            "qkv": block.attention.qkv,
            "out": block.attention.out,
            "gate_up": block.mlp.gate_up,
            "down": block.mlp.down,
        }
        for name, linear in linears.items():
            packed = parts.linears[f"{i}.{name}"].weight()
            assert (packed - linear.weight).abs().max() < linear.weight.abs().max() / 200
            linear.weight.copy_(packed)
    slow.embedding.weight.copy_(parts.embedding.weight())
    return slow.requires_grad_(False)


@pytest.fixture(scope="module", params=[8, 16])
def heads(checkpoint, request, tmp_path_factory):
    """The checkpoint, with heads of 8 numbers; and one with heads of 16, which the runtime has a kernel for."""
    if request.param == 8:
        return checkpoint
    torch.manual_seed(5)
    config = replace(tiny_checkpoint.CONFIG, width=64, head_size=16)
    slow = Denoiser(config).requires_grad_(False)
    slow.load([(n, torch.randn_like(t) * 0.2 + ("norm" in n)) for n, t in slow.slots().items()])
    folder = tmp_path_factory.mktemp("heads") / "sixteen"
    mz.Checkpoint.of(slow, "sixteen", checkpoint.tokenizer, checkpoint.facts).save(folder, torch.float32)
    return mz.load(str(folder))


@pytest.fixture(scope="module")
def both(heads):
    checkpoint = heads
    parts = Parts.of(checkpoint)
    return same_weights(checkpoint.denoiser(), parts), FastDenoiser(parts, 1, exact=True)


@pytest.fixture(scope="module")
def adapted(heads):
    """Both networks with a busy adapter: random pairs, role and control rows."""
    checkpoint = heads
    torch.manual_seed(0)
    slow = checkpoint.denoiser().requires_grad_(False).adapt(AdapterConfig(rank=4, alpha=8.0, control_ids=(3, 4, 5, 6)))
    for name, tensor in slow.adapter.tensors().items():
        tensor.copy_(torch.randn_like(tensor) * (0.3 if name.startswith("canvas") else 0.2))
    memory = mz.Checkpoint.of(slow, "tiny", checkpoint.tokenizer, checkpoint.facts)
    parts = Parts.of(memory)
    return same_weights(slow, parts), FastDenoiser(parts, 1, exact=True)


def near(a, b, share=CLOSE):
    assert a.shape == b.shape
    assert torch.isfinite(b).all()
    assert (a - b).abs().max() <= share * a.std()


def ids(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(7, len(tiny_checkpoint.TOKENS), shape, generator=generator)


def caches(pair, rows=1, capacity=300):
    return [network.new_cache(rows, capacity) for network in pair]


@pytest.mark.parametrize("kind, unpack", [("Q4_1", from_q4_1), ("Q8_0", from_q8_0)])
def test_packed_weights_are_those_of_the_file(kind, unpack):
    values = np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
    raw = quants.quantize(values, getattr(tiny_checkpoint.Q, kind))
    want = torch.from_numpy(quants.dequantize(raw, getattr(tiny_checkpoint.Q, kind)))
    packed = unpack(raw.reshape(-1), 6)
    assert (packed.weight() - want).abs().max() < 1e-6
    order = np.array([5, 0, 3])
    assert torch.equal(packed.rows(order).weight(), packed.weight()[order])
    both = joined([packed, packed])
    assert both.bits == packed.bits
    assert torch.equal(both.weight(), torch.cat((packed.weight(), packed.weight())))


def test_offsets_are_folded_into_the_product():
    """To 1/240 of a row's largest offset, where they multiply the means of x over each group."""
    values = np.random.default_rng(1).normal(size=(6, 96)).astype(np.float32)
    packed = from_q4_1(quants.quantize(values, tiny_checkpoint.Q.Q4_1).reshape(-1), 6)
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(2))
    sums, (folded, copies) = x.view(5, 3, 32).sum(-1), packed.folded()
    factors = torch.cat((x, *[sums / 32] * copies), 1)
    factors = torch.nn.functional.pad(factors, (0, folded.inputs - factors.shape[1]))
    wrong = (factors @ folded.weight().T - x @ packed.weight().T).abs()
    most = torch.from_numpy(packed.offsets).abs().amax(0)
    assert (wrong <= sums.abs().sum(1, keepdim=True) * most / 200 + 1e-5).all()
    assert (sums @ torch.from_numpy(packed.offsets)).abs().mean() > 20 * wrong.mean()


@pytest.mark.parametrize("exact, close", [(True, 1e-5), (False, 0.02)])
def test_a_head_may_have_offsets(exact, close):
    values = np.random.default_rng(1).normal(size=(6, 96)).astype(np.float32)
    packed = from_q4_1(quants.quantize(values, tiny_checkpoint.Q.Q4_1).reshape(-1), 6)
    head = session(head_graph(packed, exact), 1)
    x = torch.randn(1, 5, 96, generator=torch.Generator().manual_seed(2))
    near(x @ packed.weight().T, torch.from_numpy(head.run(None, {"hidden": x.numpy()})[0]), close)


def test_other_weights_are_rounded_to_a_127th_of_their_group():
    weight = torch.randn(5, 64)
    weight[2, 32:] = 0
    most = weight.view(5, 2, 32).abs().amax(-1, keepdim=True)
    assert ((rounded(weight).weight() - weight).view(5, 2, 32).abs() <= most / 254 + 1e-7).all()
    with pytest.raises(ValueError, match="60 inputs"):
        rounded(torch.randn(5, 60))
    mixed = joined([from_q4_1(quants.quantize(weight.numpy(), tiny_checkpoint.Q.Q4_1).reshape(-1), 5), rounded(weight)])
    assert (mixed.bits, mixed.outputs) == (8, 10)


def test_reading_and_continuing_says_what_torch_says(both):
    ours = caches(both)
    text = ids(1, 90)
    for start, end in ((0, 40), (40, 41), (41, 58), (58, 90)):  # across the edge of a page
        said = [
            n.read(text[:, start:end], torch.tensor([end - start]), c, True) for n, c in zip(both, ours, strict=True)
        ]
        near(said[0].logits, said[1].logits)
        assert torch.equal(said[0].about, said[1].about)
    near(ours[0].ahead, ours[1].ahead)
    for cache in ours:
        cache.truncate([50])
    for start, end in ((50, 51), (51, 53)):  # what stands behind the border is seen by neither kind of pass
        said = [n.read(text[:, start:end], torch.tensor([end - start]), c) for n, c in zip(both, ours, strict=True)]
        near(said[0].logits, said[1].logits)


def test_a_long_text_is_read_in_pieces(checkpoint, both, monkeypatch):
    monkeypatch.setattr("mezzotint.runtime.denoiser.CHUNK", 16)
    assert CHUNK > 16
    text, counts = ids(2, 60), torch.tensor([60, 23])
    for every in (True, False):
        said = [n.read(text, counts, c, every) for n, c in zip(both, caches(both, 2), strict=True)]
        for row, count in enumerate(counts):
            upto = int(count) if every else 1
            near(said[0].logits[row, :upto], said[1].logits[row, :upto])
            assert torch.equal(said[0].about[row, :upto], said[1].about[row, :upto])


@pytest.mark.parametrize("which", ["both", "adapted"])
def test_canvases_say_what_torch_says(which, both, adapted):
    pair = both if which == "both" else adapted
    ours = caches(pair, 2)
    text, counts = ids(2, 30), torch.tensor([30, 11])
    for network, cache in zip(pair, ours, strict=True):
        network.read(text, counts, cache)
    positions = counts[:, None] + torch.arange(8)
    valid = torch.arange(8) < torch.tensor([[8], [5]])
    tokens = ids(2, 8)
    tokens[0, 3] = 4  # a control id
    said = [n.denoise(tokens, positions, valid, c) for n, c in zip(pair, ours, strict=True)]
    near(said[0][valid], said[1][valid])
    shadows = [
        n.denoise_with_shadow(tokens, positions, valid, c, torch.full_like(tokens, 3))
        for n, c in zip(pair, ours, strict=True)
    ]
    for slow, fast in zip(*shadows, strict=True):
        near(slow[valid], fast[valid])
    again = [
        n.read(ids(2, 3), torch.tensor([3, 0]), c) for n, c in zip(pair, ours, strict=True)
    ]  # and nothing was kept
    near(again[0].logits[0], again[1].logits[0])


def test_rows_do_not_affect_each_other(both):
    _, fast = both
    text, counts = ids(3, 40), torch.tensor([40, 7, 22])
    cache = fast.new_cache(3, 100)
    together = fast.read(text, counts, cache).logits
    for row, count in enumerate(counts.tolist()):
        alone = fast.read(text[row : row + 1, :count], counts[row : row + 1], fast.new_cache(1, 100)).logits
        near(alone, together[row : row + 1])
    forked = cache.fork([2, 0])
    more = fast.read(ids(2, 2), torch.tensor([2, 2]), forked).logits
    alone = fast.new_cache(1, 100)
    fast.read(text[2:, :22], counts[2:], alone)
    near(fast.read(ids(2, 2)[:1], torch.tensor([2]), alone).logits, more[:1])


def test_a_place_has_the_same_bits_alone_and_among_others(heads):
    """Else a draft would change the text: of two sums that differ in a bit, one may be rounded up to the next of 8 bits."""
    fast = FastDenoiser(Parts.of(heads), 1)
    for rows in (1, 2):
        text = ids(rows, 70)
        found = []
        for widths in ((3, *[1] * 67), (3, *[2] * 33, 1), (3, 5, 62), (3, 1, 60, 1, 5), (70,)):
            cache, said, at = fast.new_cache(rows, 70), [], 0
            for width in widths:
                part = text[:, at : at + width]
                said.append(fast.read(part, torch.tensor([width] * rows), cache, True).logits)
                at += width
            found.append(torch.cat(said, 1))
        assert all(torch.equal(found[0], other) for other in found)
    alone = fast.new_cache(1, 70)
    fast.read(text[:1, :3], torch.tensor([3]), alone)
    ones = [fast.read(text[:1, n : n + 1], torch.tensor([1]), alone).logits for n in range(3, 70)]
    assert torch.equal(torch.cat(ones, 1), found[0][:1, 3:])


@pytest.mark.parametrize(
    "decode, draft",
    [("ar", "fixed-point"), ("verified", "fixed-point"), ("verified", "self"), ("diffusion", "fixed-point")],
)
def test_every_decoder_runs_on_it(heads, decode, draft):
    fast = mz.Engine(heads, compute="int8", threads=1)
    requests = [
        mz.Request(text, decode=decode, draft=draft, max_tokens=20, raw=True) for text in ("the thing", "and a the and")
    ]
    replies = fast.generate(requests)
    assert all(reply.ids or reply.reason == "stop" for reply in replies)
    if decode == "verified":  # lossless: its own ar's text
        plain = fast.generate([mz.Request(r.prompt, decode="ar", max_tokens=20, raw=True) for r in requests])
        assert [reply.ids for reply in replies] == [reply.ids for reply in plain]


def test_nobody_drafts_where_wide_calls_cost_more(checkpoint):
    ask = mz.Request("the thing", max_tokens=20, raw=True)
    calls = {
        draft: mz.Engine(checkpoint, compute="int8", threads=1).generate(replace(ask, draft=draft))[0].trace
        for draft in ("auto", "random")
    }
    assert {frame.positions for frame in calls["auto"].frames[1:]} == {1}
    assert max(frame.positions for frame in calls["random"].frames[1:]) > 1


def test_many_requests_on_it(checkpoint):
    """Its graphs hold one text's cache at a time, so requests take turns: each writes what it writes alone."""
    fast = mz.Engine(checkpoint, compute="int8", threads=1)
    asked = [mz.Request("the thing", decode="ar", max_tokens=n, raw=True, temperature=0.8, seed=n) for n in (5, 20, 9)]
    want = [fast.generate(request)[0].text for request in asked]
    scheduler = Scheduler(fast)
    streams = [scheduler.submit(request) for request in asked]
    while scheduler.busy:
        scheduler.tick()
    assert ["".join(event.piece for event in stream if isinstance(event, Text)) for stream in streams] == want


def test_an_adapted_folder_and_its_engine(heads, adapted, tmp_path):
    checkpoint, (slow, _) = heads, adapted
    folder = checkpoint.save_adapter(tmp_path / "a", slow, checkpoint.facts)
    loaded = checkpoint.with_adapter(folder)
    parts = Parts.of(loaded)
    fast = FastDenoiser(parts, 1, exact=True)
    again = loaded.new_adapter().tensors()
    assert all(torch.equal(again[name], tensor) for name, tensor in slow.adapter.tensors().items())
    slow = same_weights(loaded.denoiser(), parts)
    cache, other = slow.new_cache(1, 60), fast.new_cache(1, 60)
    slow.read(ids(1, 20), torch.tensor([20]), cache)
    fast.read(ids(1, 20), torch.tensor([20]), other)
    positions = torch.arange(20, 28)[None]
    near(
        slow.denoise(ids(1, 8), positions, positions > 0, cache),
        fast.denoise(ids(1, 8), positions, positions > 0, other),
    )


def test_what_it_refuses(both, checkpoint):
    _, fast = both
    with pytest.raises(ValueError, match=r"compute is 'int3'; allowed: float32, int8, int8-weights, fp8-weights"):
        mz.Engine(checkpoint, compute="int3")
    for refused in (fast.slots, fast.merged, lambda: fast.adapt(AdapterConfig())):
        with pytest.raises(ValueError, match="compute 'float32'"):
            refused()
    with pytest.raises(ValueError, match="beyond the model's 128"):
        cache = fast.new_cache(1, 300)
        for _ in range(3):
            fast.read(ids(1, 50), torch.tensor([50]), cache)
    with pytest.raises(ValueError, match="does not fit the cache of 10"):
        fast.read(ids(1, 12), torch.tensor([12]), fast.new_cache(1, 10))
    slow = checkpoint.denoiser().adapt(AdapterConfig(rank=2, self_conditioning=True))
    memory = mz.Checkpoint.of(slow, "tiny", checkpoint.tokenizer, checkpoint.facts)
    with pytest.raises(ValueError, match="self-conditioning"):
        mz.Engine(memory, compute="int8")
    assert mz.Engine(memory, compute="auto").compute == "float32"
    assert Recorded  # training reads of a cache stay torch's

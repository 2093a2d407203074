"""The network: equal to transformers' Llama, cached equal to uncached, one forward for both streams."""

import pytest
import torch

from mezzotint.model import denoiser as denoiser_module
from mezzotint.model import stale
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.stale import BlockReader
from mezzotint.model.visibility import (
    CANVAS,
    CLEAN,
    Places,
    blocks,
    branches,
    causal,
    context_causal,
    full,
    two_stream_places,
)

CONFIG = ModelConfig(97, 48, 3, 6, 2, 8, 80, 64)


def tiny(seed: int = 0, config: ModelConfig = CONFIG, shift: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    model = Denoiser(config, shift).requires_grad_(False)
    model.load([(name, torch.randn_like(slot) * 0.1 + ("norm" in name)) for name, slot in model.slots().items()])
    return model


def clean_places(rows: int, length: int) -> Places:
    position = torch.arange(length).expand(rows, -1)
    return Places.of(position, torch.zeros_like(position))


@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_transformers(tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = ModelConfig(97, 48, 3, 6, 2, 8, 80, 64, rope_theta=5000.0, norm_eps=1e-5, tied_head=tied)
    ours = tiny(1, config)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
            intermediate_size=80, max_position_embeddings=64, tie_word_embeddings=tied, rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        )
    ).eval()  # fmt: skip
    missing = theirs.load_state_dict(ours.slots(), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}
    tokens = torch.randint(0, 97, (3, 40))
    with torch.inference_mode():
        want = theirs(tokens).logits
        got = ours.read(tokens, torch.tensor([40] * 3), ours.new_cache(3, 64), every=True).logits
    assert (want - got).abs().max() < 1e-5


def test_cached_equals_uncached_for_rows_of_different_lengths():
    model, tokens = tiny(), torch.randint(0, 97, (3, 24))
    whole = model(tokens, clean_places(3, 24), causal()).logits
    cache = model.new_cache(3, 40)
    model.read(tokens[:, :9], torch.tensor([9, 4, 7]), cache)
    assert cache.lengths.tolist() == [9, 4, 7]
    assert torch.allclose(cache.ahead, whole[[0, 1, 2], [8, 3, 6]], atol=1e-5)
    rest = torch.zeros(3, 20, dtype=torch.int64)
    for row, start in enumerate([9, 4, 7]):
        rest[row, : 24 - start] = tokens[row, start:]
    got = model.read(rest, torch.tensor([15, 20, 17]), cache, every=True).logits
    for row, start in enumerate([9, 4, 7]):
        assert torch.allclose(got[row, : 24 - start], whole[row, start:], atol=1e-5)


@pytest.mark.parametrize("reader", [None, BlockReader(4), BlockReader(4, after_prompt=True)])
def test_a_long_text_read_in_pieces_is_read_as_in_one(reader, monkeypatch):
    """Rows of different lengths that end in different pieces; what a canvas then says, and the last row of each."""
    model, tokens = tiny(), torch.randint(0, 97, (3, 50))
    model.reader = reader
    counts, canvas = torch.tensor([50, 9, 30]), torch.randint(0, 97, (3, 4))
    found = []
    for piece in (512, 8):
        for module in (denoiser_module, stale):
            monkeypatch.setattr(module, "PIECE", piece)
        cache = model.new_cache(3, 60)
        read = model.read(tokens, counts, cache)
        assert cache.lengths.tolist() == counts.tolist()
        said = model.denoise(canvas, counts[:, None] + torch.arange(4), torch.ones(3, 4, dtype=torch.bool), cache)
        found.append((*read, said))
    for whole, pieces in zip(*found, strict=True):
        assert torch.allclose(whole.float(), pieces.float(), atol=1e-5)


def test_truncate_and_fork_go_back_exactly():
    model, tokens = tiny(), torch.randint(0, 97, (2, 20))
    cache = model.new_cache(2, 40)
    model.read(tokens, torch.tensor([20, 20]), cache)
    cache.truncate([5, 11])
    assert cache.ahead is None
    other = cache.fork([1, 0, 1])
    assert other.lengths.tolist() == [11, 5, 11]
    again = torch.stack((tokens[1, 11:14], tokens[0, 5:8], tokens[1, 11:14]))
    got = model.read(again, torch.tensor([3, 3, 3]), other, every=True).logits
    whole = model(tokens, clean_places(2, 20), causal()).logits
    assert torch.allclose(got[0], whole[1, 11:14], atol=1e-5)
    assert torch.allclose(got[1], whole[0, 5:8], atol=1e-5)
    assert torch.allclose(got[0], got[2], atol=1e-6)
    with pytest.raises(ValueError, match="cannot truncate"):
        cache.truncate([6, 11])


def test_a_row_that_reads_nothing_is_left_as_it_is():
    model, tokens = tiny(), torch.randint(0, 97, (2, 6))
    cache = model.new_cache(2, 20)
    model.read(tokens, torch.tensor([6, 6]), cache)
    before = cache.ahead[1].clone()
    model.read(tokens[:, :2], torch.tensor([2, 0]), cache)
    assert cache.lengths.tolist() == [8, 6] and torch.equal(cache.ahead[1], before)


@pytest.mark.parametrize("size", [1, 3, 4, 16])
def test_two_stream_pass_equals_each_block_alone(size):
    """The training pass over [canvas | clean] gives the logits that decoding each canvas after its clean prefix gives."""
    model, length, offset = tiny(), 16, torch.tensor([0, 2])
    clean, noisy = torch.randint(0, 97, (2, length)), torch.randint(0, 97, (2, length))
    places = two_stream_places(length, size, 2, offset)
    both = model(torch.cat((noisy, clean), 1), places, context_causal()).logits
    alone = model(clean, clean_places(2, length), causal()).logits
    assert torch.allclose(both[:, length:], alone, atol=1e-5)  # the clean stream is the AR model, untouched
    for row in range(2):
        starts = sorted(set(places.start[row, :length].tolist()))
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            cache = model.new_cache(1, 40)
            if start:
                model.read(clean[row : row + 1, :start], torch.tensor([start]), cache)
            position = torch.arange(start, end)[None]
            got = model.denoise(noisy[row : row + 1, start:end], position, torch.ones_like(position).bool(), cache)
            assert torch.allclose(got[0], both[row, start:end], atol=1e-5)


def test_denoise_keeps_nothing_and_padding_changes_nothing():
    model, tokens = tiny(), torch.randint(0, 97, (2, 6))
    cache = model.new_cache(2, 30)
    model.read(tokens, torch.tensor([6, 4]), cache)
    position = cache.lengths[:, None] + torch.arange(5)
    canvas = torch.randint(0, 97, (2, 5))
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    first = model.denoise(canvas, position, valid, cache)
    canvas[1, 3:] = 5
    second = model.denoise(canvas, position, valid, cache)
    assert cache.lengths.tolist() == [6, 4]
    assert torch.equal(first[0], second[0]) and torch.equal(first[1, :3], second[1, :3])
    single = model.new_cache(1, 30)
    model.read(tokens[1:, :4], torch.tensor([4]), single)
    alone = model.denoise(canvas[1:, :3], position[1:, :3], valid[1:, :3], single)
    assert torch.allclose(first[1, :3], alone[0], atol=1e-5)


def test_shift_is_undone_inside_the_model():
    """A shifted model under denoise: row i - 1 speaks about i, and the first position gets the causal logits, exactly."""
    model, tokens = tiny(shift=1), torch.randint(0, 97, (1, 6))
    plain = tiny(shift=0)
    caches = [m.new_cache(1, 30) for m in (model, plain)]
    for m, cache in zip((model, plain), caches, strict=True):
        m.read(tokens, torch.tensor([6]), cache)
    position, canvas = torch.arange(6, 10)[None], torch.randint(0, 97, (1, 4))
    valid = torch.ones_like(position).bool()
    got, raw = (m.denoise(canvas, position, valid, c) for m, c in zip((model, plain), caches, strict=True))
    assert torch.equal(got[:, 1:], raw[:, :-1]) and torch.equal(got[:, 0], caches[0].ahead)


@pytest.mark.parametrize(
    "rule",
    [full(), causal(), blocks(4), context_causal(), causal().within(3)],
    ids=lambda r: r.name,
)
def test_dense_equals_flex(rule):
    from torch.nn.attention.flex_attention import create_mask

    document = torch.arange(12).expand(2, -1) // 5
    places = two_stream_places(12, 4, 2, torch.tensor([0, 3]), document)
    places = places._replace(valid=torch.rand(2, 24) > 0.2)
    table = create_mask(rule.flex(places, places), 2, 1, 24, 24, device="cpu")[:, 0]
    assert torch.equal(table, rule.dense(places, places))
    assert table.any() and not table.all()


def test_visibility_rules_say_what_their_names_say():
    position = torch.arange(6)[None]
    places = Places.of(position, torch.zeros_like(position))
    assert torch.equal(causal().dense(places, places)[0], torch.ones(6, 6).tril().bool())
    assert full().dense(places, places).all()
    assert blocks(2).dense(places, places)[0, 2].tolist() == [True] * 4 + [False] * 2
    canvas = Places.of(torch.arange(4, 6)[None], torch.full((1, 2), CANVAS))
    packed = places._replace(document=torch.tensor([[0, 0, 0, 1, 1, 1]]))
    for rule in (full(), causal(), blocks(2), context_causal()):
        assert not rule.dense(packed, packed)[0, 3:, :3].any() and rule.dense(packed, packed)[0, 3:, 3:].any()
    both = Places.of(torch.arange(4)[None], torch.zeros(1, 4, dtype=torch.int64)).cat(canvas)
    seen = context_causal().dense(both, both)[0]
    assert seen[4:].all() and not seen[:4, 4:].any()


def test_branches_are_texts_of_their_own():
    """One call over several continuations says what a call over each says, and keeps nothing."""
    model, text = tiny(), torch.randint(0, 97, (1, 12))
    cache = model.new_cache(1, 40)
    model.read(text, torch.tensor([12]), cache)
    firsts, after = torch.tensor([[3], [8], [12]]), torch.randint(0, 97, (3, 4))
    positions = firsts + torch.arange(4)
    places = Places.of(positions.view(1, -1), torch.full((1, 12), CLEAN), (-1 - firsts).expand(-1, 4).reshape(1, -1))
    said = model(after.view(1, -1), places, branches(), cache).logits.view(3, 4, -1)
    assert cache.lengths.tolist() == [12]
    for first, ids, logits in zip(firsts[:, 0].tolist(), after, said, strict=True):
        alone = torch.cat((text[:, :first], ids[None]), 1)
        expected = model(alone, clean_places(1, first + 4), causal()).logits[0, first:]
        assert torch.allclose(logits, expected, atol=1e-5)


def test_wanted_logits_are_the_ones_asked_for():
    model, tokens = tiny(), torch.randint(0, 97, (2, 9))
    whole = model(tokens, clean_places(2, 9), causal())
    want = torch.tensor([[0, 8], [3, 4]])
    some = model(tokens, clean_places(2, 9), causal(), want=want)
    assert torch.allclose(some.logits, whole.logits[[[0], [1]], want], atol=1e-6)
    assert some.about.tolist() == [[1, 9], [4, 5]]


def test_bad_input_is_named():
    model = tiny()
    with pytest.raises(ValueError, match="declares no condition"):
        model(torch.zeros(1, 2, dtype=torch.int64), clean_places(1, 2), causal(), condition=3)
    with pytest.raises(ValueError, match="beyond the model's 64"):
        model(torch.zeros(1, 65, dtype=torch.int64), clean_places(1, 65), causal())
    with pytest.raises(ValueError, match="capacity is 0"):
        model.new_cache(1, 0)
    with pytest.raises(ValueError, match="does not fit the cache of 8"):
        model.read(torch.zeros(1, 9, dtype=torch.int64), torch.tensor([9]), model.new_cache(1, 8))
    slots = model.slots()
    with pytest.raises(ValueError, match=r"missing.*model.norm.weight"):
        model.load((name, tensor) for name, tensor in slots.items() if name != "model.norm.weight")
    with pytest.raises(ValueError, match="unknown or repeated tensor 'x'"):
        model.load([("x", torch.zeros(1))])
    with pytest.raises(ValueError, match="num_heads 6 is not a multiple"):
        ModelConfig(97, 48, 3, 6, 4, 8, 80, 64)

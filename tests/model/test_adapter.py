"""The canvas adapter: clean places are the base's to the last bit, the gate is exact, pairs and rows do what they say."""

import pytest
import torch
from torch.nn import functional as F

from mezzotint.model.adapter import LINEARS, TARGETS, AdapterConfig
from mezzotint.model.cache import Recorded
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.layers import Block
from mezzotint.model.low_bit import RoundedLinear
from mezzotint.model.visibility import CANVAS, CLEAN, Places, context_causal, two_stream_places

CONFIG = ModelConfig(97, 48, 3, 6, 2, 8, 80, 64)
CONTROL = (5, 6, 7, 9)


def base(seed=0, shift=0, config=CONFIG):
    torch.manual_seed(seed)
    model = Denoiser(config, shift).requires_grad_(False)
    return model.load([(n, torch.randn_like(t) * 0.1 + ("norm" in n)) for n, t in model.slots().items()])


def adapted(seed=0, shift=0, config=CONFIG, **facts):
    """The same base under an adapter that has, as it were, learnt."""
    facts = {"rank": 4, "alpha": 8.0, "control_ids": CONTROL, "confidence": True} | facts
    model = base(seed, shift, config).adapt(AdapterConfig(**facts)).requires_grad_(False)
    g = torch.Generator().manual_seed(seed + 1)
    model.adapter.load([(n, torch.randn(t.shape, generator=g) * 0.1) for n, t in model.adapter.tensors().items()])
    return model


def mixed(rows=3, length=20, size=5, seed=3):
    tokens = torch.randint(0, 97, (rows, 2 * length), generator=torch.Generator().manual_seed(seed))
    return tokens, two_stream_places(length, size, rows, torch.arange(rows))


def test_clean_places_are_the_bases_bit_for_bit_and_canvas_places_are_not():
    tokens, places = mixed()
    want, got = (model(tokens, places, context_causal()) for model in (base(), adapted()))
    clean = places.role == CLEAN
    assert torch.equal(want.logits[clean], got.logits[clean]) and torch.equal(want.hidden[clean], got.hidden[clean])
    assert (want.logits[~clean] - got.logits[~clean]).abs().amax(-1).min() > 1e-3
    ids = torch.randint(0, 97, (2, 15))
    caches = [model.new_cache(2, 30) for model in (base(), adapted())]
    for model, cache in zip((base(), adapted()), caches, strict=True):
        model.read(ids, torch.tensor([15, 9]), cache)
    assert all(torch.equal(getattr(caches[0], n), getattr(caches[1], n)) for n in ("keys", "values", "ahead"))


def test_a_fresh_adapter_says_what_the_base_says_but_for_control_ids():
    tokens, places = mixed()
    tokens = torch.where(torch.isin(tokens, torch.tensor(CONTROL)), 50, tokens)
    model = base().adapt(AdapterConfig(4, control_ids=CONTROL))
    want, got = (m(tokens, places, context_causal()).logits for m in (base(), model))
    others = [i for i in range(97) if i not in CONTROL]
    assert torch.equal(want[..., others], got[..., others])
    canvas = places.role == CANVAS
    assert (want[..., CONTROL] - got[..., CONTROL])[canvas].abs().max() > 1e-3
    assert torch.equal(want[~canvas], got[~canvas])


def test_the_pairs_are_low_rank_terms_of_each_linear():
    """A network whose weights hold W + (alpha / r) B A outright says the same on a canvas."""
    model, merged = adapted(control_ids=(), confidence=False), base()
    named = model.adapter.tensors()
    for index, block in enumerate(merged.blocks):
        assert isinstance(block, Block)
        for product, names in LINEARS.items():
            linear = {"qkv": block.attention.qkv, "out": block.attention.out, "gate_up": block.mlp.gate_up,
                      "down": block.mlp.down}[product]  # fmt: skip
            prefix = f"base_model.model.model.layers.{index}."
            rows = [named[f"{prefix}{n}.lora_B.weight"] @ named[f"{prefix}{n}.lora_A.weight"] * 2 for n in names]
            linear.weight += torch.cat(rows)
    merged.canvas_role = torch.nn.Parameter(named["canvas.role"])
    tokens, places = mixed()
    canvas = Places(*(x[:, :20] for x in places))
    got = model(tokens[:, :20], canvas, context_causal()).logits
    assert torch.allclose(got, merged(tokens[:, :20], canvas, context_causal()).logits, atol=1e-5)
    assert len(named) == 3 * 2 * len(TARGETS) + 1


def test_merged_weights_say_the_same_on_a_canvas():
    model, positions = adapted(shift=1), torch.arange(9, 14).expand(2, -1)
    merged = model.merged()
    cache, valid = model.new_cache(2, 20), torch.ones(2, 5, dtype=torch.bool)
    model.read(torch.randint(0, 97, (2, 9)), torch.tensor([9, 9]), cache)
    tokens = torch.tensor([[5, 6, 7, 9, 50], [1, 2, 3, 4, 5]])
    want, got = (m.denoise(tokens, positions, valid, cache) for m in (model, merged))
    assert torch.allclose(want, got, atol=1e-5) and merged.adapter is None
    ungated = adapted(gate="all", canvas=False, control_ids=(), confidence=False)
    ids = torch.randint(0, 97, (1, 9))
    one, other = (m.read(ids, torch.tensor([9]), m.new_cache(1, 9)).logits for m in (ungated, ungated.merged()))
    assert torch.allclose(one, other, atol=1e-5)
    with pytest.raises(ValueError, match="no adapter to merge"):
        merged.merged()


def test_one_mixed_pass_equals_a_clean_pass_and_a_canvas_pass():
    model = adapted()
    tokens, places = mixed()
    whole = model(tokens, places, context_causal()).logits
    canvas, clean = (Places(*(x[:, part] for x in places)) for part in (slice(0, 20), slice(20, 40)))
    cache = model.new_cache(3, 20)
    read = model(tokens[:, 20:], clean, context_causal(), cache).logits
    recorded = Recorded(cache, clean)
    assert torch.allclose(read, whole[:, 20:], atol=1e-5)
    assert torch.allclose(model(tokens[:, :20], canvas, context_causal(), recorded).logits, whole[:, :20], atol=1e-5)
    twice = Recorded(cache, clean, torch.arange(3).repeat_interleave(2))
    doubled = Places(*(x.repeat_interleave(2, 0) for x in canvas))
    got = model(tokens[:, :20].repeat_interleave(2, 0), doubled, context_causal(), twice).logits
    assert torch.allclose(got[::2], whole[:, :20], atol=1e-5) and torch.allclose(got[1::2], got[::2], atol=1e-5)


def test_feedback_is_heard_on_the_canvas_once_it_has_been_learnt():
    tokens, places = mixed()
    clean = places.role == CLEAN
    feedback = torch.randn(*tokens.shape, CONFIG.width, generator=torch.Generator().manual_seed(2))
    fresh = base().adapt(AdapterConfig(4, control_ids=CONTROL, self_conditioning=True))
    one, other = (fresh(tokens, places, context_causal(), feedback=x).logits for x in (None, feedback))
    assert torch.equal(one, other)
    learnt = adapted(self_conditioning=True)
    none, zeros, heard = (
        learnt(tokens, places, context_causal(), feedback=x).logits
        for x in (None, torch.zeros_like(feedback), feedback)
    )
    assert torch.equal(none, zeros) and torch.equal(none[clean], heard[clean])
    assert (none - heard)[~clean].abs().amax(-1).min() > 1e-4
    assert torch.equal(base()(tokens, places, context_causal()).logits[clean], heard[clean])
    with pytest.raises(ValueError, match="declares no feedback"):
        adapted()(tokens, places, context_causal(), feedback=feedback)
    with pytest.raises(ValueError, match="cannot be merged"):
        learnt.merged()


def test_feedback_is_the_mean_of_what_the_canvas_reads():
    model = adapted(self_conditioning=True)
    sure = torch.full((3, 97), -torch.inf)
    sure[[0, 1, 2], [50, CONTROL[1], 20]] = 0.0
    want = torch.stack([model.embedding.weight[50], model.adapter.control_in[1], model.embedding.weight[20]])
    assert torch.allclose(model.encode_feedback(sure), want) and adapted().encode_feedback(sure) is None
    either = torch.full((1, 97), -torch.inf)
    either[0, [50, CONTROL[1]]] = 0.0
    assert torch.allclose(model.encode_feedback(either), want[:2].mean(0, keepdim=True), atol=1e-6)


def test_control_ids_have_rows_of_their_own_on_the_canvas():
    model = adapted(shift=0)
    tokens, places = mixed()
    tokens[:] = torch.tensor(CONTROL).repeat(10)
    out = model(tokens, places, context_causal())
    canvas = places.role == CANVAS
    own = F.linear(out.hidden, model.adapter.control_out)
    assert torch.allclose(out.logits[canvas][:, CONTROL], own[canvas])
    model.adapter.control_in[2] += 1.0
    changed = model(tokens, places, context_causal()).logits
    assert torch.equal(changed[~canvas], out.logits[~canvas])
    assert (changed[canvas] - out.logits[canvas]).abs().amax(-1).max() > 1e-3


def test_only_the_adapter_learns_and_gradients_agree_with_a_mixed_pass():
    model = adapted()
    model.adapter.requires_grad_(True)
    tokens, places = mixed()
    grads = []
    for split in (False, True):
        model.zero_grad()
        if split:
            canvas, clean = (Places(*(x[:, part] for x in places)) for part in (slice(0, 20), slice(20, 40)))
            cache = model.new_cache(3, 20)
            with torch.no_grad():
                model(tokens[:, 20:], clean, context_causal(), cache)
            logits = model(tokens[:, :20], canvas, context_causal(), Recorded(cache, clean)).logits
        else:
            logits = model(tokens, places, context_causal()).logits[:, :20]
        logits.log_softmax(-1)[..., 11].mean().backward()
        assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("adapter"))
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert len(grads[0]) > 20 and grads[0].keys() == grads[1].keys()
    for name in grads[0]:
        assert torch.allclose(grads[0][name], grads[1][name], atol=1e-6), name


def test_an_all_clean_pass_runs_no_pair(monkeypatch):
    model, ids = adapted(), torch.randint(0, 97, (1, 9))
    monkeypatch.setattr(type(model.adapter), "terms", lambda *_: pytest.fail("a pair was computed on a clean pass"))
    model.read(ids, torch.tensor([9]), model.new_cache(1, 16))


def test_what_a_pass_costs():
    """A clean pass: the base's operations and no more. A mixed one: besides, the pairs at canvas places, and control rows."""
    from torch.utils.flop_counter import FlopCounterMode

    def operations(model, tokens, places):
        with FlopCounterMode(display=False) as counter:
            model(tokens, places, context_causal())
        return counter.get_total_flops()

    tokens, places = mixed()
    clean = Places(*(x[:, 20:] for x in places))
    assert operations(adapted(), tokens[:, 20:], clean) == operations(base(), tokens[:, 20:], clean)
    c, rank, canvas = CONFIG, 4, 3 * 20
    sizes = [(c.width, 48 + 16 + 16), (48, c.width), (c.width, 2 * c.mlp_width), (c.mlp_width, c.width)]
    parts = [3, 1, 2, 1]
    pairs = sum(2 * rank * (n * inputs + outputs) for n, (inputs, outputs) in zip(parts, sizes, strict=True))
    own_rows = 2 * len(CONTROL) * c.width * tokens.numel()
    more = operations(adapted(), tokens, places) - operations(base(), tokens, places)
    assert more == c.num_layers * canvas * pairs + own_rows


def test_ungated_pairs_act_everywhere():
    model = adapted(gate="all", canvas=False, control_ids=(), confidence=False)
    ids = torch.randint(0, 97, (1, 9))
    want, got = (m.read(ids, torch.tensor([9]), m.new_cache(1, 16)).logits for m in (base(), model))
    assert (want - got).abs().max() > 1e-3


@pytest.mark.parametrize("facts, problem", [
    ({"rank": 0}, "rank is 0"), ({"gate": "open"}, "'open'"), ({"targets": ("lm_head",)}, "'lm_head'"),
    ({"targets": ()}, "at least one linear"), ({"alpha": -1.0}, "alpha is -1"), ({"control_ids": (3, 3)}, "not distinct"),
])  # fmt: skip
def test_bad_configurations_are_named(facts, problem):
    with pytest.raises(ValueError, match=problem):
        AdapterConfig(**facts)
    with pytest.raises(ValueError, match="do not fit a vocabulary"):
        base().adapt(AdapterConfig(control_ids=(97,)))
    model = adapted()
    with pytest.raises(ValueError, match="are missing"):
        model.adapter.load([])
    with pytest.raises(ValueError, match=r"expected \(48,\)"):
        model.adapter.load([("canvas.role", torch.zeros(3))])


@pytest.mark.parametrize("targets", [("self_attn.q_proj", "self_attn.v_proj"), ("mlp.down_proj",)])
def test_some_linears_alone_can_be_adapted(targets):
    model = adapted(targets=targets, control_ids=(), canvas=False)
    tokens, places = mixed()
    want, got = (m(tokens, places, context_causal()).logits for m in (base(), model))
    assert torch.equal(want[places.role == CLEAN], got[places.role == CLEAN]) and (want - got).abs().max() > 1e-3


def test_a_draft_head_hears_the_tokens_before_and_says_nothing_before_it_has_learnt():
    model = adapted(draft_head=8)
    g = torch.Generator().manual_seed(2)
    hidden, before = torch.randn(5, 48, generator=g), torch.randint(0, 97, (5, 2), generator=g)
    logits = model.speak(hidden, torch.full((5,), CLEAN))  # what the head's own product is compared with
    fresh = adapted().adapter.add_draft_head(CONFIG, 8)
    assert fresh.config.draft_head == 8 and not fresh.draft_head.down_proj.weight.any()
    with_fresh = base().adapt(AdapterConfig(4, draft_head=8))
    assert with_fresh.drafts_in_order and not adapted().drafts_in_order
    assert torch.allclose(
        with_fresh.redraft(logits, hidden, before), F.linear(hidden, with_fresh.embedding.weight), atol=1e-5
    )

    head, table = model.adapter.draft_head, model.embedding.weight
    parts = (hidden, table[before[:, 0]], table[before[:, 1]])
    x = torch.cat([part / part.square().mean(-1, keepdim=True).sqrt() for part in parts], -1)
    moved = hidden + (F.silu(x @ head.gate_proj.weight.T) * (x @ head.up_proj.weight.T)) @ head.down_proj.weight.T
    assert torch.allclose(
        model.redraft(logits, hidden, before), moved @ table.T, atol=1e-4
    )  # so small a vocabulary is all looked at
    assert not torch.allclose(
        model.redraft(logits, hidden, before), model.redraft(logits, hidden, before.flip(1)), atol=1e-4
    )


def test_what_a_draft_head_does_not_look_at_stays_below_in_its_order(monkeypatch):
    monkeypatch.setattr("mezzotint.model.denoiser.CANDIDATES", 10)
    model = adapted(draft_head=8)
    hidden, before = torch.randn(6, 48), torch.randint(0, 97, (6, 2))
    logits = F.linear(hidden, model.embedding.weight)
    said, looked = model.redraft(logits, hidden, before), logits.topk(10, -1).indices
    assert torch.allclose(said.gather(-1, looked), model.draft_among(hidden, before, looked))
    rest = torch.ones_like(logits, dtype=torch.bool).scatter(-1, looked, False)
    others, were = said[rest].view(6, -1), logits[rest].view(6, -1)
    assert (others.amax(-1) < said.gather(-1, looked).amin(-1) + 1e-5).all()
    assert torch.equal(others.argsort(-1), were.argsort(-1))
    with pytest.raises(ValueError, match="no draft head"):
        adapted().redraft(logits, hidden, before)
    with pytest.raises(ValueError, match="draft_head is -1"):
        AdapterConfig(draft_head=-1)


def test_a_draft_head_beside_weights_in_eight_bits():
    model = adapted(draft_head=8)
    hidden, before = torch.randn(4, 48), torch.randint(0, 97, (4, 2))
    among = torch.randint(0, 97, (4, 7))
    want = model.draft_among(hidden, before, among)
    model.head = torch.nn.Linear(48, 97, bias=False)
    model.head.weight.data = model.embedding.weight.data
    rounded = RoundedLinear(model.head, "int8")
    rounded.weight.copy_(model.head.weight)
    for head, near in ((model.head, 1e-5), (rounded, 0.1)):
        model.head = head
        assert torch.allclose(model.draft_among(hidden, before, among), want, atol=near)

"""Packed rows: documents do not see each other, every one comes once, and a row is a function of the seed and its number."""

import json
from collections import Counter

import pytest
import torch

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.visibility import CANVAS, CLEAN, Places, context_causal
from mezzotint.noise import Hybrid
from mezzotint.recipes.tiny import make_tokenizer
from mezzotint.train.corpus import build
from mezzotint.train.corruption import Corruption, packed_causal
from mezzotint.train.data import Source
from mezzotint.train.packing import Packing
from mezzotint.train.trainer import initialise

L = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Source `chat`: 40 questions and answers; `text`: 60 documents of 2 to 150 tokens, each beginning with its number."""
    folder = tmp_path_factory.mktemp("packing")
    rows = {
        "chat": [{"prompt": f"What is {n}?" * (1 + n % 3), "completion": f"It is {n}."} for n in range(40)],
        "text": [{"text": f"{n}" + " cat" * (n * 5 // 2)} for n in range(60)],
    }
    sources = []
    for name, some in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
        sources.append(Source(name, (path,)))
    tokenizer = make_tokenizer(["It is the cat. What?"], 300)
    return build(folder / "corpus", sources, tokenizer)


def network():
    config = ModelConfig(300, 32, 2, 2, 2, 16, 64, 128, canvas_role=True)
    denoiser = initialise(config, 0)
    for weight in denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return denoiser.eval()


def documents(packed):
    """Token lists of the documents of each row, in order."""
    for row in range(len(packed.tokens)):
        for number in range(int(packed.document[row].max()) + 1):
            here = packed.document[row] == number
            assert packed.position[row, here].tolist() == list(range(int(here.sum())))
            yield packed.tokens[row, here].tolist()


def test_an_epoch_holds_every_document_once_and_is_nearly_full(corpus):
    packing = Packing(corpus, L, seed=1)
    count = packing.rows_of_epoch(0)
    pieces = Counter(tuple(ids) for ids in documents(packing.rows(0, count)))
    expected = Counter()
    for index in range(len(corpus)):
        ids = corpus.read(index).ids.tolist()
        expected.update(tuple(ids[at : at + L]) for at in range(0, len(ids), L))
    assert pieces == expected and packing.fill(0) > 0.95
    second = packing.rows(count, packing.rows_of_epoch(1))
    assert Counter(tuple(ids) for ids in documents(second)) == expected
    assert not torch.equal(second.tokens[0], packing.rows(0, 1).tokens[0])


def test_a_row_depends_on_the_seed_and_its_number_alone(corpus):
    one, other = Packing(corpus, L, seed=1), Packing(corpus, L, seed=1)
    far = other.rows(100, 8)
    for step in range(13):
        one.draw(step, 8)
    for got, expected in zip(one.rows(100, 8), far, strict=True):
        assert torch.equal(got, expected)
    halves = [one.draw(3, 8, part, 2) for part in (0, 1)]
    for got, *parts in zip(other.draw(3, 8), *halves, strict=True):
        assert torch.equal(got, torch.cat(parts))
    assert not torch.equal(Packing(corpus, L, seed=2).rows(0, 8).tokens, one.rows(0, 8).tokens)


def test_weights_say_how_often_an_epoch_holds_a_source(corpus):
    packing = Packing(corpus, L, weights={"chat": 2.5, "text": 0.5})
    seen = []
    for epoch in range(2):
        chosen = packing._documents(epoch)
        seen.append(Counter(chosen.tolist()))
        assert sum(seen[-1][i] for i in corpus.sources["chat"]) == 100
        assert sum(seen[-1][i] for i in corpus.sources["text"]) == 30
    both = seen[0] + seen[1]
    assert {both[i] for i in corpus.sources["text"]} == {1} and {both[i] for i in corpus.sources["chat"]} == {5}
    only = Packing(corpus, L, weights={"text": 0}).rows(0, 4)
    assert not only.learnt[only.real].all()


def test_packed_logits_are_those_of_each_document_alone(corpus):
    denoiser, packed = network(), Packing(corpus, L, seed=3).rows(0, 6)
    assert int(packed.document.max()) >= 2
    size = 8
    start = packed.canvas_starts(size, torch.arange(6)[:, None] + 3 * packed.document.clamp(min=0))
    noisy = torch.where(torch.rand(packed.tokens.shape) < 0.5, 1, packed.tokens)
    streams = torch.cat((noisy, packed.tokens), 1), packed.places(CANVAS, start).cat(packed.places())
    whole = packed.tokens, packed.places(CANVAS)
    with torch.no_grad():
        for tokens, places in (streams, whole):
            together = denoiser(tokens, places, context_causal()).logits
            for row in range(6):
                for number in range(int(packed.document[row].max()) + 1):
                    here = places.document[row] == number
                    own = Places(*(x[row, here][None] for x in places))._replace(
                        document=torch.zeros(1, int(here.sum())).long()
                    )
                    alone = denoiser(tokens[row, here][None], own, context_causal()).logits[0]
                    assert (together[row, here] - alone).abs().max() < 1e-4
            leaky = places._replace(document=torch.zeros_like(places.document))
            seen = denoiser(tokens, leaky, context_causal()).logits
            assert (seen - together)[places.valid].abs().max() > 0.1


def test_two_packed_streams_noise_what_is_learnt(corpus):
    packed = Packing(corpus, L, seed=3).rows(0, 12)
    corruption = Corruption(Hybrid(1, range(5, 300), 300, 0.1))
    batch = corruption.packed(packed, 8, Draws.of(list(range(12))), torch.Generator().manual_seed(0), ar=0.3)
    canvas, clean = (slice(None), slice(0, L)), (slice(None), slice(L, None))
    asked = packed.real & ~packed.learnt
    assert asked.any() and not batch.places.valid[canvas][asked].any() and (batch.weight[canvas][asked] == 0).all()
    assert (batch.weight[canvas][packed.real & packed.learnt] > 0).all() and not batch.weight[~batch.places.valid].any()
    assert torch.equal(batch.tokens[clean][packed.real], packed.tokens[packed.real])
    assert (batch.tokens[canvas] == 1)[packed.learnt & packed.real].any() and (batch.places.role[clean] == CLEAN).all()
    starts = batch.places.start[canvas]
    for row in range(12):
        for number in range(int(packed.document[row].max()) + 1):
            here = (packed.document[row] == number) & packed.learnt[row]
            first = int(packed.position[row, here].min())
            assert starts[row, here].min() in (first, 0)  # a canvas starts at the answer's first token
            widths = [int((starts[row, here] == s).sum()) for s in starts[row, here].unique()]
            assert max(widths) <= 8 and widths[1:-1] == [8] * len(widths[1:-1])
    causal = packed_causal(packed)
    spoken = causal.weight.bool()
    ahead = spoken.roll(1, 1)
    assert torch.equal(causal.target[spoken], packed.tokens[ahead]) and torch.equal(packed.learnt[ahead], ahead[ahead])
    assert torch.equal(packed.document[spoken], packed.document[ahead])


def test_bad_packing_is_named(corpus):
    for make, problem in (
        (lambda: Packing(corpus, 1), "length must be at least 2"),
        (lambda: Packing(corpus, L, weights={"chta": 1}), "unknown source 'chta'; this corpus has chat, text"),
        (lambda: Packing(corpus, L, weights={"chat": -1}), "the weight of chat is -1"),
        (lambda: Packing(corpus, L, weights={"chat": float("nan")}), "the weight of chat is nan"),
        (lambda: Packing(corpus, L, weights={"chat": 0, "text": 0}), "no source has documents"),
        (lambda: Packing(corpus, L).draw(0, 8, 0, 3), "the parts must be equal"),
    ):
        with pytest.raises(ValueError, match=problem):
            make()

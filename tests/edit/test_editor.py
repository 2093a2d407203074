"""The editor on random loud weights and on scripted ones: locks hold in every way, rejected hunks are left alone."""

import dataclasses
import itertools
import json
import random

import documents
import pytest
import torch
from checkpoints import tiny_checkpoint
from networks import Shallow

import mezzotint as mz
from mezzotint.edit.ask import Ask
from mezzotint.edit.editor import Where, edit, resolve
from mezzotint.edit.locks import Locks
from mezzotint.edit.passages import Sizes, passages, start_id
from mezzotint.edit.repair import CAUSAL, doubts
from mezzotint.edit.source import Source
from mezzotint.model.adapter import AdapterConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("editor")
    tiny_checkpoint.write_folder(root / "tiny", tiny_checkpoint.write_gguf(root / "tiny.gguf"))
    path = root / "tiny" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 1024}))
    return root / "tiny"


def loud(folder, scale=12.0, **facts):
    """Random weights that are sure of what they say, control tokens included."""
    checkpoint = mz.load(folder)
    facts = dataclasses.replace(checkpoint.facts, **{"trained_canvas": True, "shift": 0, **facts})
    engine = mz.Engine(dataclasses.replace(checkpoint, facts=facts))
    with torch.no_grad():
        engine.denoiser.norm.weight *= scale
        engine.denoiser.embedding.weight[sorted(facts.control_ids.values())] *= 1.5
    return engine


def test_under_an_adapter_the_causal_law_has_a_say_in_repair_unless_told_otherwise(folder):
    engine, text = loud(folder, 3.0, noise="hybrid", shift=1), "the thing and the thing"

    def fixed(**how):
        found = mz.repair(engine, text, threshold=0.0, max_steps=1, **how)
        return found.after, found.num_calls

    assert fixed() == fixed(causal=0.0) != fixed(causal=CAUSAL)
    engine.denoiser.adapt(AdapterConfig(2, draft_head=2)).requires_grad_(False)
    assert fixed() == fixed(causal=CAUSAL) != fixed(causal=0.0)
    with pytest.raises(ValueError, match="causal is -1"):
        fixed(causal=-1)


class Copying:
    """A causal network that mostly copies: what followed the last three tokens before comes again, but not everywhere."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def new_cache(self, rows, capacity):
        cache = self.model.new_cache(rows, capacity)
        cache.seen = []
        return cache

    def read(self, tokens, counts, cache, every=False):
        seen = cache.seen[: int(cache.lengths[0])]
        found = self.model.read(tokens, counts, cache, every=True)
        for i in range(int(counts[0])):
            seen.append(int(tokens[0, i]))
            if hash(tuple(seen[-5:])) % 6:
                ends = (j for j in range(len(seen) - 1, 2, -1) if seen[j - 3 : j] == seen[-3:])
                found.logits[0, i, next((seen[j] for j in ends), 2)] += 30.0
        cache.seen, cache.ahead = seen, found.logits[:, int(counts[0]) - 1]
        return found if every else found._replace(logits=found.logits[:, int(counts[0]) - 1 :][:, :1])


class Saying(Copying):
    """A causal network that says one answer, whatever it is asked, and goes on with it where it was cut."""

    def __init__(self, model, answer):
        super().__init__(model)
        self.answer = list(answer)

    def read(self, tokens, counts, cache, every=False):
        seen = cache.seen[: int(cache.lengths[0])]
        found = self.model.read(tokens, counts, cache, every=True)
        for i in range(int(counts[0])):
            seen.append(int(tokens[0, i]))
            said = next((k for k in range(len(self.answer) - 1, 0, -1) if seen[-k:] == self.answer[:k]), 0)
            found.logits[0, i, self.answer[said]] += 1e4
        cache.seen, cache.ahead = seen, found.logits[:, int(counts[0]) - 1]
        return found if every else found._replace(logits=found.logits[:, int(counts[0]) - 1 :][:, :1])


@pytest.mark.parametrize(
    ("source", "answer", "after"),
    [
        ("a = 1\n", "```python\nb = 2\n```", "b = 2\n"),
        ("a = 1\n", "Here is the code:\n\n```\nb = 2\n```\n\nIt sets b.", "b = 2\n"),
        ("a = 1\n", "```python\nb = 2", "```python\nb = 2\n"),
        ("```\na = 1\n```\n", "```\nb = 2\n```", "```\nb = 2\n```\n"),
        ("a = 1\n", "b = 2\n```", "b = 2\n"),
        ("a = 1\n", "b = 2\n", "b = 2\n"),
    ],
)
def test_code_is_taken_out_of_a_fence_that_the_source_does_not_have(folder, source, answer, after):
    engine = shallow(folder)
    ids = engine.tokenizer.encode(answer)
    engine.denoiser = Saying(engine.denoiser, [*ids, engine.tokenizer.eos_ids[0]])
    found = edit(engine, source, Ask("convert", rewrites=True), Where(keep_layout=False), way="verified")
    assert found.after == after


def shallow(folder, loud=6.0, **facts):
    """A network that is quick to ask, for tests of what must hold whatever a network says."""
    checkpoint = mz.load(folder)
    facts = dataclasses.replace(checkpoint.facts, **{"trained_canvas": True, "shift": 0, **facts})
    engine = mz.Engine(dataclasses.replace(checkpoint, facts=facts))
    favourites = facts.control_ids.values()
    engine.denoiser = Shallow(checkpoint.config.vocab_size, 1024, facts.shift, loud, favourites)
    return engine


def copying(folder):
    engine = shallow(folder, 1.5)  # it says what it says below that which it copies
    engine.denoiser = Copying(engine.denoiser)
    return engine


WAYS = {
    "diffusion": (shallow, "diffusion"),
    "shifted": (lambda folder: shallow(folder, shift=1), "diffusion"),
    "hybrid": (lambda folder: shallow(folder, noise="hybrid"), "diffusion"),
    "uniform": (lambda folder: shallow(folder, noise="uniform", control_ids={}, mask_id=None), "diffusion"),
    "repair": (lambda folder: shallow(folder, noise="hybrid"), "repair"),
    "verified": (copying, "verified"),
    "rescore": (shallow, "rescore"),
    "insert": (shallow, "insert"),
}
LONGEST = {"rescore": 16}  # characters of a document; 60 elsewhere


def asked(rng, way, seed):
    return Ask(
        "fix", strength=rng.choice((0, 0, 0.3, 1)), budget=rng.choice((1, 1, 0.3)), rewrites=way == "verified",
        margin=rng.choice((0, 3)), channel=0.1, sure=0.5, max_steps=rng.choice((1, 3, 8)), temperature=rng.choice((0, 1)),
        seed=seed, phrases=(("QX", "नमस्ते", "a🇩🇪")[: seed % 4] or ("b c",)) * (way == "insert"), likely=100,
    )  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_locked_bytes_stay_and_all_bytes_are_text(folder, name, count):
    make, way = WAYS[name]
    engine, rng, changed, total = make(folder), random.Random(name), 0, count(10_000)
    for trial in range(total):
        text = documents.document(rng, LONGEST.get(way, 60))
        wanted = documents.spans(rng, text)
        ask = asked(rng, way, trial)
        where = Where(wanted, keep_layout=rng.random() < 0.5, only_doubtful=rng.random() < 0.1)
        done = edit(engine, text, ask, where, way)
        assert documents.kept(done, wanted) and documents.kept(done, Locks.of(text, wanted).spans), (
            trial,
            text,
            wanted,
        )
        assert done.after.encode().decode() == done.after  # no lone surrogates
        assert done.reject(*range(len(done.hunks))).after.encode() == text.encode()
        assert done.accept(*range(len(done.hunks))).after == done.after
        free = sum(b - a for a, b in where.of(text).free(len(text)))
        assert ask.budget == 1 or sum(hunk.size for hunk in done.hunks) <= ask.budget * free + 1e-6
        assert all(0 <= hunk.confidence <= 1 for hunk in done.hunks)
        changed += bool(done.hunks)
    print(f"{name}: {total} documents, {changed} of them changed")
    assert changed > total / 20


def touches(hunk, held):
    """Does a hunk change anything of `held`, or write at its borders?"""
    start, end = hunk.start + hunk.common[0], hunk.end - hunk.common[1]
    return held.start <= start <= held.end if start == end else start < held.end and held.start < end


@pytest.mark.parametrize("name", ["diffusion", "uniform", "verified", "rescore", "repair"])
def test_a_rejected_hunk_is_never_touched_by_the_resolve(folder, name, count):
    make, way = WAYS[name]
    engine, rng, rejections, trial = make(folder), random.Random(name), 0, 0
    while rejections < count(1000):
        trial += 1
        text = documents.document(rng, LONGEST.get(way, 60))
        wanted = documents.spans(rng, text, 2)
        ask = dataclasses.replace(asked(rng, way, trial), budget=1.0)
        where = Where(wanted, keep_layout=rng.random() < 0.5)
        first = edit(engine, text, ask, where, way)
        if not first.hunks:
            continue
        rejected = rng.sample(range(len(first.hunks)), rng.randint(1, len(first.hunks)))
        second = resolve(engine, first, rejected, dataclasses.replace(ask, seed=trial + 1), where, way)
        held = [first.hunks[number] for number in rejected]
        assert not any(touches(hunk, one) for hunk in second.hunks for one in held), (trial, text, held, second.hunks)
        assert documents.kept(second, [*wanted, *((one.start, one.end) for one in held)])
        rejections += 1
    print(f"{name}: {rejections} edits with hunks rejected and the rest solved again")
    with pytest.raises(ValueError, match="no hunk 99"):
        resolve(engine, first, [99])


def test_long_texts_are_read_in_passages_that_end_with_lines(folder):
    engine = loud(folder, 1.0)
    sizes = Sizes.of(engine, "fix")
    text = "the thing and a\n" * 200
    source = Source.of(text, Locks.of(text, [(500, 2000)]), engine.tokenizer)
    found = list(passages(source, sizes))
    assert all(b.start >= a.end and b.lead == b.start - sizes.lead for a, b in itertools.pairwise(found))
    assert all(source.data[source.starts[p.end] - 1] == 10 and p.end - p.start <= sizes.body for p in found)
    free = {i for i in range(len(source)) if not source.locked[i]}
    assert free <= {i for p in found for i in range(p.start, p.end)} and len(found) > 2
    assert edit(engine, text, Ask("fix", sure=0.5, max_steps=2), Where(lines="3-4")).before == text
    with pytest.raises(ValueError, match="leaves no room"):
        edit(engine, text, Ask("fix " * 300))


def test_repair_of_shifted_weights_stands_behind_a_start(folder):
    engine = loud(folder, 3.0, noise="hybrid", shift=1)
    text = "the thing and the thing"
    assert mz.repair(engine, text, threshold=0.0, max_steps=1).hunks
    ids, network, start = torch.tensor([engine.tokenizer.encode(text)]), engine.denoiser, start_id(engine)
    real, banned = torch.ones_like(ids, dtype=torch.bool), sorted(engine.tokenizer.specials.values())
    with torch.inference_mode():
        cache = network.new_cache(1, 1 + ids.shape[1])
        network.read(torch.tensor([[start]]), torch.tensor([1]), cache)
        logits = network.denoise(ids, 1 + torch.arange(ids.shape[1])[None], real, cache).double()
        logits[..., banned] = -torch.inf
        doubt, best, sure = doubts(network, ids, real, banned, [start])
        cache.keep([0])
        after = network.read(ids, torch.tensor([ids.shape[1]]), cache, every=True).logits
        ahead = network.read(torch.tensor([[start]]), torch.tensor([1]), network.new_cache(1, 1)).logits
        both = logits.log_softmax(-1) + 0.7 * torch.cat((ahead, after[:, :-1]), 1).log_softmax(-1)
        two = doubts(network, ids, real, banned, [start], causal=0.7)
        with pytest.raises(ValueError, match="read before denoising"):
            doubts(network, ids, real, banned)
    law = logits.softmax(-1)
    assert torch.equal(best, law.argmax(-1)) and torch.allclose(sure, law.amax(-1))
    assert torch.allclose(doubt, 1 - law.gather(-1, ids[..., None])[..., 0])
    assert torch.equal(two[1], both.argmax(-1)) and torch.allclose(two[2], both.softmax(-1).amax(-1), rtol=1e-5)

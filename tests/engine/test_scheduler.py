"""Rows at any step in one tick: each writes what it writes alone, leaves when it ends, fails alone, and leaves nothing behind."""

import gc
import random
import time
from dataclasses import replace

import pytest
import torch

import mezzotint as mz
from mezzotint.engine.request import Finished, Text
from mezzotint.engine.scheduler import Cancelled, End, Scheduler
from mezzotint.model.adapter import AdapterConfig
from mezzotint.model.condition import Condition
from mezzotint.model.config import Conditioning
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.lanes import Segment
from mezzotint.sampler.lens import Tilt
from mezzotint.sampler.trace import Frame

ASK = mz.Request("Mia has", raw=True, max_tokens=20, seed=3)
KINDS = {
    "ar": replace(ASK, decode="ar"),
    "drawn": replace(ASK, decode="ar", temperature=0.9, max_tokens=31),
    "fixed-point": replace(ASK, draft_length=5),
    "text": replace(ASK, draft="text", draft_text=" a blue ball."),
    "self": replace(ASK, draft="self", draft_length=3, temperature=0.8),
    "self-last": replace(ASK, draft="self-last"),
    "self-two-call": replace(ASK, draft="self-two-call", draft_length=6),
    "threshold": replace(ASK, decode="diffusion", max_tokens=40),
    "locked": replace(ASK, decode="diffusion", locks={2: " red ball"}, seed=5),
    "shadows": replace(ASK, decode="diffusion", policy="wino"),
    "reverse": replace(ASK, decode="diffusion", policy="ancestral", temperature=0.7),
    "edits": replace(ASK, decode="diffusion", policy="editing", temperature=0.7, seed=8),
    "guided": replace(ASK, decode="diffusion", guidance=2.0),
    "two blocks": replace(ASK, decode="diffusion", blocks_in_flight=2, max_tokens=50),
    "format": replace(ASK, decode="diffusion", format=mz.Regex("[a-z]+( [a-z]+){2}[.]")),
    "format, verified": replace(ASK, format=mz.JsonSchema({"enum": ["red", "blue"]})),
    "penalties": replace(ASK, decode="ar", tilt=Tilt(frequency=0.8)),
    "worth": replace(ASK, decode="ar", logprobs="final", top_logprobs=2),
    "in time": replace(ASK, decode="diffusion", deadline=time.monotonic() + 3600),
    "long prompt": replace(ASK, prompt="Mia has a red ball and Tom has a blue kite. " * 8, decode="diffusion"),
}


@pytest.fixture(scope="module")
def engine():
    return mz.Engine(mz.load("tiny"))


class Collected:
    """A stream that is read when all is done."""

    def __init__(self, scheduler, request):
        self.stream = scheduler.submit(request)

    def events(self):
        items = []
        while not self.stream._items.empty():
            items.append(self.stream._items.get())
        return items

    def text(self):
        events = self.events()
        assert isinstance(events[-1], End), events[-1]
        return "".join(e.piece for e in events if isinstance(e, Text))


def alone(engine, request):
    return "".join(e.piece for e in engine.stream(request) if isinstance(e, Text))


def run(scheduler):
    while scheduler.busy:
        scheduler.tick()


def used_up(scheduler):
    """Whether nothing is left of any row."""
    scheduler.memory.forget()
    return not scheduler.rows and not scheduler.hungry and scheduler.memory.used == 0


def passes(engine, monkeypatch):
    """How many places each pass has."""
    sizes, run = [], engine.denoiser.run

    def counted(batch):
        sizes.append(len(batch.tokens))
        return run(batch)

    monkeypatch.setattr(engine.denoiser, "run", counted)
    return sizes


def test_every_kind_together_writes_what_it_writes_alone(engine):
    want = {name: alone(engine, request) for name, request in KINDS.items()}
    scheduler = Scheduler(engine, positions=96, chunk=16, rows=9)
    left = Collected(scheduler, replace(ASK, decode="ar", max_tokens=200))
    got = {name: Collected(scheduler, request) for name, request in KINDS.items()}
    for _ in range(9):
        scheduler.tick()
    left.stream.cancel()
    run(scheduler)
    assert {name: stream.text() for name, stream in got.items()} == want
    assert isinstance(left.events()[-1], Cancelled) and used_up(scheduler)


def test_without_lanes_rows_take_turns(engine):
    turns = mz.Engine(engine.checkpoint)
    turns.denoiser.__class__ = type("Laneless", (Denoiser,), {"lanes": False})
    some = [replace(ASK, decode="ar", seed=n, temperature=1.0, max_tokens=8 + 40 * (n == 0)) for n in range(5)]
    want = [alone(engine, request) for request in some]
    scheduler = Scheduler(turns)
    got = [Collected(scheduler, request) for request in some]
    for _ in range(30):
        scheduler.tick()
    assert 1 <= len(scheduler.rows) <= 2 and not got[0].stream._items.empty()  # the long one is not waited for
    run(scheduler)
    assert [stream.text() for stream in got] == want and used_up(scheduler)


@pytest.mark.parametrize("way", ["prefix", "adaln"])
@pytest.mark.parametrize("shift", [0, 1])
def test_shifted_and_conditioned_networks_too(engine, shift, way):
    told = mz.Engine(engine.checkpoint)
    config = replace(told.denoiser.config, condition=Conditioning(4, 0, way, 3 if way == "prefix" else 1))
    torch.manual_seed(shift)
    told.denoiser = Denoiser(config, shift).requires_grad_(False)
    told.denoiser.load([(n, torch.randn_like(s) * 0.2 + ("norm" in n)) for n, s in told.denoiser.slots().items()])
    names = ("ar", "drawn", "self", "threshold", "shadows", "guided", "two blocks")
    told_what = [Condition(class_label=number % 4) for number in range(len(names))]
    requests = [replace(KINDS[name], condition=c, max_tokens=12) for name, c in zip(names, told_what, strict=True)]
    scheduler = Scheduler(told)
    got = [Collected(scheduler, request) for request in requests]
    wrong = Collected(scheduler, replace(ASK, condition=Condition(class_label=9)))
    run(scheduler)
    assert [stream.text() for stream in got] == [alone(told, request) for request in requests]
    assert "class_label is 9" in str(wrong.events()[-1]) and used_up(scheduler)


def test_an_adapter_that_hears_itself(engine):
    own = mz.Engine(engine.checkpoint)
    ids = tuple(own.checkpoint.facts.control_ids.values())
    own.denoiser.adapt(AdapterConfig(rank=4, control_ids=ids, self_conditioning=True))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in own.denoiser.adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)  # more, and rounding decides texts
    names = ("ar", "self", "threshold", "reverse", "edits", "two blocks", "long prompt")
    scheduler = Scheduler(own, positions=80)
    got = [Collected(scheduler, KINDS[name]) for name in names]
    run(scheduler)
    texts = [stream.text() for stream in got]
    assert texts == [alone(own, KINDS[name]) for name in names] and texts[2] != alone(engine, KINDS["threshold"])


def test_no_text_depends_on_its_neighbours(engine, count):
    chance = random.Random(1)
    want = alone(engine, KINDS["drawn"])
    for _ in range(count(60)):
        scheduler = Scheduler(engine, positions=chance.choice([5, 40, 300]), chunk=chance.choice([2, 64]), rows=8)
        names = chance.choices(list(KINDS), k=7)
        others = [Collected(scheduler, replace(KINDS[name], seed=chance.randrange(99))) for name in names]
        for _ in range(chance.randrange(6)):
            scheduler.tick()
        mine = Collected(scheduler, KINDS["drawn"])
        while scheduler.busy:
            scheduler.tick()
            if chance.random() < 0.1:
                chance.choice(others).stream.cancel()
        assert mine.text() == want


def test_cancellations_leave_no_lane_and_no_memory(engine, count):
    def segments():
        gc.collect()
        return sum(type(thing) is Segment for thing in gc.get_objects())

    others = segments()  # servers of other tests remember texts
    chance = random.Random(2)
    scheduler = Scheduler(engine, memory=1 << 24, rows=12)
    streams = []
    cancelled = 0
    while cancelled < count(500):
        while len(streams) < 16:
            request = replace(chance.choice(list(KINDS.values())), seed=chance.randrange(99), max_tokens=40)
            streams.append(scheduler.submit(request))
        for _ in range(chance.randrange(3)):
            scheduler.tick()
        streams.pop(chance.randrange(16)).cancel()
        cancelled += 1
        streams = [stream for stream in streams if stream.left]
    for stream in streams:
        stream.cancel()
    run(scheduler)
    assert used_up(scheduler)
    del streams, stream
    assert segments() <= others


def test_a_row_of_nans_fails_alone(engine, monkeypatch):
    poison = engine.tokenizer.encode(" kite")[-1]
    told = type(engine.denoiser)._told

    def poisoned(self, x, places, condition, cache):
        if hasattr(cache, "tokens"):
            x = x.masked_fill((cache.tokens == poison)[None, :, None], torch.nan)
        return told(self, x, places, condition, cache)

    want = {name: alone(engine, KINDS[name]) for name in ("ar", "self", "threshold")}
    monkeypatch.setattr(type(engine.denoiser), "_told", poisoned)
    scheduler = Scheduler(engine)
    got = {name: Collected(scheduler, KINDS[name]) for name in want}
    wrong = [Collected(scheduler, replace(KINDS[name], prompt="Tom has a kite and")) for name in want]
    run(scheduler)
    for stream in wrong:
        error = stream.events()[-1]
        assert isinstance(error, FloatingPointError) and "not a number" in str(error)
    assert {name: stream.text() for name, stream in got.items()} == want
    assert used_up(scheduler) and not scheduler.memory.num_remembered


def test_what_cannot_fit_fails_alone_with_the_numbers(engine):
    small = Scheduler(engine, memory=engine.denoiser.segment(60).bytes)
    context = engine.denoiser.config.max_length
    fits = Collected(small, replace(ASK, max_tokens=8))
    wrong = {
        "MB of keys and values": replace(ASK, max_tokens=90), f"the answer may have {context}": replace(ASK, max_tokens=context),
        "the answer, beyond max_tokens": replace(ASK, locks={19: " a red ball"}),
    }  # fmt: skip
    got = {words: Collected(small, request) for words, request in wrong.items()}
    run(small)
    for words, stream in got.items():
        error = stream.events()[-1]
        assert isinstance(error, ValueError) and words in str(error)
    assert fits.text() == alone(engine, replace(ASK, max_tokens=8)) and used_up(small)
    with pytest.raises(ValueError, match="unknown policy 'magic'"):
        replace(ASK, decode="diffusion", policy="magic")


def test_rows_wait_for_memory_in_their_order(engine):
    request = replace(KINDS["threshold"], max_tokens=24)
    scheduler = Scheduler(engine, memory=2 * engine.denoiser.segment(60).bytes)
    got = [Collected(scheduler, replace(request, seed=seed, prompt=f"Mia {seed} has")) for seed in range(6)]
    ended, most = [], 0
    while scheduler.busy:
        scheduler.tick()
        most = max(most, sum(not row.hungry for row in scheduler.rows))
        ended += [n for n, stream in enumerate(got) if not stream.stream.left and n not in ended]
    assert 2 <= most < 4 and all(stream.text() for stream in got)
    assert max(abs(place - number) for place, number in enumerate(ended)) < most and used_up(scheduler)


def test_turns_are_fair(engine):
    scheduler = Scheduler(engine, positions=3)
    streams = [scheduler.submit(replace(KINDS["drawn"], seed=seed)) for seed in range(7)]
    calls, begun = [0] * 7, None
    for _ in range(60):
        scheduler.tick()
        for number, stream in enumerate(streams):
            while not stream._items.empty():
                calls[number] += isinstance(event := stream._items.get(), Frame) and event.calls
        if min(calls) and all(stream.left for stream in streams):
            begun = begun or list(calls)
            since = [now - then for now, then in zip(calls, begun, strict=True)]
            assert max(since) - min(since) <= 1
    assert sum(calls) > 3 * 7


def test_a_commit_is_carried_by_the_next_call(engine):
    request = KINDS["threshold"]
    plain = [event for event in engine.stream(request) if isinstance(event, Frame)]
    scheduler = Scheduler(engine)
    mine = Collected(scheduler, request)
    run(scheduler)
    events = mine.events()
    frames = [event for event in events if isinstance(event, Frame)]
    commits = sum(frame.calls for frame in plain if frame.kind == "commit")
    assert commits and sum(f.calls for f in frames) == sum(f.calls for f in plain) - commits
    assert sum(f.positions for f in frames) == sum(f.positions for f in plain)
    assert [f.tokens for f in frames] == [f.tokens for f in plain] and isinstance(events[-2], Finished)


def test_what_was_read_is_not_read_again(engine, monkeypatch):
    sizes = passes(engine, monkeypatch)
    request = replace(KINDS["long prompt"], decode="ar", max_tokens=40)
    length = len(engine.prompt_ids(request))
    scheduler = Scheduler(engine)
    costs, texts = [], []
    for _ in range(2):
        sizes.clear()
        mine = Collected(scheduler, request)
        run(scheduler)
        costs.append(sum(sizes))
        texts.append(mine.text())
    assert texts[0] == texts[1] == alone(engine, request)
    assert costs[0] - costs[1] == (length - 1) // 32 * 32 > 64
    sizes.clear()
    longer = replace(request, prompt=request.prompt + texts[0] + " Then Mia")  # a conversation that goes on
    mine = Collected(scheduler, longer)
    run(scheduler)
    assert mine.text() == alone(engine, longer)
    assert sum(size for size in sizes if size > 1) < 64 and used_up(scheduler)


def test_edits_take_turns_with_requests(engine):
    text = "Mia has a [[3]] ball. Tom has a [[ ]]."

    def fill(engine, report):
        return mz.infill(engine, text, seed=2, report=report).text

    want = mz.infill(engine, text, seed=2).text
    scheduler = Scheduler(engine)
    filled = [scheduler.call(fill) for _ in range(2)]
    mine = Collected(scheduler, KINDS["ar"])
    run(scheduler)
    assert [next(iter(stream)) for stream in filled] == [want, want]
    assert mine.text() == alone(engine, KINDS["ar"]) and used_up(scheduler)


def test_with_a_thread(engine):
    with Scheduler(engine) as scheduler:
        long = scheduler.submit(replace(KINDS["ar"], max_tokens=300))
        got = scheduler.submit([KINDS["drawn"], KINDS["threshold"]])
        long.cancel()
        assert sum(isinstance(event, Finished) for event in long) == 0
        texts = ["", ""]
        for event in got:
            if isinstance(event, Text):
                texts[event.row] += event.piece
        with pytest.raises(ValueError, match="together more than"):
            list(scheduler.submit(replace(ASK, max_tokens=10**6)))
        assert texts == [alone(engine, KINDS["drawn"]), alone(engine, KINDS["threshold"])]
    with pytest.raises(RuntimeError, match="stopped"):
        scheduler.submit(ASK)
    for wrong in ({"memory": 0}, {"rows": 0}, {"chunk": -1}):
        with pytest.raises(ValueError, match="at least 1"):
            Scheduler(engine, **wrong)

"""Clients that share an engine: a lone request beside many, by passes counted and by what each was given."""

import random

import pytest

import mezzotint as mz
from mezzotint.engine.scheduler import Scheduler, Stream
from mezzotint.engine.shares import Demand, Shares


def test_credit_is_fair_whatever_is_wanted(count):
    rng = random.Random(0)
    for _ in range(count(400)):
        shares, served = Shares(64), {"a": 0, "b": 0, "c": 0}
        sizes = {client: rng.choice([1, 4, 32, 100]) for client in served}
        for _ in range(400):
            wanted = {client: size * rng.choice([1, 9]) for client, size in sizes.items()}
            credit = shares.grant({client: Demand(wanted[client], size) for client, size in sizes.items()})
            assert any(credit[client] >= size for client, size in sizes.items())
            for client, size in sizes.items():
                while min(credit[client], wanted[client]) >= size:
                    credit[client] -= size
                    wanted[client] -= size
                    served[client] += size
        assert max(served.values()) <= min(served.values()) * 2.2 + 200  # who wants much gets half


def test_a_client_that_wants_nothing_keeps_no_credit():
    shares = Shares(8)
    for _ in range(50):
        shares.grant({"a": Demand(5, 5), "b": Demand(1, 1)})
        shares.credit["b"] -= 1
    assert shares.credit["a"] <= 8
    assert set(shares.grant({"b": Demand(1, 1), "c": Demand(1, 1)})) == {"b", "c"}


def test_a_pass_grows_where_more_places_cost_nothing():
    shares, demands = Shares(64), {"a": Demand(30, 1), "b": Demand(1, 1)}
    assert shares.quantum(demands) == 1
    for places in (1, 2, 4, 8, 16, 32, 64):
        shares.took(places, 0.01 if places < 32 else 0.05)
    assert shares.quantum(demands) == 8  # 16 places in all still take what one takes
    for places in (2, 4, 8, 16):
        for _ in range(30):
            shares.took(places, 0.01 * places)
    assert shares.quantum(demands) == 1


@pytest.mark.parametrize("decode", ["ar", "verified", "diffusion"])
def test_a_lone_request_is_done_in_its_turns_beside_many(decode):
    """Counted in places, not seconds: until the lone one ends, the many have no more than a call beyond what it had."""
    engine = mz.Engine(mz.load("tiny"))
    asked = {"raw": True, "decode": decode, "max_tokens": 24}
    alone = engine.generate(mz.Request("Mia has", seed=1, **asked))[0]
    scheduler = Scheduler(engine)
    scheduler.shares.took = lambda places, seconds: None  # nothing is known to be cheap
    given = {"many": 0, "one": 0}
    make = scheduler._schedule

    def schedule():
        parts = make()
        for row, _, part in parts:
            given[row.client] += len(part.tokens)
        return parts

    scheduler._schedule = schedule
    many = Stream()
    scheduler.add(
        many, [Scheduler.decoding(mz.Request("The blue horses", seed=n, **asked)) for n in range(60)], client="many"
    )
    for _ in range(3):
        scheduler.tick()
    given["many"] = 0
    assert sum(row.client == "many" for row in scheduler.rows) == 24  # a quarter of the rows is for others
    one = Stream()
    scheduler.add(one, [Scheduler.decoding(mz.Request("Mia has", seed=1, **asked))], client="one")
    assert scheduler.num_waiting_of("one") == 1
    while one.left:
        scheduler.tick()
    text = "".join(event.piece for event in one if isinstance(event, mz.Text))
    assert text == alone.text
    assert given["many"] <= given["one"] + (scheduler.chunk if decode == "diffusion" else 2)
    assert many.left > 30
    many.cancel()
    scheduler.tick()
    scheduler.tick()

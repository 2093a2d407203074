"""Memory of keys and values: what is remembered is found, shared, and forgotten by use; what is charged is what there is."""

import random

import pytest
import torch

from mezzotint.engine.memory import CHUNK, Memory
from mezzotint.model.config import ModelConfig
from mezzotint.model.lanes import Lane, Segment

CONFIG = ModelConfig(50, 8, 1, 2, 1, 4, 8, 4096)
ONE = Segment(CONFIG, 1, torch.float32, "cpu").bytes


def memory(positions):
    return Memory(positions * ONE, lambda n: Segment(CONFIG, n, torch.float32, "cpu"), ONE)


def read(memory, ids, salt=""):
    """A text read and given up, remembered."""
    path = memory.recall(ids, salt)
    known = sum(length for _, length in path)
    assert memory.make_room(len(ids) - known)
    path.append((memory.take(len(ids) - known), len(ids) - known))
    memory.remember(ids, path, salt)
    memory.drop(path)
    return known


def test_the_longest_beginning_is_found_and_never_all_of_it():
    held = memory(1000)
    text = list(range(3 * CHUNK))
    assert read(held, text) == 0
    assert read(held, text) == 2 * CHUNK  # of the last token the answer is wanted
    assert read(held, [*text, 7, 8]) == 3 * CHUNK
    assert read(held, [*text[: 2 * CHUNK + 5], 9, 9, 9]) == 2 * CHUNK
    assert read(held, [1, *text]) == 0
    assert read(held, text, "another condition") == 0
    held.forget()
    assert held.used == 0 and held.num_remembered == 0


def test_the_one_longest_unused_goes_first_and_what_is_read_stays():
    held = memory(3 * CHUNK + 2)
    a, b, c = ([n] * (CHUNK + 1) for n in range(3))
    read(held, a)
    read(held, b)
    path = held.recall(a)  # read, and now
    assert path
    read(held, c)  # makes b go
    assert held.recall(b) == [] and held.recall(a) and held.num_remembered == 2
    assert not held.make_room(3 * CHUNK)
    assert held.used == (CHUNK + 1) * ONE and held.num_remembered == 1  # a: it is being read


def test_a_fork_and_a_way_back_leave_what_others_read(count):
    chance = random.Random(0)
    held = memory(10**6)
    lanes = [Lane()]
    for _ in range(count(2000)):
        lane = chance.choice(lanes)
        choice = chance.randrange(4)
        if choice == 0 and len(lanes) < 20:
            lanes.append(held.fork(lane, chance.choice([None, chance.randrange(lane.length + 1)])))
        elif choice == 1:
            held.truncate(lane, chance.randrange(lane.length + 1))
        elif choice == 2 and len(lanes) > 1:
            held.release(lane)
            lanes.remove(lane)
        else:
            ids = [chance.randrange(50) for _ in range(chance.randrange(1, 9))]
            if lane.own is None or lane.kept + len(ids) > lane.own.capacity:
                held.grow(lane, lane.kept + len(ids) + chance.randrange(5))
            end = lane.kept + len(ids)
            lane.own.keys[0, 0, lane.kept : end] = torch.tensor(ids)[:, None].float()
            lane.keep(ids)
        for other in lanes:
            path = [*other.shared, *([(other.own, other.kept)] if other.own else [])]
            stored = [int(x) for segment, length in path for x in segment.keys[0, 0, :length, 0]]
            assert stored == other.ids
    for lane in lanes:
        held.release(lane)
    assert held.used == 0


def test_more_than_there_is():
    assert not memory(10).make_room(11)
    with pytest.raises(AssertionError, match="are taken of"):
        memory(10).take(11)

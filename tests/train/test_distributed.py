"""Runs on one and several ranks: the same bits after kills and on other numbers of ranks; lost ranks, faults, shards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mezzotint.train.distributed import ALONE, join, shard
from mezzotint.train.trainer import initialise

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")


def script(name: str, *arguments: object) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("size", [1, 2])
def test_killed_at_any_moment_a_run_ends_in_the_same_bits(size, count):
    """T1, T2, T3: resumed on 1, 2 or 4 ranks; nothing half-written stays behind."""
    found = script("campaign.py", count(200), size)
    assert found["kills"] >= count(200) and found["wrong"] == [] and found["codes"] == [0] * size
    if size == 2:
        assert found["survivors"] > 0 and 0 not in found["survivor_codes"] and found["slowest"] < 60


def test_the_bits_are_the_same_on_1_2_and_4_ranks():
    assert len(set(script("ranks.py", "same_bits")["hashes"])) == 1


def test_a_bad_gradient_of_one_rank_is_skipped_on_all():
    """T6."""
    found = script("ranks.py", "bad_gradient")
    assert found["codes"] == [0, 0] and found["ranks"][0] == found["ranks"][1]
    assert found["ranks"][0][1:] == [2, [3, 5]]


@pytest.mark.parametrize("case", ["dead", "frozen"])
def test_a_lost_rank_ends_the_others(case):
    """T11: at once when it is gone, after the time-out (5 s here) when it is silent."""
    found = script("ranks.py", case)
    assert found["codes"] == [1] and found["seconds"] < 60


def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_the_second_at_once():
    """T7."""
    found = script("ranks.py", "signals")
    assert found["codes"] == [143, 143] and found["steps"] == [5]
    assert found["alive"] and found["second"] == [-2] and found["seconds"] < 5


def test_shards_are_saved_by_2_ranks_loaded_by_1_and_again_by_2():
    found = script("ranks.py", "sharded")
    assert found["codes"] == [[143, 143], [143], [0, 0], [143, 143], [0, 0], [0, 0], [0]]
    assert found["begins"] == {"moved": 5, "same": 4, "through": 0, "plain": 0}
    # sharded sums are in another order, and Muon's Newton-Schulz is in bfloat16: near, not equal
    assert found["same"] and all(d < 0.05 for d in found["distance"].values()), found["distance"]
    assert sum(name.startswith("shard-") for name in found["files"]) == 2
    assert all(name.endswith((".safetensors", ".json")) for name in found["files"])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_what_does_not_fit_into_memory_is_computed_in_pieces():
    found = script("ranks.py", "memory")
    assert found["codes"] == [0, 0, 1]
    (free, pieces, said), (tight, more, told) = found["free"][0], found["tight"][0]
    assert pieces == 1 and said == [] and more > 1 and "out of memory" in told[0]
    assert tight == pytest.approx(free, rel=1e-5)


def test_without_a_compiler_it_goes_on_and_says_so(full):
    if not full:
        pytest.skip("torch.compile takes long to fail: MEZZOTINT_FULL=1")
    found = script("ranks.py", "compiling")
    assert len(found["said"]) == 1 and "torch.compile failed, going on without" in found["said"][0] and found["same"]


def test_alone_without_torchrun():
    with join() as ranks:
        assert ranks.size == 1 and ranks.first and ranks.gather([1.0]) == [[1.0]] and ranks.tell("x") == "x"
    from campaign import CONFIG

    with pytest.raises(ValueError, match="start the run with torchrun"):
        shard(initialise(CONFIG, 0), ALONE)
    assert not torch.distributed.is_initialized()

"""Checkpoints of a run: whole or absent, verified by every byte, on a disk that is really full too."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from campaign import hash_of, trainer_of

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.train import state
from mezzotint.train.distributed import ALONE

ROOT = Path(__file__).parents[2]


def tensors(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "model.a": torch.randn(40, 30, generator=g), "model.b": torch.randn(7, generator=g),
        "optimizer.a.exp_avg": torch.randn(40, 30, generator=g), "optimizer.a.step": torch.tensor(float(seed)),
        "average.a": torch.randn(40, 30, generator=g),
    }  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Two checkpoints, of steps 1 and 2."""
    for step in (1, 2):
        state.save(tmp_path / "run", step, tensors(step), {"at": {"step": step}})
    return tmp_path / "run"


def test_what_was_saved_is_loaded(run):
    found = state.newest(run, pytest.fail)
    assert found["step"] == 2 and found["tensors"] == sorted(tensors())
    into = {name: torch.zeros_like(t) for name, t in tensors().items()}
    state.load(state.path_of(run, 2), into)
    assert state.digest(into) == state.digest(tensors(2)) != state.digest(tensors(1))
    into["model.a"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"'model.a': shape \(40, 30\); expected \(3,\)"):
        state.load(state.path_of(run, 2), into)
    with pytest.raises(CheckpointError, match=r"'model\.c'"):
        state.load(state.path_of(run, 2), {"model.c": torch.zeros(1)})


def test_nothing_but_safetensors_and_json_is_written_or_read(run):
    """T8: a pickle beside them is never opened."""
    place = state.path_of(run, 2)
    names = {p.name for p in place.iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json", "MANIFEST.json"}
    planted = run / "planted"
    attack = b"cposix\nsystem\n(S'touch " + str(planted).encode() + b"'\ntR."
    for name in ("optimizer.pt", "rng_state.pth", "scheduler.bin", ".metadata", "__0_0.distcp"):
        (place / name).write_bytes(attack)
    found = state.newest(run, pytest.fail)
    into = {name: torch.zeros_like(t) for name, t in tensors().items()}
    state.load(place, into)
    (place / "optimizer.safetensors").write_bytes(attack)
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors"):
        state.verify(place)
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors"):
        state.load(place, into)
    assert found["step"] == 2 and not planted.exists()


def _damage(place: Path, chance: random.Random, case: int) -> set[str]:
    """Spoil one checkpoint; -> the files of which one must be named."""
    names = sorted(p.name for p in place.iterdir())
    name = names[case // 6 % len(names)]
    path, raw = place / name, (place / name).read_bytes()
    kind = case % 6
    if kind in (0, 1):  # one bit
        at = chance.randrange(len(raw))
        path.write_bytes(raw[:at] + bytes([raw[at] ^ (1 << chance.randrange(8))]) + raw[at + 1 :])
    elif kind == 2:  # cut off after each twentieth, nothing left at last
        path.write_bytes(raw[: len(raw) * chance.randrange(20) // 20])
    elif kind == 3:
        path.unlink()
    elif kind == 4:  # two files have changed places
        other = chance.choice([n for n in names if n != name])
        path.write_bytes((place / other).read_bytes())
        (place / other).write_bytes(raw)
        return {name, other}
    else:  # the file of the checkpoint before
        path.write_bytes((state.path_of(place.parent, 1) / name).read_bytes())
        return {name} if name != "MANIFEST.json" else set(names)
    return {name}


def test_every_damage_is_found_and_the_one_before_is_taken(run, count):
    """T5."""
    place, chance = state.path_of(run, 2), random.Random(5)
    good = {p.name: p.read_bytes() for p in place.iterdir()}
    for case in range(count(1000)):
        suspects = _damage(place, chance, case)
        said = []
        found = state.newest(run, said.append)
        assert found["step"] == 1, case
        assert any(name in said[0] for name in suspects) and "going back" in said[0], (case, said)
        for name, raw in good.items():
            (place / name).write_bytes(raw)
    assert state.newest(run, pytest.fail)["step"] == 2


def test_a_whole_old_checkpoint_under_a_new_name_and_none_at_all(run):
    shutil.copytree(state.path_of(run, 1), state.path_of(run, 3))
    said = []
    assert state.newest(run, said.append)["step"] == 2 and "1, which is another checkpoint's" in said[0]
    for step in (1, 2, 3):
        (state.path_of(run, step) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="none of its 3 checkpoints verifies"):
        state.newest(run, lambda text: None)
    assert state.newest(run / "elsewhere", pytest.fail) is None


def test_order_is_by_step_and_never_by_a_clock(run, monkeypatch):
    """T12: yesterday's clock, on the files and in the process."""
    os.utime(state.path_of(run, 2), (1, 1))
    assert state.newest(run, pytest.fail)["step"] == 2
    state.save(run, 3, tensors(3), {})
    os.utime(state.path_of(run, 3), (0, 0))
    state.prune(run, 3, {1})
    assert state.steps(run) == [1, 2, 3]
    state.prune(run, 3, set())
    assert state.steps(run) == [2, 3]
    import time

    clock = time.time
    trainer = trainer_of(None, ALONE, ["max_steps=6"])
    seconds = []
    for progress in trainer.run():
        seconds.append(progress.seconds)
        monkeypatch.setattr(time, "time", lambda: clock() - 86400 * len(seconds))
    assert seconds == sorted(seconds) and seconds[-1] < 3600


def test_a_future_that_was_abandoned_and_a_killed_write_are_cleared(run):
    state.save(run, 9, tensors(9), {})
    (run / ".step-00000003.part").mkdir()
    (run / ".step-00000003.part" / "model.safetensors").write_bytes(b"x")
    state.save(run, 3, tensors(3), {})
    state.prune(run, 3, {9})
    assert sorted(p.name for p in run.iterdir()) == ["step-00000002", "step-00000003"]
    (state.path_of(run, 3) / "model.safetensors").write_bytes(b"")
    state.save(run, 3, tensors(3), {})
    assert state.newest(run, pytest.fail)["step"] == 3


FULL_DISK = """
import errno, json, os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from campaign import trainer_of
from mezzotint.train import state
from mezzotint.train.distributed import ALONE
from test_state import tensors

disk, found = Path(sys.argv[1]), []
run, filler = disk / "run", disk / "filler"
state.save(run, 1, tensors(1), {{}})
size = sum(p.stat().st_size for p in (run / "step-00000001").iterdir())
check = state._check_space
for point in range(20):
    for checked in (True, False):
        state._check_space = check if checked else lambda place, size: None  # without it the write itself fails
        free = os.statvfs(disk).f_bavail * 4096
        filler.write_bytes(bytes(max(0, free - size * point // 20 // 4096 * 4096)))
        try:
            state.save(run, 2, tensors(2), {{}})
            found.append("saved")
        except OSError as error:
            found.append([error.errno == errno.ENOSPC, "no space left" in str(error), sorted(p.name for p in run.iterdir())])
        filler.unlink()
        found[-1] = [found[-1], state.newest(run, print)["step"]]
state._check_space = check
said = []
trainer = trainer_of(disk / "other", ALONE, ["max_steps=8", "micro_batches=1"], say=said.append)
try:
    for progress in trainer.run():
        if progress.step == 3:
            filler.write_bytes(bytes(os.statvfs(disk).f_bavail * 4096))
    end = "done"
except OSError as error:
    end = [error.errno == errno.ENOSPC, progress.step]
print(json.dumps([found, said, end, state.steps(disk / "other"), state.newest(disk / "other", print)["step"]]))
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="no file system of our own can be mounted here",
)
def test_a_full_disk_leaves_what_was_there(tmp_path):
    """T4: a tmpfs of 4 MB, filled to 20 points of what a checkpoint needs; then a run whose disk fills up meanwhile."""
    disk, script = tmp_path / "disk", tmp_path / "full.py"
    disk.mkdir()
    script.write_text(FULL_DISK.format(tests=str(ROOT / "tests" / "train")))
    command = f"mount -t tmpfs -o size=4m tmpfs {disk} && exec {sys.executable} {script} {disk}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found, said, end, steps, newest = json.loads(done.stdout)
    assert found == [[[True, True, ["step-00000001"]], 1]] * 40
    assert len(said) == 5 and all(  # after steps 5 to 8, and before the decay
        "no checkpoint of step" in text and "going on" in text for text in said
    )
    assert end == [True, 7] and newest == 4 and steps == [3, 4]


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path):
    whole = trainer_of(tmp_path / "whole", ALONE, ["max_steps=10"])
    list(whole.run())
    trainer = trainer_of(tmp_path / "run", ALONE, ["max_steps=10"])
    for progress in trainer.run():
        if progress.step == 5:
            break
    path = state.path_of(tmp_path / "run", 6) / "optimizer.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    said = []
    again = trainer_of(tmp_path / "run", ALONE, ["max_steps=10"], say=said.append)
    assert again.resume() == 5 and str(path) in said[0]
    list(again.run())
    assert hash_of(again) == hash_of(whole) and state.steps(tmp_path / "run")[-1] == 10

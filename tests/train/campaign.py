"""Runs that are killed: `python campaign.py KILLS RANKS` prints JSON. Imports once and forks, so that a run takes a second.

A run trains a small network on one or two ranks, saving after every step. It is killed at a random moment, which may be
inside a step, a write or between rename and clean-up; with two ranks one of them dies, and the other has to notice. Then
it is resumed, on one, two or four ranks, and maybe killed again, until it ends.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch._dynamo  # optimizers import it when they first step: once here, not in every run
import torch.distributed.tensor

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.noise import Hybrid
from mezzotint.train.corruption import Corruption
from mezzotint.train.data import Rows
from mezzotint.train.distributed import full, join
from mezzotint.train.recipe import Optimizer, Recipe, apply
from mezzotint.train.state import digest, steps
from mezzotint.train.trainer import Trainer, by_rows, initialise

CONFIG = ModelConfig(60, 32, 2, 2, 2, 16, 64, 128, canvas_role=True)
RECIPE = Recipe(
    "killed", CONFIG, max_steps=24, optimizer=Optimizer("muon", 1e-2, 5, ema=0.9), micro_batches=4, bfloat16=False,
    save_minutes=1e-9, evaluate_every=5,
)  # fmt: skip
STEPS, PATIENCE = ["max_steps=12"], 15  # of a run that is killed; seconds that a rank waits for one that never comes


def make_batches(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    rows = Rows([torch.randint(4, 60, (int(n),), generator=generator).tolist() for n in range(8, 40)], seed)
    corruption = Corruption(Hybrid(0, range(3, 60), 60, 0.1))

    def batch(step: int):
        g = rows.generator(step)
        some = rows.draw(8, g)
        draws = Draws.of(list(range(8))).at(step=step)
        return corruption.blocks(some, 3, 8, draws, g, 0.3) if step % 2 else corruption.whole(some, 3, draws, g)

    return by_rows(batch)


def trainer_of(folder, ranks, overrides=(), **options):
    """The trainer of a small run; its held-out loss is the mean of the weights, which depends on every step."""
    recipe = apply(RECIPE, list(overrides))
    denoiser = initialise(recipe.config, recipe.seed)

    def evaluate(network):
        return float(sum(p.double().mean() for p in network.parameters()))

    options = {"evaluate": None if recipe.shard else evaluate, **options}
    return Trainer(denoiser, recipe, make_batches(), folder=folder, ranks=ranks, **options)


def hash_of(trainer) -> str:
    return digest({name: full(t) for name, t in trainer.weights.items()})


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(work, size: int = 1, timeout: float = 60) -> list[int]:
    """Fork `size` ranks that run `work(ranks)` and exit with what it returns; -> their process ids."""
    port, pids = free_port(), []
    for rank in range(size):
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 99
        try:
            if size > 1:
                address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), **address)
            torch.set_num_threads(1)
            with join(timeout) as ranks:
                code = work(ranks) or 0
        except BaseException as error:
            code = getattr(error, "exit_code", 1)
            print(f"rank {rank}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return pids


def end(pids: list[int]) -> list[int]:
    """Wait; -> exit codes, negative for a signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def to_the_end(folder: Path, overrides=(), resume: bool = True):
    """Work: run on to the end and leave the hash in the folder."""

    def work(ranks):
        trainer = trainer_of(folder, ranks, overrides)
        if resume:
            trainer.resume()
        for _ in trainer.run():
            pass
        found = hash_of(trainer)
        if ranks.first:
            (folder / "hash").write_text(found)

    return work


def main(kills: int, size: int) -> None:
    torch.set_num_threads(1)
    chance = random.Random(kills * 10 + size)
    fast = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a disk's flush may take longer than the run
    with tempfile.TemporaryDirectory(dir=fast) as top:
        whole = Path(top) / "whole"
        began = time.perf_counter()
        codes = end(start(to_the_end(whole, STEPS), size))
        seconds = time.perf_counter() - began
        expected = (whole / "hash").read_text()
        done, runs, wrong, survivors, moments = 0, 0, [], [], []
        while done < kills:
            folder, runs = Path(top) / f"run-{runs}", runs + 1
            now = size
            while not (folder / "hash").exists():
                pids = start(to_the_end(folder, STEPS), now, PATIENCE)
                time.sleep(chance.uniform(0, seconds))
                for pid in chance.sample(pids, 1):
                    os.kill(pid, signal.SIGKILL)
                began = time.perf_counter()
                found = end(pids)
                if -signal.SIGKILL in found:
                    done += 1
                    moments.append(len(steps(folder)) and steps(folder)[-1])
                    if not (folder / "hash").exists():  # killed before the end, not while leaving
                        survivors += [(code, time.perf_counter() - began) for code in found if code != -signal.SIGKILL]
                if chance.random() < 0.5 and not (folder / "hash").exists():
                    now = chance.choice((1, 2, 4))  # ranks of the next try
                    end(start(to_the_end(folder, STEPS), now))
            if (folder / "hash").read_text() != expected:
                wrong.append(folder.name)
            if left := [p.name for p in folder.iterdir() if p.name.startswith(".")]:
                wrong.append(f"{folder.name} has {left}")
            shutil.rmtree(folder)
    slowest = max((s for _, s in survivors), default=0.0)
    print(json.dumps({
        "kills": done, "runs": runs, "wrong": wrong, "seconds": seconds, "codes": codes, "expected": expected,
        "survivors": len(survivors), "survivor_codes": sorted({c for c, _ in survivors}), "slowest": slowest,
        "moments": sorted(moments),
    }))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

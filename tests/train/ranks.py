"""Cases that need processes of their own: `python ranks.py CASE...` prints what each found as JSON. See campaign.py."""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from campaign import RECIPE, end, hash_of, make_batches, start, to_the_end, trainer_of

from mezzotint.model.config import ModelConfig
from mezzotint.train.distributed import ALONE
from mezzotint.train.loss import loss_of
from mezzotint.train.recipe import apply
from mezzotint.train.state import steps
from mezzotint.train.trainer import Trainer, initialise


def put(folder: Path, name: str, what) -> None:
    (folder / name).write_text(json.dumps(what))


def got(folder: Path, pattern: str) -> list:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]


def same_bits(top: Path) -> dict:
    """The same run on 1, 2 and 4 ranks."""
    for size in (1, 2, 4):
        end(start(to_the_end(top / str(size), ["save_minutes=60"]), size))
    return {"hashes": [(top / str(size) / "hash").read_text() for size in (1, 2, 4)]}


def bad_gradient(top: Path) -> dict:
    """Not a number in the gradient of one rank of two, in two steps."""

    def work(ranks):
        def loss(network, batch):
            value = loss_of(network, batch)
            if ranks.rank == 1 and trainer.at.step in (3, 5):
                value.register_hook(lambda grad: grad * float("nan"))
            return value

        trainer = trainer_of(None, ranks, ["max_steps=8"], loss=loss)
        norms = [p.norm for p in trainer.run()]
        put(
            top,
            f"rank-{ranks.rank}",
            [hash_of(trainer), trainer.at.skipped, [i for i, n in enumerate(norms) if n != n]],
        )

    return {"codes": end(start(work, 2)), "ranks": got(top, "rank-*")}


def _lost(top: Path, number: int) -> dict:
    """One of two ranks gets a signal in mid-run; how does the other end?"""

    def work(ranks):
        trainer = trainer_of(top, ranks, ["max_steps=100000", "save_minutes=60"])
        for progress in trainer.run():
            if progress.step == 3 and ranks.first:
                put(top, "going", 1)

    pids = start(work, 2, timeout=5)
    while not (top / "going").exists():
        time.sleep(0.05)
    os.kill(pids[1], number)
    began = time.perf_counter()
    codes = end(pids[:1])
    seconds = time.perf_counter() - began
    os.kill(pids[1], signal.SIGKILL)
    end(pids[1:])
    return {"codes": codes, "seconds": seconds}


def dead(top: Path) -> dict:
    return _lost(top, signal.SIGKILL)


def frozen(top: Path) -> dict:
    return _lost(top, signal.SIGSTOP)


def signals(top: Path) -> dict:
    """SIGTERM to one rank of two stops both after the same step; a second signal in a long step ends at once."""

    def work(ranks):
        for progress in trainer_of(top / "two", ranks, ["max_steps=100000", "save_minutes=60"]).run():
            if progress.step == 3 and ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    codes = end(start(work, 2))

    def slow(ranks):
        def loss(network, batch):
            put(top, "slow", 1)
            time.sleep(60)

        list(trainer_of(top / "one", ranks, loss=loss).run())

    pids = start(slow)
    while not (top / "slow").exists():
        time.sleep(0.05)
    os.kill(pids[0], signal.SIGINT)
    time.sleep(0.5)
    alive = os.waitpid(pids[0], os.WNOHANG) == (0, 0)
    began = time.perf_counter()
    os.kill(pids[0], signal.SIGINT)
    return {
        "codes": codes, "steps": steps(top / "two"), "alive": alive, "second": end(pids),
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def sharded(top: Path) -> dict:
    """FSDP2: stopped on 2 ranks, resumed on 1 without it, stopped, resumed on 2; and all on 2, with and without a stop."""

    def leg(stop: int, name: str, settings: list[str]):
        def work(ranks):
            trainer = trainer_of(top / name, ranks, [*settings, "save_minutes=60", "max_steps=6"], evaluate=None)
            begin = trainer.resume()
            for progress in trainer.run():
                if progress.step + 2 == stop:
                    trainer.signal = signal.SIGTERM
            weights, found = {n: t.tolist() for n, t in trainer.denoiser.slots().items()}, hash_of(trainer)
            if ranks.first:
                put(top, f"{name}-weights", weights)
                put(top, f"{name}-end", [begin, found])

        return work

    legs = (
        ("moved", 3, 2, True), ("moved", 5, 1, False), ("moved", 99, 2, True), ("same", 4, 2, True), ("same", 99, 2, True),
        ("through", 99, 2, True), ("plain", 99, 1, False),
    )  # fmt: skip
    codes = [end(start(leg(stop, name, ["shard=true"] if split else []), size)) for name, stop, size, split in legs]
    names = ("moved", "same", "through", "plain")
    weights = {name: got(top, f"{name}-weights")[0] for name in names}

    began = initialise(RECIPE.config, RECIPE.seed).slots()

    def distance(a: str, b: str) -> float:
        """Between two ends, in units of how far the run went: root mean squares over all weights."""
        ends = [torch.cat([torch.tensor(weights[x][n]).flatten() for n in began]) for x in (a, b)]
        start = torch.cat([w.detach().flatten() for w in began.values()])
        return float((ends[0] - ends[1]).norm() / (ends[1] - start).norm())

    return {
        "codes": codes, "files": sorted(p.name for p in (top / "moved").glob("step-00000006/*")),
        "begins": {name: got(top, f"{name}-end")[0][0] for name in weights},
        "same": got(top, "same-end")[0][1] == got(top, "through-end")[0][1],
        "distance": {name: distance(name, "plain") for name in ("moved", "through")},
    }  # fmt: skip


def memory(top: Path) -> dict:
    """A process that may not grow by enough for a whole micro-batch, against one that may."""
    wide = RECIPE.config
    wide = ModelConfig(wide.vocab_size, 128, 4, 4, 4, 32, 384, 128, canvas_role=True)
    recipe = apply(RECIPE, ["max_steps=2", "micro_batches=1", "optimizer.name=adamw"])
    make = make_batches()

    def batches(step):
        batch = make(step)
        return batch._replace(
            tokens=batch.tokens.repeat(16, 1), target=batch.target.repeat(16, 1), weight=batch.weight.repeat(16, 1),
            places=type(batch.places)(*(x.repeat(16, 1) for x in batch.places)),
        )  # fmt: skip

    def train(limit: int | None, name: str):
        def work(ranks):
            import resource

            said = []
            trainer = Trainer(initialise(wide, 0), recipe, batches, say=said.append)
            if limit is not None:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + limit, -1))
            losses = [p.loss for p in trainer.run()]
            put(top, name, [losses, trainer.at.pieces, said])

        return work

    codes = [end(start(train(None, "free")))[0], end(start(train(60 << 20, "tight")))[0]]
    codes.append(end(start(train(1 << 20, "hopeless")))[0])
    return {"codes": codes, "free": got(top, "free"), "tight": got(top, "tight")}


def compiling(top: Path) -> dict:
    """torch.compile with no compiler to call."""
    os.environ["CXX"] = "/nonexistent/c++"
    said = []
    trainer = trainer_of(None, ALONE, ["compile=true", "max_steps=2"], say=said.append)
    list(trainer.run())
    plain = trainer_of(None, ALONE, ["max_steps=2"])
    list(plain.run())
    return {"said": said, "same": hash_of(trainer) == hash_of(plain)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:]:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
            print(json.dumps({"case": case, **globals()[case](Path(folder))}), flush=True)

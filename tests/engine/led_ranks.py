"""`python led_ranks.py FOLDER`: requests decoded by one scheduler on two ranks, their texts as JSON."""

import json
import sys
import time

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import parallel  # noqa: F401  # loaded once, before ranks are forked

import mezzotint as mz
from mezzotint.engine.engine import Engine
from mezzotint.engine.ranks import Leading, follow
from mezzotint.engine.scheduler import Scheduler

MOST = 16  # positions of a part: segments grow and are copied, prompts are read in pieces
BEGINNING = (
    "Mia has a red ball. She takes the ball to the school. At night the ball is back in her room, and Ida is happy. "
)
REQUESTS = [
    mz.Request(BEGINNING + prompt, True, decode, 12, temperature, 7)
    for decode in ("ar", "verified", "diffusion")
    for prompt, temperature in (("Tom", 0.0), ("Ida has", 0.6))
]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    engine = Engine(mz.load("tiny"), mesh=init_device_mesh("cpu", (2,)))
    if rank:
        try:
            follow(engine.denoiser)
        except RuntimeError:
            return
    engine.denoiser = Leading(engine.denoiser)
    with Scheduler(engine, chunk=MOST) as scheduler:
        left = scheduler.submit(REQUESTS[0])
        streams = [scheduler.submit(request) for request in REQUESTS]
        next(iter(left))
        left.cancel()
        texts = ["".join(str(event) for event in stream if isinstance(event, mz.Text)) for stream in streams]
        again = scheduler.submit(REQUESTS[1])  # its beginning is remembered now
        texts.append("".join(str(event) for event in again if isinstance(event, mz.Text)))
        refused = ""
        try:
            scheduler.call(lambda engine, report: engine.denoiser.network()).__iter__().__next__()
        except ValueError as error:
            refused = str(error)
    print(json.dumps({"texts": texts, "refused": refused}), flush=True)


if __name__ == "__main__":
    began = time.monotonic()
    multiprocessing.start_processes(work, (sys.argv[1],), nprocs=2, start_method="fork")
    print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)

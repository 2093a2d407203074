"""Record what the shipped tiny model writes: `make golden`. The diff of the recordings is reviewed like code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mezzotint as mz

HERE = Path(__file__).parent
PROMPT, HOLES = "Mia has a red", "Mia has a [[ ]] ball. She takes the red ball to the [[2]]."


def recordings() -> Iterator[tuple[str, mz.Trace]]:
    """Name and trace of each recording, made anew. Times are left out: they are not the model's."""
    engine = mz.Engine(mz.load("tiny"))
    ask = {"raw": True, "max_tokens": 24}
    yield "tiny-diffusion", engine.generate(mz.Request(PROMPT, decode="diffusion", **ask))[0].trace
    yield "tiny-editing", engine.generate(mz.Request(PROMPT, decode="diffusion", policy="editing", **ask))[0].trace
    yield "tiny-verified", engine.generate(mz.Request(PROMPT, decode="verified", **ask))[0].trace
    yield "tiny-infill", mz.infill(engine, HOLES).trace


def main() -> None:
    for name, trace in recordings():
        mz.Trace(trace.header, [replace(frame, seconds=0.0) for frame in trace.frames]).save(HERE / f"{name}.jsonl")


if __name__ == "__main__":
    main()

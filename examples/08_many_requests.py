"""Eight requests at once on one engine, decoded in different ways, and one of them cancelled."""

import mezzotint as mz


def main() -> None:
    engine = mz.Engine(mz.load("tiny"))
    ask = {"raw": True, "max_tokens": 16}
    with mz.Scheduler(engine) as scheduler:
        endless = scheduler.submit(mz.Request("Once", raw=True, max_tokens=400, decode="ar"))
        streams = {
            (decode, seed): scheduler.submit(mz.Request("Mia has", decode=decode, seed=seed, temperature=0.8, **ask))
            for decode in ("ar", "verified", "diffusion")
            for seed in (1, 2)
        }
        for (decode, seed), stream in streams.items():
            text = "".join(event.piece for event in stream if isinstance(event, mz.Text))
            print(f"{decode:9} seed {seed}: {text!r}")
        endless.cancel()
        print(scheduler.num_ticks, "passes")


if __name__ == "__main__":
    main()

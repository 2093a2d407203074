"""One checkpoint in full and with weights in 8 and 4 bits: what each holds in memory, and what they write."""

import mezzotint as mz


def megabytes(network: mz.Denoiser) -> float:
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers())) / 1e6


def main() -> None:
    checkpoint = mz.load("tiny")
    for compute in ("float32", "int8-weights", "fp8-weights", "int4-weights"):
        engine = mz.Engine(checkpoint, compute=compute)
        (reply,) = engine.generate(mz.Request("Mia has", raw=True, max_tokens=16, decode="ar"))
        print(f"{compute:12} {megabytes(engine.denoiser):.2f} MB  {reply.text!r}")


if __name__ == "__main__":
    main()

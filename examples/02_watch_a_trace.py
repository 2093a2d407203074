"""Every call of a generation on its own line: random tokens settle into text."""

import mezzotint as mz


def main() -> None:
    engine = mz.Engine(mz.load("default"))
    reply = engine.generate(mz.Request("Name three colours.", max_tokens=10, draft_length=8))[0]
    for frame, ids, _status in reply.trace.views():
        print(f"{frame.kind:>6} {frame.step:3d}  {engine.tokenizer.decode(ids)!r}")
    reply.trace.save("trace.jsonl")
    assert mz.Trace.load("trace.jsonl").replay() == reply.trace.replay()


if __name__ == "__main__":
    main()

"""Fill the holes of a text: one of two tokens, one whose length is found. The base weights have not learnt to: noise shows."""

import mezzotint as mz


def main() -> None:
    engine = mz.Engine(mz.load("default"))
    result = mz.infill(engine, "The [[2]] sat on [[ ]].", max_length=4)
    print(result.text)
    for hole in result.holes:
        print(f"{hole.start}:{hole.end} {hole.text!r}, {hole.length} tokens, confidence {hole.confidence:.2f}")
    print(f"{result.num_calls} calls, of which 4 tried the lengths of the second hole")


if __name__ == "__main__":
    main()

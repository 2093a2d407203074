"""Fix a sentence, then fix it again with a word locked."""

import mezzotint as mz


def main() -> None:
    engine = mz.Engine(mz.load("default"))
    text = "Teh dogs is barking."
    print(mz.revise(engine, text, "fix the grammar").diff())
    print(mz.revise(engine, text, "fix the grammar", locks=[(4, 8)]).diff() or "no change")


if __name__ == "__main__":
    main()

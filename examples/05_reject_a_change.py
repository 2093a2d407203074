"""Edit a text, look at its hunks, reject one, and have the model work on the rest again."""

import mezzotint as mz


def main() -> None:
    engine = mz.Engine(mz.load("tiny"))
    text = "The blue horses wait in seven garden. They jump because they are seven.\n"
    edit = mz.revise(engine, text, budget=0.3)
    print(edit.diff("horses.txt"))
    for hunk in edit.hunks:
        print(f"{hunk.start}:{hunk.end} {hunk.before!r} -> {hunk.after!r}, confidence {hunk.confidence:.2f}")
    if edit.hunks:
        print(mz.resolve(engine, edit, [0]).after, end="")


if __name__ == "__main__":
    main()

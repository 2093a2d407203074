"""Snippets put where they belong, on code that people write; and random edits found again."""

import random

import pytest

from mezzotint.edit.merge import merge

CODE = """import os
import sys

LIMIT = 10


def first(x):
    y = x + 1
    return y


def second(x):
    total = 0
    for i in range(x):
        total += i
    return total


def third(x):
    return first(second(x))
"""

CASES = {
    "a constant": (
        "# ... existing code ...\nLIMIT = 20\n# ... existing code ...",
        CODE.replace("LIMIT = 10", "LIMIT = 20"),
    ),
    "a body": (
        "# ... existing code ...\n\ndef second(x):\n    return x * (x - 1) // 2\n\n\ndef third(x):\n# ... rest of the file ...",
        CODE.replace(
            "    total = 0\n    for i in range(x):\n        total += i\n    return total\n", "    return x * (x - 1) // 2\n"
        ),
    ),
    "a line between two": (
        "# ... existing code ...\n    y = x + 1\n    print(y)\n    return y\n# ... existing code ...",
        CODE.replace("    y = x + 1\n", "    y = x + 1\n    print(y)\n"),
    ),
    "two places": (
        "import os\nimport re\nimport sys\n# ... existing code ...\ndef third(x):\n    return second(first(x))",
        CODE.replace("import os\n", "import os\nimport re\n").replace("first(second(x))", "second(first(x))"),
    ),
    "a new end": (
        "# ... existing code ...\n\ndef fourth(x):\n    pass",
        CODE + "def fourth(x):\n    pass\n",
    ),
    "no mark": ("LIMIT = 10\nMORE = 3", CODE.replace("LIMIT = 10\n", "LIMIT = 10\nMORE = 3\n")),
}  # fmt: skip


@pytest.mark.parametrize(("snippet", "wanted"), CASES.values(), ids=CASES)
def test_a_snippet_is_put_where_it_belongs(snippet, wanted):
    assert merge(CODE, snippet) == wanted


@pytest.mark.parametrize(
    "mark", ["// ... existing code ...", "/* … unchanged … */", "<!-- ... -->", "  -- ... rest of it ..."]
)
def test_marks_of_other_languages(mark):
    assert merge("a = 1;\nb = 2;\nc = 3;", f"{mark}\nb = 5;\nc = 3;") == "a = 1;\nb = 5;\nc = 3;"


def test_what_has_no_place_is_not_put_anywhere():
    assert merge(CODE, "Make the limit twenty, please.") is None
    assert merge(CODE, "") is None
    assert merge("a = ...\nb = 1", "a = ...\nb = 2") == "a = ...\nb = 2"  # an ellipsis is code, too


def test_any_one_change_in_its_surroundings_is_found_again(count):
    rng = random.Random(0)
    for _ in range(count(400)):
        lines = [f"line {i} {rng.random():.6f}" for i in range(rng.randrange(6, 30))]
        start = rng.randrange(2, len(lines) - 3)
        end = rng.randrange(start, min(start + 3, len(lines) - 2))
        new = [f"fresh {rng.random()}" for _ in range(rng.randrange(4))]
        snippet = ["// ... existing code ...", lines[start - 1], *new, lines[end], "// ... existing code ..."]
        wanted = [*lines[:start], *new, *lines[end:]]
        assert merge("\n".join(lines), "\n".join(snippet)) == "\n".join(wanted)

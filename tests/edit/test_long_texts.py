"""A long file costs no more memory than a short one; lines that may change are found at once."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SENTENCES = "The blue horses wait in seven garden. Mia has a red ball.\n"


def peak(path, *args, model="tiny"):
    """Peak memory in MB and seconds of an edit of a file, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "mezzotint", "edit", "--model", model, str(path), "--text", "--summary", *args],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    path.with_suffix(".after").write_text(done.stdout)
    found = re.search(r"([\d.]+) s\n.*peak memory ([\d.]+) GB", done.stderr)
    return 1000 * float(found[2]), float(found[1])


def test_memory_does_not_grow_with_the_file(tmp_path, full):
    if not full:
        pytest.skip("a memory bar: runs in make test-full")
    memory = []
    for size in (30_000, 300_000):
        path = tmp_path / f"{size}.txt"
        path.write_text(SENTENCES * (size // len(SENTENCES)))
        megabytes, seconds = peak(path)
        after = path.with_suffix(".after").read_text()
        assert after.count("the garden") > 0.9 * after.count("garden")
        memory.append(megabytes)
        print(f"{size} bytes: {megabytes:.0f} MB, {seconds:.0f} s")
    assert memory[1] - memory[0] < 200


def test_one_percent_of_the_lines_is_one_percent_of_the_work(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(SENTENCES * 5000)
    _, seconds = peak(path, "--lines", "2001-2050")
    after = path.with_suffix(".after").read_text().splitlines(keepends=True)
    assert [line for line in after[:2000] + after[2050:] if line != SENTENCES] == []
    assert sum("the garden" in line for line in after[2000:2050]) > 40
    assert seconds < 60


def test_one_percent_of_a_long_page_takes_the_default_model_minutes(tmp_path, full, base_path):
    if not full:
        pytest.skip("a memory and a time bar: runs in make test-full")
    pages = "".join(page.read_text("utf-8") for page in sorted(Path(__file__).parents[2].glob("docs/**/*.md")))
    while len(pages) < 300_000:
        pages += pages
    memory = []
    for size in (30_000, 300_000):
        path = tmp_path / f"{size}.md"
        path.write_text(pages[:size], "utf-8")
        lines = pages[:size].splitlines(keepends=True)
        last = 100 + pages[:300_000].count("\n") // 100
        megabytes, seconds = peak(path, "--lines", f"101-{last}", model="default")
        after = path.with_suffix(".after").read_text("utf-8")
        assert after.startswith("".join(lines[:100])) and after.endswith("".join(lines[last:]))
        memory.append(megabytes)
        print(f"{size} bytes, lines 101-{last}: {megabytes:.0f} MB, {seconds:.0f} s")
    assert memory[1] - memory[0] < 200 and seconds < 180

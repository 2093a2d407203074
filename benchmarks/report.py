"""Where a benchmark's numbers go: benchmarks/results/YYYY-MM-DD-NAME.md, with what is needed to measure them again.

    path = write("ar-speed", "Plain decoding", [*table(["what", "value"], rows)])

The file opens with date, commit, hardware and command, and appears only when it is complete.
"""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def write(name: str, title: str, lines: list[str]) -> Path:
    """Write `lines` of Markdown below a title and their provenance; a second run on the same day replaces the first."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{datetime.date.today():%Y-%m-%d}-{name}.md"
    part = path.with_name(path.name + ".part")
    text = "\n".join([f"# {title}", "", *table(["", ""], provenance()), "", *lines]) + "\n"
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    print(text, end="")
    return path


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table; floats with four significant digits."""
    cells = [[f"{x:.4g}" if isinstance(x, float) else str(x) for x in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def provenance() -> list[tuple[str, str]]:
    """Date, commit, hardware, libraries and command of this process."""
    rows = [("date", f"{datetime.date.today():%Y-%m-%d}"), ("commit", COMMIT), ("hardware", hardware())]
    torch = sys.modules.get("torch")
    libraries = f"Python {platform.python_version()}"
    if torch is not None:
        libraries += f", torch {torch.__version__} with {torch.get_num_threads()} threads"
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    # A folder is another one on the reader's machine: its name tells what it was.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return [*rows, ("libraries", libraries), ("command", f"`{shlex.join(['python', str(shown), *words])}`")]


def commit() -> str:
    """Short hash of HEAD, marked when files that git follows differ from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with uncommitted changes" if changed else head


def hardware() -> str:
    """The processor's name and how many of its cores this process may use; the GPU's name if torch sees one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        text += f", {torch.cuda.get_device_name()}"
    return text


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


COMMIT = commit()  # as the benchmark starts: HEAD may move while it runs

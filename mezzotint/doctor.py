"""What a run needs, looked at one by one."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    found: str


def checks() -> list[Check]:
    """Python, packages, processor, memory, disk and the base weights (present, and their checksum)."""
    results = [Check("python", sys.version_info >= (3, 11), f"{platform.python_version()} (3.11 or newer is needed)")]
    for package in ("torch", "tokenizers", "safetensors", "gguf", "numpy", "typer", "rich"):
        try:
            results.append(Check(package, True, metadata.version(package)))
        except metadata.PackageNotFoundError:
            results.append(Check(package, False, f"not installed: pip install {package}"))
    import torch

    from mezzotint.train.optimizer import bfloat16_is_fast

    threads = f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    if not bfloat16_is_fast(torch.device("cpu")):
        threads += "; no bfloat16 products, training computes in float32"
    results.append(Check("processor", True, threads))
    results.append(
        Check("gpu", True, torch.cuda.get_device_name() if torch.cuda.is_available() else "none (not needed)")
    )
    if (memory := installed_memory()) is not None:
        results.append(Check("memory", memory > 2e9, f"{memory / 1e9:.1f} GB (2 GB is needed)"))
    results += _weights()
    return results


def installed_memory() -> int | None:
    """Bytes; None where the system does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int | None:
    """Bytes that a new process could take: what the kernel counts as available, within the container's own limit.

    None where nothing says.
    """
    found = []
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        cached = 0  # file pages count as used, and are given back
        for line in (group / "memory.stat").read_text().splitlines():
            cached += int(line.split()[1]) if line.startswith("inactive_file ") else 0
        found.append(limit - used + cached)
    return max(0, min(found)) if found else installed_memory()


def _weights() -> list[Check]:
    from mezzotint.checkpoints import cache, fetch

    folder = cache.cache_folder()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(parent).free
    path = fetch.cached_path()
    needed = path is not None or free > 4e8
    found = [Check("disk", needed, f"{free / 1e9:.1f} GB free at the cache, {folder}")]
    if path is None:
        return [*found, Check("base weights", False, "not in the cache: mezzotint pull default")]
    good = fetch.verify(path)
    return [*found, Check("base weights", good, f"{path}, SHA-256 {'as pinned' if good else 'WRONG: pull them again'}")]

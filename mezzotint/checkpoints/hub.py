"""Checkpoints of the Hugging Face hub. They are fetched by `mezzotint pull hub:OWNER/NAME[@REVISION]` and by nothing else.

    <cache>/hub/OWNER--NAME/COMMIT/    config.json, *.safetensors, tokenizer.json ..., and pulled.json: what it must be
    <cache>/hub/OWNER--NAME/pinned     the commit that `hub:OWNER/NAME` means here, until another is asked for
    <cache>/hub/OWNER--NAME/.COMMIT.part    a fetch that was interrupted; the next one goes on with it

A revision becomes a commit before anything is fetched. Every file is checked against the SHA-256 (of small ones, git's
SHA-1) that the hub names for that commit. Neither code nor pickled weights are fetched. With HF_HUB_OFFLINE what is not
here stays away. Loading reads the cache alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from mezzotint.checkpoints.cache import cache_folder, locked, need_space
from mezzotint.checkpoints.errors import FetchError
from mezzotint.checkpoints.files import sha256, whole_file

PREFIX = "hub:"
NAME = re.compile(r"hub:([\w.-]+)/([\w.-]+?)(?:@([\w./-]+))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
WANTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map)\.json|chat_template\.jinja|README\.md|"
    r"LICENSE(\.\w+)?|[\w-][\w.-]*\.safetensors(\.index\.json)?",
    re.ASCII,
)
PULLED = "pulled.json"


def is_hub(name: str) -> bool:
    return name.startswith(PREFIX)


def _parsed(name: str) -> tuple[str, Path, str | None]:
    """(OWNER/NAME, its folder in the cache, the revision). Raises ValueError."""
    found = NAME.fullmatch(name)
    if found is None or ".." in name:
        raise ValueError(f"{name!r} names nothing on the hub; write hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    owner, model, revision = found.groups()
    return f"{owner}/{model}", cache_folder() / "hub" / f"{owner}--{model}", revision


def pulled(name: str) -> Path | None:
    """Where it lies, with files of the right sizes; None where it has not been pulled. Asks nobody. Raises ValueError."""
    _, home, revision = _parsed(name)
    commit = revision if revision is not None else _pinned(home)
    if commit is None or COMMIT.fullmatch(commit) is None:
        return None
    folder = home / commit
    try:
        files = json.loads((folder / PULLED).read_bytes())["files"]
        whole = all((folder / file).stat().st_size == told["size"] for file, told in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return folder if whole else None


def every_pulled() -> list[str]:
    """The names under which `load` finds what has been pulled."""
    homes = sorted((cache_folder() / "hub").glob("*--*"))
    names = [PREFIX + home.name.replace("--", "/", 1) for home in homes if _pinned(home) is not None]
    return [name for name in names if NAME.fullmatch(name) and pulled(name) is not None]


def load_folder(name: str) -> Path:
    """Where it lies. Raises ValueError where it has not been pulled."""
    if (folder := pulled(name)) is None:
        raise ValueError(
            f"{name} is not on this machine (a revision is the whole commit); `mezzotint pull {name}` fetches it"
        )
    return folder


def pull(name: str) -> Path:
    """The verified checkpoint: from the cache, or from the hub. A name without a revision means the pinned commit, if any.

    Raises ValueError for a bad name, FetchError (no such model, no leave, no network, a wrong checksum, a full disk).
    """
    repository, home, revision = _parsed(name)
    if (folder := pulled(name)) is not None:
        _verify(folder)
        _pin(home, folder.name)
        return folder
    try:
        import huggingface_hub
    except ImportError:
        raise FetchError(f"{name} needs huggingface-hub: pip install 'mezzotint[hub]'.") from None
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise FetchError(f"{name} is not on this machine, and HF_HUB_OFFLINE forbids fetching it. Unset it and repeat.")
    try:
        info = huggingface_hub.HfApi(endpoint=_endpoint()).model_info(
            repository, revision=revision, files_metadata=True
        )
    except Exception as error:  # whatever its HTTP library raises
        raise FetchError(
            f"{name}: {_said(error)} Check the name, the network, and HF_TOKEN for a gated model."
        ) from None
    commit, files = (
        str(info.sha),
        {file.rfilename: file for file in info.siblings or [] if WANTED.fullmatch(file.rfilename)},
    )
    if COMMIT.fullmatch(commit) is None or "config.json" not in files:
        raise FetchError(f"{name} holds no config.json. It is no checkpoint in Hugging Face's layout; choose another.")
    if not any(file.endswith(".safetensors") for file in files):
        raise FetchError(
            f"{name} holds no safetensors. Pickled weights are not fetched; choose a revision that has others."
        )
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / "lock", repository):
        if (folder := pulled(f"{PREFIX}{repository}@{commit}")) is None:
            folder = _download(huggingface_hub, repository, commit, files, home)
        _pin(home, commit)
    return folder


def _download(hub: Any, repository: str, commit: str, files: dict[str, Any], home: Path) -> Path:
    part, folder = home / f".{commit}.part", home / commit
    part.mkdir(exist_ok=True)
    there = sum(path.stat().st_size for path in part.glob("*") if path.is_file())
    need_space(part, max(0, sum(file.size or 0 for file in files.values()) - there))
    told: dict[str, Any] = {}
    print(f"mezzotint: {repository} at {commit}: {len(files)} files", file=sys.stderr)
    for name, file in sorted(files.items()):
        try:
            hub.hf_hub_download(repository, name, revision=commit, local_dir=part, endpoint=_endpoint())
        except Exception as error:  # as above
            raise FetchError(f"{name} of {repository}: {_said(error)} Repeat; what is whole is kept.") from None
        digest = _checked(part / name, file)  # removes a file that is not what it must be
        told[name] = {"size": (part / name).stat().st_size, "sha256": digest}
    shutil.rmtree(part / ".cache", ignore_errors=True)
    with whole_file(part / PULLED) as out:
        out.write(json.dumps({"repository": repository, "commit": commit, "files": told}, indent=1).encode())
    shutil.rmtree(folder, ignore_errors=True)  # one whose files were of other sizes
    os.replace(part, folder)
    return folder


def _checked(path: Path, file: Any) -> str:
    """The SHA-256 of a file that is what the hub says it is. Raises FetchError, the file being removed."""
    data_sha256 = sha256(path)
    if file.lfs is not None:
        good, expected = data_sha256 == file.lfs["sha256"], file.lfs["sha256"]
    else:  # git's name of a file's content
        data = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        good, expected = found == file.blob_id, file.blob_id
    if not good:
        path.unlink()
        raise FetchError(f"wrong checksum: {path.name} is not what the hub names {expected}; it was removed. Repeat.")
    return data_sha256


def _verify(folder: Path) -> None:
    """Raises FetchError where a file is not the one that was pulled."""
    for name, told in json.loads((folder / PULLED).read_bytes())["files"].items():
        if sha256(folder / name) != told["sha256"]:
            raise FetchError(f"{folder / name} is not the file that was pulled. Remove {folder} and pull it again.")


def _pinned(home: Path) -> str | None:
    try:
        return (home / "pinned").read_text().strip() or None
    except OSError:
        return None


def _pin(home: Path, commit: str) -> None:
    with whole_file(home / "pinned") as file:
        file.write(commit.encode())


def _endpoint() -> str | None:
    """Another hub than Hugging Face's own, which huggingface-hub names so too."""
    return os.environ.get("HF_ENDPOINT") or None


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:300].rstrip(".")
    return f"{type(error).__name__}: {text}."

"""Checkpoints of a run in training: whole, verified, and of nothing but safetensors and JSON.

    run/step-00000400/   model.safetensors  optimizer.safetensors  average.safetensors     or the shards of a sharded run
                         state.json      step, plan, counters, recipe, hash of the data
                         MANIFEST.json   size and SHA-256 of every file above

A checkpoint is written in a side folder; files and folder are flushed, the manifest last; then one rename makes it appear.
So a kill at any moment leaves whole checkpoints only, and what a disk does to one later is found by its manifest. Order is
by step, never by a clock. The last two stay, with the best and the one before the rate decays.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.files import full_disk, sync_folder, whole_file
from mezzotint.checkpoints.weights import save_tensors
from mezzotint.model.parallel import is_split
from mezzotint.train.distributed import ALONE, Ranks

FORMAT = "mezzotint-training-1"
MANIFEST, STATE = "MANIFEST.json", "state.json"
NAME = re.compile(r"step-(\d{8})")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors: their names, shapes and bits."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def steps(run: Path) -> list[int]:
    """The steps that have a checkpoint, whole or damaged, in order."""
    names = [NAME.fullmatch(path.name) for path in run.iterdir()] if run.is_dir() else []
    return sorted(int(name[1]) for name in names if name)


def path_of(run: Path, step: int) -> Path:
    return run / f"step-{step:08d}"


# -- writing --------------------------------------------------------------------------------------------------------


def save(
    run: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], ranks: Ranks = ALONE
) -> Path:  # fmt: skip
    """Write a checkpoint; on several ranks all call it, and the first one writes what is not sharded.

    tensors: float32, named `model.*`, `optimizer.*` and so on; the first word names the file. Raises OSError, on a full
    disk one that says so; nothing is left behind then, and older checkpoints stay as they are.
    """
    sharded = any(is_split(t) for t in tensors.values())
    if not (ranks.first or sharded):
        return path_of(run, step)
    place = path_of(run, step)
    part = run / f".{place.name}.part"
    problem: OSError | None = None
    if ranks.first:
        try:
            run.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
            _check_space(place, sum(t.numel() * t.element_size() for t in tensors.values()))
            part.mkdir()
        except OSError as error:
            problem = error
    try:
        if sharded:
            if ranks.tell(problem is not None):
                raise problem or OSError(errno.EIO, f"the first rank could not begin {place}")
            problem = _write_shards(part, tensors)
            failed = any(row[0] for row in ranks.gather([float(problem is not None)]))
            if failed:
                raise problem or OSError(errno.EIO, f"another rank could not write its shard of {place}")
        elif problem:
            raise problem
        else:
            _write_files(part, tensors)
        if ranks.first:
            _finish(part, place, {**facts, "step": step, "tensors": sorted(tensors)})
    except OSError as error:
        if error.errno == errno.ENOSPC and "nothing was left" not in str(error):
            shutil.rmtree(part, ignore_errors=True)
            raise full_disk(place) from error
        raise
    finally:
        if ranks.first:
            shutil.rmtree(part, ignore_errors=True)
    return place


def _check_space(place: Path, size: int) -> None:
    needed = size + size // 20 + (1 << 16)
    if shutil.disk_usage(place.parent).free < needed:
        raise full_disk(place, needed)


def _write_files(part: Path, tensors: Mapping[str, Tensor]) -> None:
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        files.setdefault(name.partition(".")[0], {})[name] = tensor
    for name, held in files.items():
        shapes = {key: tuple(tensor.shape) for key, tensor in held.items()}
        save_tensors(part / f"{name}.safetensors", shapes, held.items())


def _write_shards(part: Path, tensors: Mapping[str, Tensor]) -> OSError | None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_shards

    try:
        save_shards(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True))
    except OSError as error:
        return error
    except CheckpointException as error:  # what went wrong on some rank
        return OSError(errno.EIO, f"a shard could not be written: {error}")
    return None


def _finish(part: Path, place: Path, facts: Mapping[str, Any]) -> None:
    """State, manifest, flush, rename."""
    with whole_file(part / STATE) as file:
        file.write(json.dumps(facts, indent=1, sort_keys=True).encode())
    files = {}
    for path in sorted(part.iterdir()):
        if path.name.startswith("shard-"):  # the others are flushed where they are written
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        files[path.name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    with whole_file(part / MANIFEST) as file:
        file.write(_manifest(files))
    sync_folder(part)
    if place.exists():  # damaged, or of a future that was abandoned: this run came from an earlier one
        shutil.rmtree(place)
    os.rename(part, place)
    sync_folder(place.parent)


def _manifest(files: Mapping[str, Any]) -> bytes:
    """Its own digest stands in it, so that a damaged manifest is not taken for damaged files."""
    text = json.dumps(files, indent=1, sort_keys=True)
    own = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"format": FORMAT, "files": files, "sha256": own}, indent=1, sort_keys=True).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prune(run: Path, step: int, keep: Collection[int]) -> None:
    """After `step` was saved: only the last two stay, and `keep`. Later ones are of a future that was abandoned."""
    found = steps(run)
    last = [s for s in found if s <= step][-2:]
    for other in found:
        if other not in last and (other not in keep or other > step):
            shutil.rmtree(path_of(run, other), ignore_errors=True)


# -- reading --------------------------------------------------------------------------------------------------------


def verify(place: Path) -> dict[str, Any]:
    """The state of a checkpoint whose every byte is as it was written. Raises CheckpointError naming the wrong file."""
    manifest = place / MANIFEST
    try:
        raw = manifest.read_bytes()
        files = json.loads(raw)["files"]
        expected = _manifest(files)
    except OSError as error:
        raise CheckpointError(manifest, "manifest", str(error.strerror).lower()) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(manifest, "manifest", "not one of ours, or damaged") from None
    if raw != expected:
        raise CheckpointError(manifest, "manifest", "not as it was written")
    for name, facts in files.items():
        path = place / name
        if Path(name).name != name or not path.is_file():
            raise CheckpointError(path, "file", "the manifest names it, but it is not there")
        if not isinstance(facts, dict) or path.stat().st_size != facts.get("size"):
            raise CheckpointError(path, "size", f"{path.stat().st_size} bytes; the manifest says {facts}")
        if _sha256(path) != facts.get("sha256"):
            raise CheckpointError(path, "SHA-256", "its bytes are not those that were written")
    if STATE not in files:
        raise CheckpointError(manifest, "manifest", f"{STATE} is not in it")
    state: dict[str, Any] = json.loads((place / STATE).read_bytes())
    if path_of(place.parent, state["step"]) != place:
        raise CheckpointError(place / STATE, "step", f"{state['step']}, which is another checkpoint's")
    return state


def newest(run: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The state of the newest checkpoint that verifies, None where there is none at all; says what was skipped and why.

    Raises CheckpointError when there are checkpoints, but none that verifies.
    """
    for place in map(lambda step: path_of(run, step), reversed(found := steps(run))):
        try:
            return verify(place)
        except CheckpointError as error:
            say(f"{error}; going back to the checkpoint before it")
    if found:
        raise CheckpointError(run, "run", f"none of its {len(found)} checkpoints verifies")
    return None


def load(place: Path, into: dict[str, Tensor]) -> None:
    """Fill tensors, whole or split over ranks, from a checkpoint of any number of ranks. All ranks call it.

    Raises CheckpointError for a tensor that is missing or of another shape.
    """
    files = sorted(place.glob("*.safetensors"))
    if any(is_split(t) for t in into.values()) or any(f.name.startswith("shard-") for f in files):
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load as load_shards

        alone = not torch.distributed.is_initialized()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*single process")  # which is what we ask for
            if into:
                load_shards(dict(into), storage_reader=HuggingFaceStorageReader(str(place)), no_dist=alone)
        return
    missing = set(into)
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                for name in missing & set(file.keys()):
                    tensor = file.get_tensor(name)
                    if tensor.shape != into[name].shape:
                        raise CheckpointError(
                            path, f"tensor {name!r}", f"shape {tuple(tensor.shape)}; expected {tuple(into[name].shape)}"
                        )
                    into[name].copy_(tensor)
                    missing.discard(name)
        except SafetensorError as error:
            raise CheckpointError(path, "safetensors", str(error)) from None
    if missing:
        raise CheckpointError(place, f"tensor {min(missing)!r}", f"{len(missing)} tensors are missing")

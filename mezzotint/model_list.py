"""What `mezzotint models` lists: names, files that it is given, families; and which of it fits into this machine's memory.

needed = 4 bytes a parameter, as `generate` holds them, and a sixth more for keys, values and what a call computes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mezzotint.checkpoints import hub
from mezzotint.checkpoints.families import FAMILIES
from mezzotint.checkpoints.load import KNOWN, load
from mezzotint.doctor import free_memory

WIDTH = 4  # bytes of a parameter in memory, whatever it has on disk
MORE = 1 / 6
PROCESS = 400e6  # bytes that the interpreter and its libraries take


def needed(parameters: int) -> int:
    """Bytes of memory to decode with so many parameters."""
    return int(parameters * WIDTH * (1 + MORE) + PROCESS)


def models(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Rows for JSON: every known name, what was pulled from the hub, then the checkpoints at `paths`; heads alone are read.

    fits: None where the system does not say how much memory is free. Raises as `load` does.
    """
    rows = list[dict[str, Any]]()
    for name, known in KNOWN.items():
        on_disk = known.on_disk()
        rows.append({
            "name": name, "what": known.title, "parameters": known.parameters, "noise": known.facts.noise,
            "trained_canvas": known.trained_canvas, "license": known.license,
            "on_disk": None if on_disk is None else str(on_disk), "verified": FAMILIES[known.facts.family].reference,
        })  # fmt: skip
    for path in [*hub.every_pulled(), *paths]:
        found = load(path)
        rows.append({
            "name": path, "what": f"a checkpoint of the family {found.family.name}", "parameters": found.parameters,
            "noise": found.facts.noise, "trained_canvas": found.facts.trained_canvas, "license": found.license,
            "on_disk": str(found.source), "verified": found.family.reference,
        })  # fmt: skip
    free = free_memory()
    for row in rows:
        row["memory"] = needed(row["parameters"])
        row["fits"] = None if free is None else row["memory"] <= free
    return rows


def shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A row for people."""
    return {
        "name": row["name"], "what": row["what"], "parameters": f"{row['parameters'] / 1e6:,.1f} M", "noise": row["noise"],
        "canvas": "trained" if row["trained_canvas"] else "not trained",
        "memory": f"{row['memory'] / 1e9:.1f} GB" + {True: ", fits", False: ", does NOT fit", None: ""}[row["fits"]],
        "verified with": row["verified"] or "nothing yet", "licence": row["license"] or "not stated",
        "on disk": "yes" if row["on_disk"] else f"no: mezzotint pull {row['name']}",
    }  # fmt: skip


def room() -> str:
    """How much memory is free, and what fits into it."""
    free = free_memory()
    if free is None:
        return "this system does not say how much memory is free"
    most = max(0.0, (free - PROCESS) / WIDTH / (1 + MORE))
    return f"{free / 1e9:.1f} GB of memory are free: room for {most / 1e9:.1f} billion parameters in float32"


def families() -> list[dict[str, str]]:
    """What `load` reads beside: a family's config.json says one of these model types."""
    return [
        {
            "family": family.name, "model_type": ", ".join(family.model_types),
            "verified with": family.reference or "nothing yet",
            "written by convert": "no" if family.to_json is None else "folder" + _twins(family.name, family.reference),
        }
        for family in FAMILIES.values()
    ]  # fmt: skip


def _twins(name: str, reference: str) -> str:
    return (", stock" if reference == "transformers" else "") + (", gguf" if name == "llama" else "")

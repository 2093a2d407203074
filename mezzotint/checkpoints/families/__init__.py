"""Families: groups of checkpoints that share configuration keys, tensor names and facts. A new one is a file here.

`find` says which family a folder's config.json belongs to; `FAMILIES` lists them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.families import bd3lm, dense, gemma, gpt2, leveled, llada, llada2
from mezzotint.checkpoints.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *dense.FAMILIES,
        *gemma.FAMILIES,
        gpt2.GPT2,
        llada.LLADA,
        llada2.LLADA2,
        bd3lm.BD3LM,
        *leveled.FAMILIES,
    )
}
BY_MODEL_TYPE = {model_type: family for family in FAMILIES.values() for model_type in family.model_types}


def find(path: Path, table: dict[str, Any]) -> Family:
    """The family that `model_type` in the config.json at `path` names. Raises CheckpointError for one we do not know."""
    model_type = "sedd" if leveled.is_sedd(table) else table.get("model_type")
    if not isinstance(model_type, str) or model_type not in BY_MODEL_TYPE:
        known = ", ".join(map(repr, BY_MODEL_TYPE))
        raise CheckpointError(path, "'model_type'", f"{str(model_type)[:60]!r}; supported: {known}", 0)
    return BY_MODEL_TYPE[model_type]

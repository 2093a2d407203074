"""The table of families in docs/checkpoints.md, made of the goldens. MEZZOTINT_WRITE_DOCS=1 writes it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

import toy_folder

from mezzotint.checkpoints.families import FAMILIES, find

DOC = Path(__file__).parents[2] / "docs" / "checkpoints.md"
PLACE = re.compile(
    r"(?<=<!-- families: made by tests/checkpoints/test_family_table.py -->\n).*?(?=<!-- /families -->)", re.S
)


def table() -> str:
    rows = ["| family | `model_type` | logits equal in | stock decoding | reference |", "|---|---|---|---|---|"]
    goldens: dict[str, list[dict]] = {}
    for name in toy_folder.NAMES:
        told = toy_folder.golden(name)
        goldens.setdefault(find(Path("config.json"), told["config"]).name, []).append(told)
    for name, family in FAMILIES.items():
        types = ", ".join(f"`{t}`" for t in family.model_types)
        if name not in goldens:
            rows.append(f"| {name} | {types} | unverified | unverified | |")
            continue
        told = goldens[name]
        modes = sorted({mode["mode"] for golden in told for mode in golden["modes"]})
        records = [record for golden in told for record in golden.get("samplers", [])]
        ref = told[0]["reference"]
        where = (
            f"{ref['repository']} at {ref['commit'][:7]}"
            if "repository" in ref
            else f"transformers {ref['transformers']}"
        )
        sampled = (
            f"{len(records)} of {len(records)} texts"
            if records
            else "none of its own"
            if "repository" not in ref
            else "not checked"
        )
        rows.append(f"| {name} | {types} | {', '.join(modes)} | {sampled} | {where} |")
    return "\n".join(rows) + "\n"


def test_goldens_say_what_was_run() -> None:
    for name in toy_folder.NAMES:
        ref = toy_folder.golden(name)["reference"]
        assert ref["sha256"] and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in ref["sha256"].values()), name
        assert (
            re.fullmatch("[0-9a-f]{40}", ref["commit"]) if "repository" in ref else "transformers v5" in ref["release"]
        )


def test_the_table_is_what_the_goldens_say() -> None:
    text = DOC.read_text()
    if os.environ.get("MEZZOTINT_WRITE_DOCS") == "1":
        DOC.write_text(text := PLACE.sub(lambda match: table(), text))
    assert PLACE.search(text) is not None and PLACE.search(text)[0] == table()

"""Rows that teach live translation: no source file that is measured on, prefixes as long as their sources, the right question."""

import json
import random

import pytest
import zstandard

from mezzotint.live.pairs import pairs, prefix, write_rows
from mezzotint.live.translate import Live
from mezzotint.recipes.mixture import HOLD_OUT
from mezzotint.train.data import held_out


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rows = [
        {
            "input": f"Close file number {n} now.",
            "output": f"Fermez le fichier {n} maintenant.",
            "source": f"page{n // 3}.po",
        }
        for n in range(300)
    ]
    rows += [{"input": "Use ``x``.", "output": "Utilisez ``x``.", "source": "page0.po"}]
    rows += [{"input": "word " * 41, "output": "mot " * 41, "source": "page0.po"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "python-docs-fr.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
    monkeypatch.setenv("MEZZOTINT_DATA", str(tmp_path))
    return rows


def test_what_is_learnt_is_never_measured_on(folder, tmp_path):
    out = tmp_path / "rows.jsonl"
    count = write_rows(out, prefixes=0.5)
    made = [json.loads(line) for line in out.read_text().splitlines()]
    kept = [row for row in folder[:300] if not held_out(row["source"], HOLD_OUT)]
    assert count == len(made) and len(kept) * 1.3 < count < len(kept) * 1.7 and len(kept) < 300
    measured = {english for english, _ in pairs(held=True)}
    assert measured == {row["input"] for row in folder[:300]} - {row["input"] for row in kept}
    asked = Live().prompt("", True)
    for row in made:
        said = row["messages"][0]["content"].removeprefix(asked)
        assert said and not any(
            said == text or (text.startswith(f"{said} ") and said.count(" ") > 2) for text in measured
        )
    whole = {row["messages"][1]["content"] for row in made}
    assert {row["output"] for row in kept} <= whole
    with pytest.raises(ValueError, match="exists"):
        write_rows(out)
    with pytest.raises(ValueError, match="between 0 and 1"):
        write_rows(tmp_path / "other", prefixes=2)


def test_a_prefix_is_a_part_of_both(count):
    draw = random.Random(0)
    for _ in range(count(400)):
        source = " ".join(f"s{n}" for n in range(draw.randint(2, 40)))
        target = " ".join(f"t{n}" for n in range(draw.randint(1, 60)))
        begun, meant = prefix(source, target, draw)
        assert source.startswith(f"{begun} ") and target.startswith(meant) and meant
        share = len(begun.split()) / len(source.split())
        assert abs(len(meant.split()) - share * len(target.split())) <= 1


def test_without_the_file_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MEZZOTINT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="python-docs-fr"):
        write_rows(tmp_path / "rows.jsonl")

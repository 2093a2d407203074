"""Workers on Ray give the store that one process gives. Skipped where Ray is not installed."""

import importlib.util
import json

import pytest
from test_eval_command import call

from mezzotint.eval.store import whole_lines


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_two_workers_answer_as_one_process_does(tmp_path):
    stores = []
    for name, more in (("alone", ()), ("ray", ("--ray", 2))):
        rest = (
            "--fixtures",
            "--model",
            "tiny",
            "--decode",
            "ar",
            "--max-tokens",
            8,
            "--batch",
            2,
            "--out",
            tmp_path / name,
        )
        code, _, err = call("eval", "gpqa", "mmlu-lite", *rest, *more)
        assert code == 0, err
        rows = [row for task in ("gpqa", "mmlu-lite") for row in whole_lines(tmp_path / name / f"{task}.answers.jsonl")]
        stores.append({row["item"]: (row["text"], row["ids"]) for row in rows})
        assert json.loads((tmp_path / name / "run.json").read_text())["model"] == "tiny"
    assert stores[0] == stores[1] and len(stores[0]) == 6
    assert (tmp_path / "alone" / "run.json").read_bytes() == (tmp_path / "ray" / "run.json").read_bytes()

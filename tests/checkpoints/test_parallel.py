"""A network over several ranks (`model/parallel.py`): the logits and tokens of one process; what cannot be split says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toy_folder

from mezzotint.model.config import ModelConfig
from mezzotint.model.parallel import Share
from mezzotint.model.variant import Experts, Kind, Variant

HERE = Path(__file__).parent
SOME = ["llama", "qwen3", "qwen3_moe"]  # dense; norms of q and k; experts. All have two query heads to a key's
TWO_HEADS = {"bd3lm", "sedd", "sedd_uniform", "udlm", "udlm_classes"}
LLAMA = ModelConfig(40, 32, 2, 4, 2, 8, 48, 64)


def ranks(size: int, names: list[str], writing: bool) -> dict[str, Any]:
    """What processes of their own say."""
    paths = [HERE.parents[1], HERE, HERE.parent / "train", HERE.parent / "golden" / "families"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "split_ranks.py"), str(size), str(int(writing)), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["codes"] == [0] * size, done.stderr[-3000:]
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")
@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_together_say_what_one_process_says(size: int, full: bool) -> None:
    """Full counts: every family's toy checkpoint. Four ranks share two heads for keys and values, and 6 experts unevenly.

    What ranks write follows from their logits being the same to the bit; two of them show it, four at full counts.
    """
    names = list(toy_folder.NAMES) if full else SOME if size == 2 else SOME[:1]
    writing = full or size == 2
    told = ranks(size, names, writing)
    found, wrong = told["found"], told["wrong"]
    assert list(found) == [*names, "odd"]
    refused = {name: r["refused"] for name, r in found.items() if "refused" in r}
    assert set(refused) == (TWO_HEADS & set(names) if size == 4 else set()), refused
    for name, r in found.items():
        if name in refused:
            assert "2 heads cannot be split over 4 ranks" in r["refused"]
            continue
        assert r["exact"] < 1e-12 and r["largest"] > 0.1, (name, r)  # float64: what is left is the order of sums
        assert r["distance"] < 1e-4, (name, r)  # float32
        assert r["same"], name
        assert r["held"] < 0.85, (name, r["held"])
        if "tokens" in r:
            assert r["tokens"] == r["alone"] and all(len(ids) > 3 for way in r["tokens"] for ids in way), name
    assert not writing or {name for name, r in found.items() if "tokens" in r} >= {"odd", "llama"}
    assert "leave quantize='int8' out" in wrong["int8"]
    assert "odd has an adapter, which is not split over ranks" in wrong["adapter"]
    assert "split over ranks only decodes" in wrong["saved"]


@pytest.mark.parametrize(
    ("config", "size", "said"),
    [
        (LLAMA, 3, "4 heads cannot be split over 3 ranks; take a number that divides 4"),
        (ModelConfig(40, 32, 2, 12, 4, 8, 48, 64), 6, "layer 0 has 4 heads for keys and values, which 6 ranks can neither"),
        (ModelConfig(40, 32, 2, 4, 2, 8, 46, 64), 4, "mlp_width 46 cannot be split over 4 ranks"),
        (ModelConfig(5, 32, 2, 4, 4, 8, 48, 64), 4, "a vocabulary of 5 tokens leaves some of 4 ranks without any"),
        (
            ModelConfig(40, 32, 1, 4, 4, 8, 48, 64, variant=Variant((Kind(),), (0,), experts=Experts(4, 2, 8, shared_width=6))),
            4, "shared_width 6 cannot be split over 4 ranks",
        ),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_split(config: ModelConfig, size: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Share(config, 0, size)


def test_ranks_hold_all_of_it_once_but_for_shared_heads() -> None:
    shares = [Share(ModelConfig(41, 32, 2, 8, 2, 8, 48, 64), rank, 4) for rank in range(4)]
    assert [len(share.vocabulary) for share in shares] == [11, 11, 11, 8]
    assert [list(share.kv_heads(2)) for share in shares] == [[0], [0], [1], [1]]  # of query heads 0-1, 2-3, 4-5, 6-7
    assert [list(share.kv_heads(8)) for share in shares] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert {share.held.num_heads for share in shares} == {2}

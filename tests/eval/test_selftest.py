"""References of the real files, through extraction and sandbox: samples here, whole files under MEZZOTINT_FULL=1."""

import pytest

from mezzotint.eval.selftest import self_test
from mezzotint.eval.tasks import TASKS

CODE = ("humaneval", "mbpp", "mbpp-sanitized", "mbpp-plus", "humanevalfix", "bigcodebench", "bigcodebench-complete",
        "infilling-single-line", "infilling-multi-line", "infilling-random-span-light", "swebench-format")  # fmt: skip


@pytest.mark.parametrize("grading", ["strict", "official"])
@pytest.mark.parametrize("name", CODE)
def test_references_pass(name, grading, items_folder, full, request):
    judge = request.getfixturevalue(grading)
    found = list(self_test([TASKS[name]], items_folder, judge, None if full else 3, workers=2))
    if not found:
        pytest.skip("skipped: no data")
    for one in found:
        print(f"\n{one.name}, {grading}: {one.right} of {one.total}", *one.wrong, sep="\n  ")
        assert one.ok, one.wrong

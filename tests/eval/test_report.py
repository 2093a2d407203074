"""The page, from stores made by hand."""

import pytest
from scripted import DATA, ROWS, Says, right

from mezzotint.eval import data
from mezzotint.eval.answer import averages
from mezzotint.eval.judge import Judge
from mezzotint.eval.report import markdown, page, write
from mezzotint.eval.runner import Wanted, run
from mezzotint.eval.scores import read_store
from mezzotint.eval.store import Store
from mezzotint.eval.tasks import TASKS


@pytest.fixture
def stores(tmp_path):
    half = Says(lambda i: right(i) if i.id < "p2" else "no", name="half <b>")
    for name, system in (("one", Says(right)), ("two", half)):
        with Store(tmp_path / name, system.about) as store:
            run(TASKS["aime2025"], DATA, system, store, Judge(), Wanted(items=30, command="mezzotint eval aime2025"))
            fixture = data.fixture("gpqa_schema")
            run(TASKS["gpqa"], fixture, Says(lambda i: f"Answer: {i.gold['target']}"), store, Judge(), Wanted())
    return [read_store(tmp_path / name) for name in ("one", "two")]


def test_the_page(stores, tmp_path):
    text = markdown(stores, "Ten")
    assert "| AIME 2025 | 30 of 40 | 100.0 (89 to 100) |" in text and "| 23.3 | 20.0 |" in text
    assert "fixture: 3 of 3" in text and "GPQA Diamond, 0.0" not in text
    assert "Not run: LiveCodeBench" in text and "`mezzotint eval aime2025`" in text
    assert "272.4 tokens/s" in text and "2.00" in text  # tokens a call: 10 in 5
    differs = next(line for line in text.splitlines() if line.startswith("| AIME 2025 | half") and " to " in line)
    assert differs.rstrip().endswith("| yes |")
    html = page(stores, "Ten", note="commit <abc>")
    assert "commit &lt;abc&gt;." in html
    assert html.count("<svg") == 2 and "half &lt;b&gt;" in html and "<b>" not in html
    assert [path.name for path in write(stores, tmp_path / "out" / "ten", "Ten")] == ["ten.md", "ten.html"]


def test_averages_by_hand():
    found = averages("bbeh", {"a": [1.0, 0.0], "b": [0.0, 0.0]})
    assert found["mean over tasks"] == 0.25
    assert found["harmonic mean over tasks of (accuracy + 1 point)"] == pytest.approx(2 / (1 / 0.51 + 1 / 0.01))
    assert averages("mmlu-lite", {"de": [1.0], "en": [0.0, 0.0, 0.0]}) == {"mean over languages": 0.5}
    assert len(ROWS) == 40

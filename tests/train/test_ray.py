"""Ray Data gives what one machine gives: the same bytes, the same rows, the same answers. Not in the test installation."""

import json
import os

import numpy as np
import pytest

import mezzotint as mz
from mezzotint.train.data import Document, Source
from mezzotint.train.packing import Packing
from mezzotint.train.tokens import Choice, build

pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

from mezzotint.train import ray as on_ray  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """The one that RAY_ADDRESS names, or one of its own."""
    import ray

    own = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": 2, "include_dashboard": False}
    ray.init(log_to_driver=False, **own)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sources of two files; a repetition across files, a bad row in each."""
    folder = tmp_path_factory.mktemp("ray")
    for name in ("a", "b"):
        (folder / name).mkdir()
        for part in range(2):
            rows = [{"text": f"{name} {part} {n} " + "cat " * n, "source": f"{name}{part}{n}"} for n in range(30)]
            rows += [{"text": "the same", "source": "x"}, {"prompt": f"{name}?", "completion": f"{part}."}]
            (folder / name / f"{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + "bad\n")
    return folder


def sources(folder):
    return [Source(name, tuple(sorted((folder / name).glob("*.jsonl")))) for name in ("b", "a")]


def test_a_corpus_has_the_same_bytes(folder, tmp_path):
    tokenizer, choice = mz.load("tiny").tokenizer, Choice(hold_out=0.1)
    one = build(tmp_path / "one", sources(folder), tokenizer, choice)
    other = build(
        tmp_path / "other", sources(folder), tokenizer, choice, stream=lambda s: on_ray.encoded(s, tokenizer, choice)
    )
    assert one.manifest["sources"]["a"]["skipped"] == {"is a repetition": 1, "is not JSON": 2}
    files = {path.name: path.read_bytes() for path in one.folder.iterdir()}
    assert files == {path.name: path.read_bytes() for path in other.folder.iterdir()}

    packing = Packing(one, 64, seed=3, weights={"a": 2})
    rows = packed = packing.rows(5, 20)
    found = on_ray.packed_rows(other.folder, 64, range(5, 25), 3, {"a": 2}, block=6).take_all()
    for name in ("tokens", "document", "position", "learnt"):
        assert np.array_equal(np.stack([row[name] for row in found]), getattr(rows, name).numpy()), name
    assert packed.real.any()


def test_answers_depend_on_the_question_alone(tmp_path):
    from checkpoints.tiny_checkpoint import write_folder, write_gguf

    weights = write_gguf(tmp_path / "x.gguf")
    write_folder(tmp_path / "model", weights)
    rows = [{"prompt": f"the {n}", "completion": "and"} for n in range(12)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"max_tokens": 40, "temperature": 2.0}
    counts = [
        on_ray.regenerate(
            tmp_path / name, [str(tmp_path / "q.jsonl")], str(tmp_path / "model"), workers, batch=batch, **options
        )
        for name, workers, batch in (("one.jsonl", 1, 12), ("two.jsonl", 2, 3))
    ]
    assert counts[0] == counts[1] and counts[0][0] == 12 and 0 < counts[0][1] <= 12
    lines = (tmp_path / "one.jsonl").read_text().splitlines()
    assert lines == (tmp_path / "two.jsonl").read_text().splitlines() and len(lines) == counts[0][1]
    for line in lines:
        user, answer = json.loads(line)["messages"]
        assert user["content"].startswith("the ") and answer["role"] == "assistant" and answer["content"] != "and"
    with pytest.raises(ValueError, match="exists; give another"):
        on_ray.regenerate(tmp_path / "one.jsonl", [str(tmp_path / "q.jsonl")], "x")


def test_only_conversations_are_asked():
    turns = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"})
    documents = [Document("s", "text"), Document("t", messages=turns), Document("u", messages=turns[1:2])]
    assert [(json.loads(row["messages"]), row["source"]) for row in on_ray.questions(documents)] == [
        (list(turns[:2]), "t")
    ]

"""Ray Data gives what one machine gives: the same bytes, the same rows, the same answers.

What its workers compute is tested here without it; the cluster itself where Ray is installed (it is not for `make test`).
"""

import importlib.util
import json
import os

import numpy as np
import pytest
from checkpoints.tiny_checkpoint import write_folder, write_gguf

import mezzotint as mz
from mezzotint.recipes.questions import questions as ask_itself
from mezzotint.recipes.questions import write_questions
from mezzotint.train import ray as on_ray
from mezzotint.train import regenerate as regenerating
from mezzotint.train.corpus import Choice, build
from mezzotint.train.data import Document, Skipped, Source
from mezzotint.train.packing import Packing
from mezzotint.train.regenerate import Regenerate, questions, regenerate
from mezzotint.train.tokens import token_type


@pytest.fixture(scope="module")
def cluster():
    """The one that RAY_ADDRESS names, or one of its own."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
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


def files_of(corpus):
    return {path.name: path.read_bytes() for path in corpus.folder.iterdir()}


CHOICE = Choice(hold_out=0.1)


@pytest.fixture(scope="module")
def local(folder, tmp_path_factory):
    corpus = build(tmp_path_factory.mktemp("local") / "out", sources(folder), mz.load("tiny").tokenizer, CHOICE)
    assert corpus.manifest["sources"]["a"]["skipped"] == {"is a repetition": 1, "is not JSON": 2}
    return corpus


def test_workers_encode_files_to_the_same_bytes(folder, local, tmp_path):
    tokenizer = mz.load("tiny").tokenizer

    def stream(ordered):
        work = on_ray.EncodeFiles(ordered, tokenizer, CHOICE, False)
        rows = [row for s in range(2) for f in range(2) for row in work({"source": s, "file": f})]
        return on_ray.from_rows(rows, token_type(tokenizer.vocab_size))

    assert files_of(build(tmp_path / "out", sources(folder), tokenizer, CHOICE, stream=stream)) == files_of(local)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_corpus_and_its_rows_on_ray(cluster, folder, local, tmp_path):
    tokenizer = mz.load("tiny").tokenizer
    other = build(
        tmp_path / "out", sources(folder), tokenizer, CHOICE, stream=lambda s: on_ray.encoded(s, tokenizer, CHOICE)
    )
    assert files_of(other) == files_of(local)
    rows = Packing(local, 64, seed=3, weights={"a": 2}).rows(5, 20)
    found = on_ray.packed_rows(other.folder, 64, range(5, 25), 3, {"a": 2}, block=6).take_all()
    for name in ("tokens", "document", "position", "learnt"):
        assert np.array_equal(np.stack([row[name] for row in found]), getattr(rows, name).numpy()), name


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_folder(folder / "model", write_gguf(folder / "x.gguf"))
    return str(folder / "model")


def test_answers_depend_on_the_question_alone(model):
    turns = [[{"role": "user", "content": f"the {n}"}, {"role": "assistant", "content": "and"}] for n in range(12)]
    work = Regenerate(model, max_tokens=40, temperature=2.0)

    def answers(size):
        found = []
        for begin in range(0, 12, size):
            some = turns[begin : begin + size]
            out = work({"messages": [json.dumps(t) for t in some], "source": ["s"] * len(some)})
            assert out["source"] == ["s"] * len(out["messages"])
            found += out["messages"]
        return found

    together = answers(12)
    assert together == answers(3) and 0 < len(together) < 12  # those that did not end are left out
    for line in together:
        user, answer = json.loads(line)
        assert user["content"].startswith("the ") and answer["role"] == "assistant" and answer["content"].strip()
    assert len({json.loads(line)[1]["content"] for line in together}) > 1
    some = {"messages": [json.dumps(t) for t in turns], "source": ["s"] * 12}
    cut = Regenerate(model, max_tokens=40, temperature=2.0, cut=True)(some)
    ended = [line for line, cut in zip(cut["messages"], cut["cut"], strict=True) if not cut]
    assert ended == together and len(together) < len(cut["messages"]) <= 12


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_regenerating_on_ray(cluster, model, tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"the {n}", "completion": "and"}) + "\n" for n in range(12)))
    options = {"max_tokens": 40, "temperature": 2.0}
    asked, kept = regenerate(tmp_path / "new.jsonl", [str(file)], model, workers=2, batch=3, **options)
    rows = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    batch = {"messages": [row["messages"] for row in questions(Source("q", (file,)).documents(Skipped()))]}
    alone = Regenerate(model, **options)({**batch, "source": ["s"] * 12})
    assert (asked, kept) == (12, len(rows))
    assert sorted(json.dumps(row["messages"]) for row in rows) == sorted(alone["messages"])
    with pytest.raises(ValueError, match="exists; give another"):
        regenerate(tmp_path / "new.jsonl", [str(file)], model)


def test_a_model_asks_itself(model, tmp_path):
    engine, told = mz.Engine(mz.load(model)), []
    asked = ask_itself(engine, 10, max_tokens=40, temperature=2.0, batch=4, report=lambda *at: told.append(at))
    assert asked == ask_itself(engine, 10, max_tokens=40, temperature=2.0, batch=10) and told[-1] == (10, 10)
    assert 1 < len(asked) <= 10 and all(len(text) >= 12 for text in asked)
    assert set(ask_itself(engine, 10, max_tokens=16, temperature=2.0, batch=10)) < set(
        asked
    )  # unfinished ones are left out
    write_questions(tmp_path / "q.jsonl", asked)
    found = questions(Source("q", (tmp_path / "q.jsonl",)).documents(Skipped()))
    assert [json.loads(row["messages"])[0]["content"] for row in found] == asked
    assert regenerate(tmp_path / "a.jsonl", [str(tmp_path / "q.jsonl")], model, max_tokens=40, cut=True)[0] == len(
        asked
    )
    with pytest.raises(ValueError, match="exists; give another"):
        write_questions(tmp_path / "q.jsonl", asked)


def test_only_conversations_are_asked():
    turns = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"})
    documents = [Document("s", "text"), Document("t", messages=turns), Document("u", messages=turns[1:2])]
    assert [(json.loads(row["messages"]), row["source"]) for row in questions(documents)] == [(list(turns[:2]), "t")]


def test_regenerating_goes_on_where_it_was(model, tmp_path, monkeypatch):
    file, out = tmp_path / "q.jsonl", tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"the {n}", "completion": "and"}) + "\n" for n in range(12)))
    options = {"max_tokens": 40, "temperature": 2.0, "batch": 2}
    monkeypatch.setattr(regenerating, "CHUNK", 2)
    whole = regenerate(tmp_path / "whole.jsonl", [str(file)], model, **options)
    asked, plain = [], Regenerate.__call__

    def interrupted(self, batch):
        asked.extend(batch["messages"])
        if len(asked) == 6:
            raise KeyboardInterrupt
        return plain(self, batch)

    with monkeypatch.context() as m:
        m.setattr(Regenerate, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            regenerate(out, [str(file)], model, **options)
    part = tmp_path / ".new.jsonl.part"
    assert not out.exists() and len(part.read_text().splitlines()) == 2
    with part.open("a") as torn:
        torn.write('[{"messages"')
    told = []
    assert regenerate(out, [str(file)], model, report=lambda *at: told.append(at), **options) == whole
    assert (
        out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
        and told == [(8, 12), (12, 12)]
        and not part.exists()
    )
    assert regenerate(tmp_path / "few.jsonl", [str(file)], model, most=3, **options)[0] == 3
    part.write_text("{}\n")
    out.unlink()
    with pytest.raises(ValueError, match="other questions or settings"):
        regenerate(out, [str(file)], model, **options)


def test_questions_without_room_for_an_answer_are_passed_over(model, tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps({"prompt": "the " * n, "completion": "and"}) + "\n" for n in (1, 400)))
    assert regenerate(tmp_path / "new.jsonl", [str(file)], model, max_tokens=40)[0] == 2

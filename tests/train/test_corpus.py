"""A corpus on disk: the same bytes however it is made, nothing lost between text and map, damage found."""

import json
import random

import pytest
from checkpoints.tiny_checkpoint import TEMPLATE, library_tokenizer
from test_tokens import make_tokenizer

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.train import corpus as corpus_module
from mezzotint.train.corpus import Choice, Corpus, build
from mezzotint.train.data import Source, held_out
from mezzotint.train.overlap import Runs
from mezzotint.train.tokens import end_id, fingerprint


@pytest.fixture
def sources(tmp_path):
    rng = random.Random(0)
    found = []
    for name, count in (("b", 150), ("a", 90), ("c", 3)):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"text": f"{name}{n} " + "the and " * rng.randrange(9), "source": f"{name}{n}"} for n in range(count)]
        rows[1] = {"instruction": "Say in", "output": f"{name} an end", "source": "s"}
        rows.insert(2, {"text": "the same", "source": "x"})  # in each file, so it enters once
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + ("not JSON\n" if name == "c" else ""))
        found.append(Source(name, (path,)))
    return found


def hashes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_order_of_files_and_the_number_of_workers_change_nothing(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(corpus_module, "CHUNK", 3)  # more chunks than are ever waited for
    one = build(tmp_path / "one", sources, make_tokenizer(), workers=1, shard=700)
    other = build(tmp_path / "other", sources[::-1], make_tokenizer(), workers=3, shard=700)
    assert hashes(one.folder) == hashes(other.folder) and one.sha256 == other.sha256
    assert len(one.manifest["sources"]["b"]["shards"]) > 1 and list(one.sources) == ["a", "b", "c"]
    shorter = build(tmp_path / "less", sources[:2], make_tokenizer(), shard=700)
    assert shorter.sha256 != one.sha256
    assert shorter.manifest["sources"]["a"]["shards"] == one.manifest["sources"]["a"]["shards"]


def test_every_document_comes_back_with_its_loss_mask(tmp_path, sources):
    tokenizer = make_tokenizer()
    corpus = build(tmp_path / "out", sources, tokenizer, shard=700)
    assert len(corpus) == 91 + 150 + 3 and corpus.manifest["sources"]["c"]["skipped"] == {
        "is a repetition": 1, "is not JSON": 1
    }  # fmt: skip
    assert corpus.manifest["sources"]["c"]["first_skipped"]["is not JSON"] == "c.jsonl, line 5"
    row = 0
    for line in (tmp_path / "a.jsonl").read_text().splitlines():
        said, learnt = corpus.read(row)
        document = json.loads(line)
        if "text" in document:
            assert said.tolist() == [*tokenizer.encode(document["text"]), end_id(tokenizer)] and learnt.all()
        else:
            assert tokenizer.decode(said[learnt]) == "a an end" and not learnt.all()
        for start, length in ((0, 1), (1, 3), (len(said) - 1, 1)):
            some = corpus.read(row, start, length)
            assert some.ids.tolist() == said[start : start + length].tolist()
            assert some.learnt.tolist() == learnt[start : start + length].tolist()
        row += 1
    assert corpus.read(row).ids.tolist() == [*tokenizer.encode("b0 " + "the and " * 6), end_id(tokenizer)]
    assert corpus.num_tokens == sum(entry["tokens"] for entry in corpus.manifest["sources"].values())
    corpus.verify()
    with pytest.raises(ValueError, match="document 244 of 244"):
        corpus.read(244)


def test_conversations_that_cannot_be_encoded_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"messages": [{"role": "judge", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'
        '{"text": "\\ud800"}\n{"text": "good"}\n'
    )
    corpus = build(tmp_path / "out", [Source("a", (path,))], make_tokenizer())
    assert len(corpus) == 1 and len(corpus.manifest["sources"]["a"]["skipped"]) == 2
    with pytest.raises(ValueError, match=r"a.jsonl, line 1 cannot be encoded: role of message 0 is 'judge'"):
        build(tmp_path / "strict", [Source("a", (path,))], make_tokenizer(), strict=True)
    assert not (tmp_path / "strict").exists() and not list(tmp_path.glob(".strict*"))


def test_what_is_held_out_and_what_overlaps_stays_out(tmp_path, sources):
    tokenizer = make_tokenizer()
    whole, train, rest = (
        build(tmp_path / name, sources, tokenizer, Choice(share, only))
        for name, share, only in (("whole", 0.0, False), ("train", 0.2, False), ("rest", 0.2, True))
    )
    names = [f"a{n}" for n in range(90) if n != 1]
    assert 0 < len(rest) < len(train) < len(whole) == len(train) + len(rest)
    assert len(train.sources["a"]) == sum(not held_out(n, 0.2) for n in [*names, "s", "x"])

    without = Runs(["the and " * 7])
    clean = build(tmp_path / "clean", sources, tokenizer, Choice(without=without))
    assert clean.manifest["sources"]["b"]["skipped"]["shares words with an evaluation"] > 5


def test_another_vocabulary_and_damage_are_found(tmp_path, sources):
    tokenizer = make_tokenizer()
    folder = build(tmp_path / "out", sources, tokenizer).folder
    assert fingerprint(Tokenizer.from_file(folder / "tokenizer.json")) == fingerprint(tokenizer)
    Corpus.open(folder, tokenizer)
    other = json.loads(library_tokenizer().to_str())
    other["added_tokens"].append({**other["added_tokens"][0], "id": len(tokenizer._bytes), "content": "<new>"})
    with pytest.raises(ValueError, match=r"another vocabulary .*build it again"):
        Corpus.open(folder, Tokenizer(other, TEMPLATE))
    path = folder / "a-00000.tokens.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a-00000.tokens.npy is damaged: its SHA-256"):
        Corpus.open(folder).verify()
    path.write_bytes(data[:-40])
    with pytest.raises(ValueError, match="damaged"):
        Corpus.open(folder)
    with pytest.raises(ValueError, match="is no corpus"):
        Corpus.open(tmp_path)
    (folder / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        Corpus.open(folder)
    (folder / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match="format 2; this version reads 1"):
        Corpus.open(folder)


def test_bad_builds_are_named_and_leave_nothing(tmp_path, sources, monkeypatch):
    tokenizer = make_tokenizer()
    (tmp_path / "empty.jsonl").touch()
    for change, problem in (
        ({"workers": 0}, "workers is 0"),
        ({"sources": [Source("empty", (tmp_path / "empty.jsonl",))]}, r"no document to train on \(empty: empty\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            build(**{"out": tmp_path / "out", "sources": sources, "tokenizer": tokenizer} | change)

    with pytest.raises(ValueError, match=r"hold_out is 1.0"):
        Choice(1.0)

    def dies(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus_module, "write_shard", dies)
    with pytest.raises(OSError, match="no space left to write"):
        build(tmp_path / "out", sources, tokenizer)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))

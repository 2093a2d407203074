"""Documents from files: every kind read, every bad row counted or named, nothing for evaluation let in."""

import gzip
import json
import lzma

import pytest
import zstandard

from mezzotint.train.data import (
    PERMISSIVE,
    Document,
    Skipped,
    data_folder,
    document_of,
    find_sources,
    read_documents,
    read_rows,
)

ROWS = [
    {"text": "a\u2028b", "source": "s"},
    {"instruction": "Do.", "input": "It.", "output": "Done.", "source": "t"},
    {"prompt": "Do.", "completion": "Done."},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], "output": "Ho"},
    {"codes": {"Go": "g", "C": "c", "Java": "j"}, "source": "u"},
]
CONTENTS = ["a\u2028b", "Do.\n\nIt.\nDone.", "Do.\nDone.", "Hi\nHo"]


def lines(rows=ROWS):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read(path, **options):
    skipped = Skipped()
    return list(read_documents(path, skipped, **options)), skipped


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress), (".zst", zstandard.compress),
     (".zst", lambda data: zstandard.compress(data[:7]) + zstandard.compress(data[7:]))],
    ids=["plain", "xz", "gz", "zstd", "zstd in two frames"],
)  # fmt: skip
def test_every_row_shape_in_every_packing(tmp_path, suffix, pack):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack(lines()))
    found, skipped = read(path)
    assert [d.content for d in found][:4] == CONTENTS and not skipped.counts
    assert [d.source for d in found] == ["s", "t", path.name, path.name, "u"]
    asked = found[4].messages[0]["content"]
    assert (
        asked.startswith("Convert this ")
        and found[4].messages[1]["content"] in "gcj"
        and found[4].place.endswith("line 5")
    )
    text = tmp_path / f"b.txt{suffix}"
    text.write_bytes(pack("\ufeffWhole\n\nfile.\n".encode()))
    assert [d.text for d in read(text)[0]] == ["Whole\n\nfile.\n"]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": ["one", None, "two"], "source": ["s"] * 3})
    parquet.write_table(table, tmp_path / "a.parquet")
    found, skipped = read(tmp_path / "a.parquet")
    assert [d.text for d in found] == ["one", "two"] and list(skipped.first.values()) == [
        f"{tmp_path / 'a.parquet'}, row 2"
    ]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"b.parquet is damaged"):
        read(tmp_path / "b.parquet")


def test_bad_rows_are_counted_or_named(tmp_path):
    path = tmp_path / "bad.jsonl"
    bad = {
        b"\xff\xfe{}": "is not UTF-8", b"{": "is not JSON", b"[1]": "is not an object", b'{"a": 1}': "holds no text",
        b'{"text": " "}': "is empty", b'{"instruction": "", "output": "x"}': "no question or no answer",
        b'{"messages": [{"role": "user"}]}': "has messages that are not", b'{"codes": {"C": "c"}}': "two languages",
        b'{"messages": [{"role": "user", "content": "Hi"}]}': "has no answer", b"[" * 9999: "is not JSON",
        b'{"text": "' + b"x" * (17 << 20) + b'"}': "is longer than 16 MiB",
        b'{"task": "user-oriented", "text": "x"}': "is for evaluation",
    }  # fmt: skip
    path.write_bytes(b"\n".join([b'{"text": "good"}', b"", *bad, b'{"text": "last"}']))
    found, skipped = read(path)
    assert [d.text for d in found] == ["good", "last"] and sum(skipped.counts.values()) == len(bad)
    assert f"{path}, line 3" in str(skipped) and skipped.counts["is not JSON"] == 2
    for number, (line, reason) in enumerate(bad.items()):
        one = tmp_path / "one.jsonl"
        one.write_bytes(b"\n" * number + line)
        with pytest.raises(ValueError, match=rf"one.jsonl, line {number + 1} .*{reason}"):
            list(read_documents(one, Skipped(strict=True)))


def test_a_line_of_100_mb_is_not_held_in_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "long.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "' + b"x" * 100_000_000 + b'"}\n{"text": "short"}'))
    tracemalloc.start()
    found, skipped = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [d.text for d in found] == ["short"] and skipped.counts == {"is longer than 16 MiB": 1}
    assert peak < 90 << 20


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
def test_files_cut_short_or_damaged_are_errors(tmp_path, suffix):
    pack = {".xz": lzma.compress, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    whole = pack(lines([{"text": f"{n} {hash(n * 7919) % 9973}"} for n in range(500)]))
    path = tmp_path / f"a.jsonl{suffix}"
    for data in (whole[: len(whole) // 2], whole[:-3], b"not packed at all"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is damaged"):
            read(path)


def test_empty_and_unknown_files(tmp_path):
    for name in ("empty.jsonl", "empty.txt"):
        (tmp_path / name).touch()
    assert read(tmp_path / "empty.jsonl")[0] == [] and not read(tmp_path / "empty.jsonl")[1].counts
    assert read(tmp_path / "empty.txt")[1].counts == {"is empty": 1}
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    assert read(tmp_path / "latin.txt")[1].counts == {"is not UTF-8": 1}
    for name in ("a.csv", "a", "a.parquet.zst"):
        with pytest.raises(ValueError, match=r"of no known kind; known: .jsonl"):
            read(tmp_path / name)
    for name in ("x-EVAL.jsonl", "x-EVAL-nc.txt"):
        (tmp_path / name).write_text('{"text": "x"}')
        with pytest.raises(ValueError, match="never enters training"):
            read(tmp_path / name)


def test_sources_have_names_an_order_and_rules(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("gsm8k-train", "onestop-sentences", "docs-corpus", "x-EVAL"):
        rows = [{"text": "x", "licence": "MIT"}, {"text": "y", "licence": "CC BY-SA 3.0 OR GPL-2+"}]
        (folder / f"{name}.jsonl.zst").write_bytes(zstandard.compress(lines(rows)))
    (tmp_path / "mine.txt").write_text("z")
    monkeypatch.delenv("MEZZOTINT_DATA", raising=False)
    with pytest.raises(ValueError, match=r"unknown source 'permissive'.*MEZZOTINT_DATA is not set"):
        find_sources(["permissive"])
    monkeypatch.setenv("MEZZOTINT_DATA", str(folder))
    found = find_sources([str(tmp_path / "mine.txt"), "permissive"])
    assert [s.name for s in found] == ["docs-corpus", "gsm8k-train", "mine"] and {"onestop-sentences"}.isdisjoint(
        PERMISSIVE
    )
    skipped = Skipped(strict=True)
    assert [d.text for d in found[0].documents(skipped)] == ["x"] and skipped.counts == {"has another licence": 1}
    assert len(list(find_sources(["docs-corpus"])[0].documents(Skipped()))) == 2
    assert [f.name for f in find_sources([str(folder)])[0].files] == [
        f"{name}.jsonl.zst" for name in ("docs-corpus", "gsm8k-train", "onestop-sentences")
    ]
    for names, problem in (
        (["gsm8k-trian"], "unknown source 'gsm8k-trian'.*did you mean gsm8k-train"),
        (["x-EVAL"], "never enters training"),
        (["docs-corpus", str(folder / "docs-corpus.jsonl.zst")], "two sources are named 'docs-corpus'"),
    ):
        with pytest.raises(ValueError, match=problem):
            find_sources(names)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no file of a known kind"):
        find_sources([str(tmp_path / "none")])


def test_the_training_folder(tmp_path):
    folder = data_folder()
    if folder is None:
        pytest.skip("MEZZOTINT_DATA is not set")
    missing = {name for name in PERMISSIVE if not (folder / f"{name}.jsonl.zst").is_file()}
    assert not missing
    for source in find_sources(["taskmaster4-coffee-dialogs", "thealgorithms-parallel-code", "commit-edits-markdown"]):
        skipped = Skipped()
        assert len(list(source.documents(skipped))) > 100 and not skipped.counts


def test_read_rows_still_refuses(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n[1]\n')
    with pytest.raises(ValueError, match="line 2 is not an object"):
        list(read_rows(tmp_path / "b.jsonl"))
    assert document_of({"text": "x"}) == Document("", "x", place="the row")

"""Parts: the same bytes each time, joined in any order of arrival; what is missing or damaged is named, nothing is half done."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mezzotint.recipes import parts
from mezzotint.recipes.parts import PartsError, check, join, megabytes, split


@pytest.fixture
def folder(tmp_path):
    for name, size in (("base/a.bin", 5000), ("base/deep/b.bin", 10), ("data/c.txt", 0)):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(size))
    return tmp_path


def cut(folder, out="kit", size=400):
    return split({name: folder / "in" / name for name in ("data", "base")}, folder / out, size)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_parts_come_apart_and_together(folder):
    manifest = cut(folder)
    sizes = [part["size"] for part in manifest["archives"]["base"]]
    assert len(sizes) > 3 and max(sizes) == 400
    cut(folder, "again")
    assert tree(folder / "again") == tree(folder / "kit")
    join(folder / "kit", folder / "out")
    assert {k: v for k, v in tree(folder / "out").items() if not k.startswith(".")} == tree(folder / "in")


def test_parts_come_in_several_transfers(folder):
    cut(folder)
    (folder / "there").mkdir()
    order = sorted((folder / "kit").iterdir(), reverse=True)  # the manifest before "data", after nothing
    for number, path in enumerate(order):
        if path.name != parts.MANIFEST:
            with pytest.raises(PartsError, match=r"not there|missing"):
                join(folder / "there", folder / "out")
        (folder / "there" / path.name).write_bytes(path.read_bytes())
        if number == 0:
            with pytest.raises(PartsError, match=r"not there|missing"):
                check(folder / "there")
    join(folder / "there", folder / "out")
    assert (folder / "out" / "base" / "a.bin").stat().st_size == 5000


def test_missing_and_damaged_parts_are_named_and_nothing_is_unpacked(folder):
    cut(folder)
    one, other = folder / "kit" / "base.tar.gz.001", folder / "kit" / "data.tar.gz.000"
    whole = one.read_bytes()
    one.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    other.unlink()
    with pytest.raises(
        PartsError, match=r"1 of \d+ parts missing: data.tar.gz.000; 1 of \d+ .*SHA-256.*base.tar.gz.001; send"
    ):
        join(folder / "kit", folder / "out")
    assert not (folder / "out").exists()
    manifest = folder / "kit" / parts.MANIFEST
    manifest.write_text(manifest.read_text().replace('"size": 400', '"size": 401', 1))
    with pytest.raises(PartsError, match=r"manifest.json is damaged"):
        check(folder / "kit")


def test_what_has_not_changed_stays_and_the_rest_is_replaced(folder):
    cut(folder)
    join(folder / "kit", folder / "out")
    (folder / "out" / "base" / "made-there").write_text("x")
    (folder / "in" / "data" / "c.txt").write_text("new")
    cut(folder, "second")
    join(folder / "second", folder / "out")
    assert (folder / "out" / "data" / "c.txt").read_text() == "new" and (
        folder / "out" / "base" / "made-there"
    ).exists()


def test_the_file_works_alone_without_the_package(folder):
    cut(folder)
    alone = folder / "parts.py"
    alone.write_bytes(Path(parts.__file__).read_bytes())
    run = lambda *args: subprocess.run([sys.executable, "-I", str(alone), *args], capture_output=True, text=True)  # noqa: E731
    done = run("join", str(folder / "kit"), str(folder / "out"))
    assert done.returncode == 0 and "parts are whole: base, data" in done.stdout, done.stderr
    (folder / "kit" / "data.tar.gz.000").unlink()
    bad = run("check", str(folder / "kit"))
    assert bad.returncode == 1 and "missing: data.tar.gz.000" in bad.stderr and "Traceback" not in bad.stderr
    assert run("join").returncode == 2


def test_bad_requests(folder):
    with pytest.raises(ValueError, match="at least one byte"):
        megabytes(0)
    with pytest.raises(ValueError, match="no name"):
        split({"../x": folder / "in"}, folder / "o", 10)
    cut(folder)
    with pytest.raises(FileExistsError):
        cut(folder)
    assert json.loads((folder / "kit" / parts.MANIFEST).read_text())["format"] == parts.FORMAT

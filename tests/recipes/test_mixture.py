"""The build of a mixture, on a folder of some rows: licences, overlaps, held-out sources, edits that lead where they say."""

import json
import random

import pytest
import zstandard
from checkpoints.tiny_checkpoint import write_gguf
from typer.testing import CliRunner

import mezzotint as mz
from mezzotint.cli import app
from mezzotint.recipes import mixture
from mezzotint.recipes.mixture import SETS, Builder, Prompts, build, spoilt
from mezzotint.train.data import PERMISSIVE
from mezzotint.train.examples import read_examples

SECRET = "one fish two fish red fish blue fish old fish new fish this one has a little star"
PARAGRAPH = "The old bridge was closed for repairs in the spring. Nobody used the {} road for a long while."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """With a chat template."""
    path = tmp_path_factory.mktemp("base") / "two-layers.gguf"
    write_gguf(path)
    return mz.load(path).tokenizer


def rows():
    def code(n):
        return f"def add_{n}(first, other):\n    total = first + other\n    # the sum\n    return total * {n + 17}\n"

    return {
        "docs-corpus": [{"text": "\n\n".join(PARAGRAPH.format(f"word{n} {m}") for m in range(4)), "source": f"d{n}",
                         "licence": "CC BY-SA 3.0" if n % 5 == 0 else "PSF-2.0"} for n in range(40)],
        "gsm8k-train": [{"instruction": f"What is {n} and {n}?", "input": "", "output": f"It is {2 * n}.", "source": f"g{n}"}
                        for n in range(20)] + [{"instruction": "Recite.", "output": f"Well: {SECRET}", "source": "planted"}],
        "python-functions": [{"instruction": f"Add and multiply by {n}.", "output": code(n), "source": f"p{n}", "licence": "MIT"}
                             for n in range(30)] + [{"instruction": "again", "output": "x = 1", "licence": "GPL-3"}],
        "ruff-lint-edits": [{"instruction": "Use `x`.", "rule": "UP1", "input": code(n), "output": code(n).replace("total", "t"),
                             "source": f"r{n}", "licence": "BSD"} for n in range(20)],
        "synthetic-grammar-edits": [{"instruction": "Proofread.", "input": f"Teh {n} and.", "output": f"The {n} and.",
                                     "source": f"synthetic:{s}"} for n in range(4)
                                    for s in ("python-docs-fr", "onestop-documents", "gsm8k-train", "debian-handbook")],
        "commit-edits": [{"instruction": "rewrite", "input": "abc" * 20, "output": "xyz" * 20, "source": "c"}],
        "taskmaster4-coffee-dialogs": [{"messages": [{"role": r, "content": f"{r} {n}"} for r in ("user", "assistant") * 2],
                                        "source": f"t{n}"} for n in range(5)],
        "onestop-sentences": [{"instruction": "no", "output": "never", "source": "o"}],
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, some in rows().items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
    (folder / "x-EVAL.jsonl").write_text(json.dumps({"q": SECRET}) + "\n")
    return folder


@pytest.fixture
def here(data, monkeypatch):
    monkeypatch.setenv("MEZZOTINT_DATA", str(data))
    monkeypatch.delenv("MEZZOTINT_EVALDATA", raising=False)


@pytest.fixture
def built(here, tokenizer, tmp_path):
    return build(tmp_path / "out", tokenizer, 400, scale=0.01), tmp_path / "out"


def test_licences_and_overlaps(built, tokenizer):
    manifest, folder = built
    sources = manifest["sources"]
    assert "onestop-sentences" not in sources and sources["docs-corpus"]["skipped"] == {
        "of another licence or source": 8
    }
    assert (
        sources["gsm8k-train"]["skipped"] == {"shares words with an evaluation": 1} and manifest["evaluation_runs"] == 6
    )
    assert sources["python-functions"]["skipped"] == {"of another licence or source": 1}
    assert sources["synthetic-grammar-edits"]["skipped"]["of another licence or source"] == 8
    assert sources["commit-edits"]["examples"] == 0
    learn, measure = read_examples(folder, tokenizer)
    assert "red fish" not in "".join(tokenizer.decode([*e.context, *e.text]) for e in learn + measure)
    assert measure and {len(e.context) + max(len(e.text), len(e.draft or ())) < 400 for e in learn} == {True}
    card = (folder / "README.md").read_text()
    assert (
        "| gsm8k-train | chat | MIT | 1 |" in card
        and "1 shares words with an evaluation" in card
        and "edits-code: " in card
    )


def test_kinds_of_examples(built, tokenizer):
    manifest, folder = built

    def of(name):
        learn, measure = read_examples(folder, tokenizer, {n: float(n == name) for n in manifest["sources"]})
        return learn + measure

    text = of("docs-corpus")[0]
    assert text.free and not text.context and "bridge" in tokenizer.decode(text.text)
    chat = of("gsm8k-train")[0]
    assert (
        chat.ends
        and tokenizer.decode(chat.context, False).endswith("<|im_start|>assistant\n")
        and "It is" in tokenizer.decode(chat.text)
    )
    turns = [tokenizer.decode(e.context, False) for e in of("taskmaster4-coffee-dialogs")]
    assert sum(t.count("<|im_start|>assistant") == 2 for t in turns) == len(turns) / 2 == 3
    for name in ("ruff-lint-edits", "edits-prose", "edits-code", "edits-made", "repair"):
        some = of(name)
        drafts = [e for e in some if e.draft is not None]
        assert drafts and any(list(e.draft) != list(e.text) for e in drafts), name
        shown = [tokenizer.decode(e.draft) in tokenizer.decode(e.context) for e in drafts]
        assert not all(shown) and (name == "repair" or any(shown))
    answers = [e for e in of("ruff-lint-edits") if e.draft is None]
    assert answers and all(e.ends and "total" in tokenizer.decode(e.context) for e in answers)
    assert manifest["sources"]["edits-made"]["classes"]["no-op"] > 2


def test_the_same_folder_gives_the_same_bytes(built, here, tokenizer, tmp_path):
    build(tmp_path / "again", tokenizer, 400, scale=0.01)
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("out", "again"))
    assert one == other


def test_held_out_sources_are_never_learnt(built, tokenizer):
    _, folder = built
    learn, measure = (
        {tokenizer.decode(e.text) for e in some if e.draft is None} for some in read_examples(folder, tokenizer)
    )
    assert not learn & measure


def test_prompts_are_the_templates(tokenizer):
    prompts = Prompts(tokenizer)
    assert prompts.frame is not None
    for request in ("the end", " a\n<|im_end|> ", "and\n\nthe"):
        assert prompts.ask(request) == tokenizer.chat([{"role": "user", "content": request}])
    plain = Prompts(mz.load("tiny").tokenizer)
    assert plain.ask("a") == plain.tokenizer.encode("a\n\n")


def test_what_is_spoilt_is_mostly_as_it_was(tokenizer, count):
    draw, text = random.Random(0), PARAGRAPH.format("old") * 3
    ids, changed = tokenizer.encode(text), 0
    for _ in range(count(400)):
        draft = spoilt(ids, text, tokenizer, range(10, 60), ids[:20], draw)
        assert abs(len(draft) - len(ids)) < 0.5 * len(ids) and max(draft) < tokenizer.vocab_size
        changed += draft != ids
    assert changed > 0.9 * count(400)


def test_the_table_names_what_is_free():
    assert len({s.name for s in SETS}) == len(SETS)
    assert {s.name for s in SETS} - PERMISSIVE == {"seed-instructions", "synthetic-grammar-edits"}  # filtered by row
    assert not any("SA" in s.licence or "GPL" in s.licence or "NC" in s.licence for s in SETS)


def test_the_command(here, tmp_path, monkeypatch):
    answers = tmp_path / "own.jsonl"
    answers.write_text(
        json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}) + "\n"
    )
    ask = ["data", "examples", str(tmp_path / "e"), "--tokenizer", "tiny", "--scale", "0.01", "--answers", str(answers)]
    result = CliRunner().invoke(app, ask)
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'e'}\n" and " edits, " in result.stderr, (
        result.output
    )
    assert json.loads((tmp_path / "e" / "manifest.json").read_text())["sources"]["own"]["weight"] == 3
    for changed, problem in (
        ({8: str(tmp_path / "none")}, "there is no file"),
        ({6: "0"}, "scale 0.0"),
        ({}, "not an empty folder"),
    ):
        result = CliRunner().invoke(app, [changed.get(i, a) for i, a in enumerate(ask)])
        assert result.exit_code in (1, 2) and problem in result.stderr, result.output
    monkeypatch.delenv("MEZZOTINT_DATA")
    assert "MEZZOTINT_DATA is not set" in CliRunner().invoke(app, ask).stderr
    with pytest.raises(ValueError, match="length 20"):
        Builder(mz.load("tiny").tokenizer, length=20)
    assert mixture.HOLD_OUT > 0

"""Adapting and fine-tuning end to end on the small model that is shipped: learnt, saved, loaded, continued, reported."""

import dataclasses
import json
import signal

import pytest
import torch
from typer.testing import CliRunner

import mezzotint as mz
from mezzotint.cli import app
from mezzotint.recipes import drafts
from mezzotint.recipes.adapt import CONFIGURATIONS, Adaptation, Corpus, corpus, finetuning, run, within
from mezzotint.recipes.drafts import Drafting
from mezzotint.train.canvases import Example, Stage
from mezzotint.train.monitor import read_metrics
from mezzotint.train.rows import examples_of, read_examples
from mezzotint.train.trainer import Stopped

TEXTS = [f"{name} has a {colour} ball. {name} takes the {colour} ball home."
         for name in ("Mia", "Ben", "Ada", "Tom") for colour in ("red", "blue", "green", "black")]  # fmt: skip
QUICK = Adaptation(
    "quick", max_steps=6, rank=4, canvas_length=8, count=4, stages=(Stage(sizes={8: 1.0}),), held_out=60, prompts=2,
    draft_length=4, learning_rate=3e-3, warmup=1, bfloat16=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return mz.load("tiny")


@pytest.fixture(scope="module")
def text(tiny):
    examples = [Example([], tiny.tokenizer.encode(text), free=True) for text in TEXTS]
    return Corpus(examples[:12], examples[12:])


@pytest.fixture(scope="module")
def adapted(tiny, text, tmp_path_factory):
    """(the report, the adapter's folder)."""
    out = tmp_path_factory.mktemp("adapt") / "quick"
    return run(tiny, text, QUICK, out), out


def test_an_adapter_is_learnt_saved_and_leaves_the_base_as_it_is(adapted, tiny):
    report, out = adapted
    assert (
        report["ar_bit_equal"] is True
        and report["steps"] == 6
        and json.loads((out / "report.json").read_text()) == report
    )
    for level in ("t=0.5", "t=1"):
        assert report["after"]["canvas_nats"][level] < report["before"]["canvas_nats"][level] - 0.02
    assert (
        report["after"]["accepted_per_round"] >= 1
        and report["after"]["hidden_tokens"] == report["before"]["hidden_tokens"] > 60
    )
    top = mz.load("tiny", adapter=out)
    assert top.adapter.made["configuration"] == "quick" and top.facts == tiny.facts and top.name == "tiny+quick"
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(top.weights(), tiny.weights(), strict=True))
    assert mz.Engine(top).generate(mz.Request("Mia has", raw=True, decode="diffusion", max_tokens=8))[0].ids


def test_a_run_goes_on_from_an_adapter_and_repeats(adapted, tiny, text, tmp_path):
    report, out = adapted
    more = run(mz.load("tiny", adapter=out), text, QUICK, tmp_path / "more")
    assert more["before"] == report["after"]
    assert mz.load("tiny", adapter=tmp_path / "more").adapter.base.name == "tiny"
    again = run(tiny, text, QUICK, tmp_path / "again")
    assert again["after"] == report["after"] and again["last_loss"] == report["last_loss"]


def test_held_out_text_is_measured_on_the_way_and_changes_nothing(adapted, tiny, text, tmp_path):
    settings = dataclasses.replace(QUICK, evaluate_every=2)
    report = run(tiny, text, settings, tmp_path / "seen", folder=tmp_path / "run")
    measured = [
        row["held_out"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row.get("held_out") is not None
    ]
    assert len(measured) == 3 and report["last_loss"] == adapted[0]["last_loss"]
    assert measured[-1] == pytest.approx(adapted[0]["after"]["canvas_nats"]["t=0.5"], rel=0.01)  # before it was rounded
    with pytest.raises(ValueError, match="evaluate_every is -1; it must be at least 0"):
        dataclasses.replace(QUICK, evaluate_every=-1)


def test_all_weights_can_learn_instead(tiny, text, tmp_path):
    settings = dataclasses.replace(QUICK, full=True, learning_rate=1e-3)
    report = run(tiny, text, settings, tmp_path / "full")
    assert (
        report["ar_bit_equal"] is False
        and report["after"]["canvas_nats"]["t=1"] < report["before"]["canvas_nats"]["t=1"]
    )
    loaded = mz.load(tmp_path / "full")
    assert loaded.adapter is None and loaded.facts == tiny.facts and loaded.config == tiny.config
    assert report["after"]["causal_nats"] < report["before"]["causal_nats"]


def test_pairs_that_act_everywhere_change_the_ar_text_too(tiny, text, tmp_path):
    report = run(tiny, text, dataclasses.replace(QUICK, gate="all", prompts=0), tmp_path / "all")
    assert report["ar_bit_equal"] is False and report["after"]["causal_nats"] < report["before"]["causal_nats"] - 0.02
    assert report["after"]["canvas_nats"]["t=1"] < report["before"]["canvas_nats"]["t=1"]
    assert mz.load("tiny", adapter=tmp_path / "all").adapter.gate == "all"


def test_a_canvas_learns_to_hear_itself(tiny, text, tmp_path):
    report = run(tiny, text, dataclasses.replace(QUICK, self_conditioning=True), tmp_path / "hears")
    top = mz.load("tiny", adapter=tmp_path / "hears")
    assert report["ar_bit_equal"] is True and top.adapter.self_conditioning
    assert top.denoiser().adapter.self_conditioning.down_proj.weight.abs().max() > 0
    assert not QUICK.self_conditioning and CONFIGURATIONS["gpu-2b"]().self_conditioning


def test_a_stopped_run_goes_on_and_ends_in_the_same_adapter(adapted, tiny, text, tmp_path):
    report, _ = adapted

    def stop(progress):
        if progress.step == 2:
            signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "run"
    with pytest.raises(Stopped, match="SIGINT after 4 steps"):
        run(tiny, text, QUICK, tmp_path / "a", folder=folder, report=stop)
    assert any(folder.iterdir()) and not (tmp_path / "a").exists()
    again = run(tiny, text, QUICK, tmp_path / "a", folder=folder, resume=True)
    assert again["after"] == report["after"] and again["steps"] == 6


def test_minutes_hold_measuring_too(tiny, text, tmp_path):
    with pytest.raises(ValueError, match="measuring takes"):
        run(tiny, text, dataclasses.replace(QUICK, minutes=1e-4, max_steps=None), tmp_path / "x")
    with pytest.raises(FileExistsError):
        run(tiny, text, QUICK, tmp_path)
    with pytest.raises(ValueError, match="no text in held_out"):
        run(tiny, Corpus(text.train, []), QUICK, tmp_path / "y")
    with pytest.raises(ValueError, match="no end"):
        Adaptation("x")


def test_configurations_can_be_made_and_differ_in_numbers_only():
    made = {name: make() for name, make in CONFIGURATIONS.items()}
    assert list(made) == ["cpu-smoke", "cpu-hour", "gpu-30min", "gpu-2b"] and all(
        s.name == name for name, s in made.items()
    )
    assert made["gpu-2b"] == dataclasses.replace(made["gpu-30min"], name="gpu-2b", minutes=240)


def test_without_a_data_folder_the_standard_library_is_learnt_split_by_file(tiny):
    found = corpus(None, tiny.tokenizer, 64, 60)
    assert len(found.train) > 100 and found.held_out and all(e.free and 16 <= len(e.text) <= 64 for e in found.train)
    assert not {tuple(e.text) for e in found.train} & {tuple(e.text) for e in found.held_out}


def test_what_is_longer_than_a_configuration_takes_is_cut_or_left_out():
    text, short = list(range(50)), Example([1], [2, 3])
    found = within(
        [Example([], text, free=True, ends=True), Example([1], text), short, Example([], text, draft=text)], 20
    )
    assert [list(e.text) for e in found] == [text[:20], text[20:40], [2, 3]]  # ten tokens are no piece
    assert not any(e.ends for e in found)


class Spelling:
    """A tokenizer whose ids are code points and whose chat template is a letter a turn."""

    chat_template = "x"

    def encode(self, text):
        return [ord(c) for c in text]

    def chat(self, messages):
        return self.encode("".join(m["role"][0] + m["content"] for m in messages) + ">")


def test_rows_become_examples():
    def of(row, tokenizer=Spelling()):  # noqa: B008  # it has no state
        return [("".join(map(chr, e.context)), "".join(map(chr, e.text)), e.draft and "".join(map(chr, e.draft)))
                for e in examples_of(row, tokenizer, 100)]  # fmt: skip

    talk = [("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "D")]
    messages = [{"role": role, "content": content} for role, content in talk]
    assert of({"messages": messages}) == [("uA>", "B", None), ("uAaBuC>", "D", None)]
    assert of({"prompt": "2+2=", "completion": "4"}) == [("2+2=", "4", None)]
    edit = {"input": "teh", "output": "the", "instruction": "Fix"}
    assert of(edit) == [("uFix\n\nteh>", "the", None), ("uFix\n\nteh>", "the", "teh")]
    assert of({"input": "teh", "output": "the"})[0][0] == "uFix the errors.\n\nteh>"


@pytest.mark.parametrize("row, problem", [
    ({"text": "a"}, "has text; expected"), ({"prompt": "a", "completion": 3}, "completion is 3"), ({}, "has nothing"),
    ({"prompt": "a", "completion": " "}, "completion is ' '"), ({"messages": "x"}, "not a list"),
    ({"messages": [{"role": "user", "content": "a"}]}, "no answer"), ({"messages": [{"role": "bot", "content": "a"}]}, "'bot'"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "assistant begins"),
    ({"input": "a", "output": None}, "output is None"),
    ({"prompt": "a" * 90, "completion": "b" * 20}, r"has 90 \+ 20 \+ 1 tokens; at most 100"),
])  # fmt: skip
def test_bad_rows_are_named_by_line(tmp_path, row, problem):
    good = {"prompt": "a", "completion": "b"}
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, [good, row, good])))
    with pytest.raises(ValueError, match="line 2: .*" + problem):
        read_examples(file, Spelling(), 100)


def test_rows_are_held_out_whole(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"input": f"a{n}", "output": f"b{n}"}) for n in range(200)))
    learn, measure = read_examples(file, Spelling(), 100)
    assert len(learn) + len(measure) == 400 and 10 < len(measure) / 2 < 32
    assert not {tuple(e.text) for e in learn} & {tuple(e.text) for e in measure}
    file.write_text(json.dumps({"input": "a", "output": "b"}))
    with pytest.raises(ValueError, match="at least 2"):
        read_examples(file, Spelling(), 100)
    file.write_text('{"input": "a"\n')
    with pytest.raises(ValueError, match="line 1"):
        read_examples(file, Spelling(), 100)


def test_the_commands(tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"input": t.replace("ball", "bal"), "output": t}) for t in TEXTS))
    quick = ["max_steps=2", "held_out=40", "prompts=0", "rank=4", "--model", "tiny"]
    ask = ["finetune", str(rows), *quick, "--out", str(tmp_path / "mine")]
    result = CliRunner().invoke(app, ask)
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / "mine"), result.output
    assert "12 held" not in result.stderr and "AR logits bit-equal: True" in result.stderr
    rows = read_metrics(tmp_path / "mine.run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1] and rows[0]["stage"] == "1 of 1, blocks of 4 8 16"
    assert rows[0]["parts"]["hidden"] > 0 and rows[0]["sample"] and "loss" in result.stderr
    page = CliRunner().invoke(app, ["train-report", str(tmp_path / "mine.run")])
    assert page.exit_code == 0 and "by the position in a canvas" in (tmp_path / "mine.run" / "report.html").read_text()
    said = CliRunner().invoke(
        app, ["generate", "Mia has", "--model", "tiny", "--adapter", str(tmp_path / "mine"), "--max-tokens", "8"]
    )
    plain = CliRunner().invoke(app, ["generate", "Mia has", "--model", "tiny", "--max-tokens", "8"])
    assert said.exit_code == 0 and said.stdout == plain.stdout  # verified: the base's own text
    for arguments, problem in (
        (ask, "exists"), (["adapt", "gpu"], "known: cpu-smoke"), (["finetune", "none.jsonl"], "no file 'none.jsonl'"),
        ([*ask[:-1], str(tmp_path / "z"), "rnk=3"], "'rank'"),
    ):  # fmt: skip
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2 and problem in result.stderr, result.output
    monkeypatch.delenv("MEZZOTINT_DATA", raising=False)
    result = CliRunner().invoke(app, ["adapt", "cpu-smoke", "texts=60", *quick, "--out", str(tmp_path / "a"), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["configuration"] == "cpu-smoke"


def test_edits_are_learnt_where_there_are_edits():
    assert finetuning(1.0).stages[0].edits == 0 and finetuning(1.0, edits=True).stages[0].edits > 0
    assert finetuning(1.0, full=True).learning_rate < finetuning(1.0).learning_rate


def test_an_adapter_learns_to_draft_and_stays_what_it_is(adapted, tiny, text, tmp_path):
    _, out = adapted
    top, settings = mz.load("tiny", adapter=out), Drafting(
        minutes=None, places=400, width=32, size=5, passes=3, count=32, held_out=60, prompts=2, draft_length=4
    )  # fmt: skip
    found = drafts.run(top, text, settings, tmp_path / "drafts")
    assert found["ar_bit_equal"] and found["before"]["canvas_nats"] == found["after"]["canvas_nats"]
    assert found["lesson_nats"][-1] < found["lesson_nats"][0] and found["drafts"]["places"] >= 400
    assert found["configuration"] == "quick"  # how the adapter itself was made
    headed = mz.load("tiny", adapter=tmp_path / "drafts")
    was, now = top.denoiser().adapter.tensors(), headed.denoiser().adapter.tensors()
    assert all(torch.equal(was[name], now[name]) for name in was) and len(now) == len(was) + 3
    request = mz.Request("Mia has", raw=True, decode="verified", draft="self", max_tokens=12)
    texts = {mz.Engine(checkpoint).generate(request)[0].text for checkpoint in (tiny, top, headed)}
    assert len(texts) == 1  # the same text with and without
    more = drafts.run(headed, text, settings, tmp_path / "more")
    assert more["lesson_nats"][0] < found["lesson_nats"][0]  # the head that is there goes on
    for wrong, message in (({"minutes": None}, "no end"), ({"size": 1}, "size is 1"), ({"width": 0}, "width is 0")):
        with pytest.raises(ValueError, match=message):
            Drafting(**wrong)
    with pytest.raises(ValueError, match="has no adapter of its canvas"):
        drafts.run(tiny, text, settings, tmp_path / "none")
    with pytest.raises(FileExistsError, match="choose another folder"):
        drafts.run(top, text, settings, tmp_path / "drafts")
    with pytest.raises(ValueError, match="there is no text of 200 tokens"):
        drafts.run(top, text, dataclasses.replace(settings, size=100), tmp_path / "none")

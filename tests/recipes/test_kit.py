"""The whole way of a kit, rehearsed on two layers: packed, sent, run, polled, stopped, gone on with, returned, collected.

One test walks it through the shell scripts, as a user does; the others take what can go wrong one by one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkpoints.tiny_checkpoint import write_gguf

import mezzotint as mz
from mezzotint.checkpoints import adapter
from mezzotint.recipes import kit, parts
from mezzotint.recipes.kit import DONE, FAILED, NOT_STARTED, RUNNING, STOPPED
from mezzotint.train import canvas_loss
from mezzotint.train.canvases import Example
from mezzotint.train.examples import Part, Record, write_examples
from mezzotint.train.trainer import Stopped, Trainer

RUNS = Path(__file__).parents[2] / "runs"
QUICK = ["minutes=none", "max_steps=6", "rank=4", "length=64", "held_out=60", "prompts=2", "draft_length=4", "canvas_length=8",
         "warmup=1", "learning_rate=3e-3", "bfloat16=false"]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "two-layers.gguf"
    write_gguf(path)
    return mz.load(path)


@pytest.fixture(scope="module")
def data(base, tmp_path_factory):
    texts = [base.tokenizer.encode(f"the {i} and the {i + 1} in the thing, and again the {i}") for i in range(40)]
    texts = [Record(Example([], ids, free=True), held_out=i % 5 == 0) for i, ids in enumerate(texts)]
    edits = [
        Record(Example([1], base.tokenizer.encode(f"the {i}"), draft=base.tokenizer.encode(f"teh {i}")))
        for i in range(20)
    ]
    folder = tmp_path_factory.mktemp("data") / "examples"
    write_examples(folder, [Part("texts", texts), Part("edits", edits)], base.tokenizer)
    return folder


@pytest.fixture(scope="module")
def packed(base, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("kit") / "kit"
    kit.pack(out, data, str(base.source), None, "cpu-smoke", QUICK, part_size=0.1)
    return out


@pytest.fixture
def work(packed, tmp_path):
    """The kit unpacked, nothing run."""
    parts.join(packed, tmp_path / "work")
    return tmp_path / "work"


def shell(script, *args, code=0, **env):
    env = {**os.environ, "PYTHON": sys.executable, **env}
    done = subprocess.run(["bash", str(script), *map(str, args)], capture_output=True, text=True, env=env)
    assert done.returncode == code and "Traceback" not in done.stderr, (done.returncode, done.stdout, done.stderr)
    return done


def until(work, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, (work / "log").read_text()
        time.sleep(0.05)


def test_the_whole_way(base, data, tmp_path):
    here, there = tmp_path / "kit", tmp_path / "there"
    plan = [o for o in QUICK if "max_steps" not in o] + ["max_steps=100", "decay=0.5"]
    said = shell(RUNS / "adapt_gpu.sh", "pack", here, "--data", data, "--base", base.source, "--configuration", "cpu-smoke",
                 "--part-size", "0.1", *plan)  # fmt: skip
    assert re.search(r"\d+ parts, \d\.\d MB: base .*code .*data .*plan", said.stderr)
    assert max(p.stat().st_size for p in here.iterdir()) <= 1e5

    there.mkdir()  # half of it arrives first
    files = sorted(here.iterdir())
    for path in files[::2]:
        shutil.copy(path, there)
    if not (there / "adapt_gpu.sh").exists():
        shutil.copy(here / "adapt_gpu.sh", there)
    shutil.copy(here / "parts.py", there)
    shutil.copy(here / "manifest.json", there)
    script = there / "adapt_gpu.sh"
    assert "missing" in shell(script, "run", code=FAILED).stderr
    shell(script, "status", code=NOT_STARTED)
    for path in files[1::2]:
        shutil.copy(path, there)

    work = there / "work"
    assert "running as process" in shell(script, "run").stdout
    until(work, lambda: (work / "run" / "metrics.jsonl").exists() and "loss" in kit.status(work)[0])
    polled = shell(script, "status", code=RUNNING).stdout
    assert re.match(r"running, on cpu; step \d+, \d+%, loss \d+\.\d+", polled), polled
    assert "going on already" in shell(script, "run", code=2).stderr
    assert "stopped by SIGTERM" in shell(script, "stop").stdout
    step = int(re.search(r"step (\d+)", shell(script, "status", code=STOPPED).stdout)[1])
    assert 0 < step < 100
    shell(script, "run")
    ended = shell(script, "status", "--wait", 120).stdout
    assert re.match(r"done: all steps done; step 100, \d+%, loss .* tokens/s$", ended), ended
    assert "going on from step" in (work / "log").read_text()
    steps = [json.loads(row)["step"] for row in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    assert (
        steps == [s for s in range(100) if s in steps] and len(steps) >= 99
    )  # the one that was stopped in is not told

    back, out = tmp_path / "back", tmp_path / "collected"
    listed = shell(script, "return", back, "--part-size", "0.02").stdout.split()
    assert {Path(p).name for p in listed} == {p.name for p in back.iterdir()} and len(listed) > 3
    assert max(p.stat().st_size for p in back.iterdir() if p.suffix != ".json") <= 2e4
    collected = shell(RUNS / "collect.sh", back, out, "--base", base.source)
    assert (
        collected.stderr == f"adapter {adapter.adapter_sha256(out / 'adapter')}\n"
        and collected.stdout == f"{out / 'adapter'}\n"
    )
    assert {p.name for p in (out / "about").iterdir()} >= {
        "about.json",
        "metrics.jsonl",
        "samples.txt",
        "log",
        "plan.json",
    }
    top = mz.load(base.source, adapter=out / "adapter")
    assert top.facts.trained_canvas and top.adapter.made["steps"] == 100
    assert mz.load(base.source, adapter=out / "plateau").adapter.made["steps"] == 50
    assert mz.Engine(top).generate([mz.Request("the", raw=True, decode="diffusion", max_tokens=8)])[0].ids

    again = tmp_path / "again"  # the next run goes on from what came back
    kit.pack(again, data, str(base.source), out / "plateau", "cpu-smoke", QUICK)
    parts.join(again, tmp_path / "next")
    assert kit.opened(tmp_path / "next").adapter.made["steps"] == 50


def test_a_short_run_ends_in_an_adapter_with_the_report(work):
    assert kit.status(work) == ("not started", NOT_STARTED)
    kit.train(work)
    assert kit.status(work)[1] == DONE and json.loads((work / "out" / "report.json").read_text())["ar_bit_equal"]
    assert "[diffusion" in (work / "samples.txt").read_text()
    with pytest.raises(ValueError, match="at its end"):
        kit.train(work)


def test_the_time_limit_ends_in_an_adapter(work, monkeypatch, capsys):
    """A run whose steps grow slower than its plan is stopped before the limit."""
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self: (time.sleep(0.01 if self.at.step < 5 else 2.5), step(self))[1])
    monkeypatch.setattr(kit, "RESERVE", 0.5)
    began = time.monotonic()
    kit.train(work, 0.3, ["max_steps=100000"])
    assert time.monotonic() - began < 0.3 * 60
    line, code = kit.status(work)
    assert code == DONE and "time limit" in line and "note: the time limit is near" in capsys.readouterr().err
    assert kit.opened(work).with_adapter(work / "out").adapter.made["unfinished"]


def test_the_first_part_of_a_run_decides_its_length(work):
    kit.train(work, 0.12, ["max_steps=100000", "prompts=0"])
    rows = [json.loads(row) for row in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) > 5 and rows[-1]["share"] > 0.8 and "done" in kit.status(work)[0]


def test_what_does_not_fit_into_memory_is_computed_in_halves(work, monkeypatch, capsys):
    plain, calls = canvas_loss.CanvasLoss.__call__, []

    def tight(self, denoiser, batch):
        calls.append(len(batch.tokens))
        if denoiser.training and len(batch.tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, denoiser, batch)

    monkeypatch.setattr(canvas_loss.CanvasLoss, "__call__", tight)
    kit.train(work)
    assert "out of memory: micro-batches are computed in 2 pieces" in capsys.readouterr().err and 2 in calls
    assert kit.status(work)[1] == DONE


def test_what_does_not_compile_goes_on_without_and_says_so(work, monkeypatch, capsys):
    plain, made = canvas_loss.CanvasLoss.__call__, Trainer.__init__

    def compiled(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.compiled = self.denoiser.flexible = True

    def broken(self, denoiser, batch):
        if denoiser.flexible:
            raise RuntimeError("no compiler here")
        return plain(self, denoiser, batch)

    monkeypatch.setattr(Trainer, "__init__", compiled)
    monkeypatch.setattr(canvas_loss.CanvasLoss, "__call__", broken)
    kit.train(work)
    assert "torch.compile failed, going on without: RuntimeError: no compiler here" in capsys.readouterr().err
    assert kit.status(work)[1] == DONE


def test_a_stopped_run_gives_its_newest_checkpoint(work, base, tmp_path, monkeypatch):
    step = Trainer.step

    def stopping(self):
        if self.at.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self)

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(Stopped):
        kit.train(work)
    line, code = kit.status(work)
    assert code == STOPPED and "stopped by SIGTERM after 4 steps" in line
    kit.give(work, tmp_path / "back", 0.05)
    kit.collect(tmp_path / "back", tmp_path / "out", str(base.source))
    made = mz.load(base.source, adapter=tmp_path / "out" / "adapter").adapter.made
    assert made["steps"] == 4 and made["unfinished"]
    with pytest.raises(ValueError, match="began with the plan alone"):
        kit.train(work, None, ["rank=8"])


def test_another_kit_does_not_go_on_with_a_run(work, packed, monkeypatch):
    monkeypatch.setattr(Trainer, "step", lambda self: os.kill(os.getpid(), signal.SIGTERM) or (1.0, 1.0, 1))
    with pytest.raises(Stopped):
        kit.train(work)
    stamps = json.loads((work / parts.STAMPS).read_text())
    (work / parts.STAMPS).write_text(json.dumps({**stamps, "adapter": []}))
    with pytest.raises(ValueError, match="a run of another kit"):
        kit.train(work)


def test_the_other_machine_needs_little(work):
    """Without what is not there: an import of any of it would fail."""
    absent = "gguf zstandard jinja2 pydantic pyarrow ray transformers scipy sklearn peft psutil typer".split()  # noqa: SIM905
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); sys.argv[1:] = ['train', {str(work)!r}]\n"
    code += "from mezzotint.recipes.kit import main; main()"
    env = {**os.environ, "PYTHONPATH": str(work / "code")}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=work, capture_output=True, text=True)
    assert done.returncode == 0 and kit.status(work)[1] == DONE and (work / "samples.txt").exists(), done.stderr


def test_a_killed_run_is_known(work):
    run = kit.start(work, None, ["max_steps=100000"])
    until(work, lambda: "loss" in kit.status(work)[0])
    run.kill()
    assert run.wait() == -signal.SIGKILL
    assert kit.status(work)[1] == STOPPED and kit.status(work)[0].startswith("killed; step")
    with pytest.raises(ValueError, match="no checkpoint"):
        kit.give(work, work / "back")
    with pytest.raises(ValueError, match="no run is going on"):
        kit.stop(work)


def test_a_run_that_fails_says_why(work):
    shutil.rmtree(work / "base")
    with pytest.raises(ValueError, match=r"checkpoint.json"):
        kit.train(work)
    line, code = kit.status(work)
    assert code == FAILED and line.startswith("failed: ") and "checkpoint.json" in line


def test_what_comes_back_spoilt_is_not_installed(work, base, tmp_path):
    kit.train(work)
    back, out = tmp_path / "back", tmp_path / "out"
    kit.give(work, back, 0.005)
    one = back / "adapter.tar.gz.001"
    whole = one.read_bytes()
    for spoilt, problem in ((whole[:-1] + bytes([whole[-1] ^ 1]), "SHA-256"), (None, "missing: adapter.tar.gz.001")):
        one.unlink() if spoilt is None else one.write_bytes(spoilt)
        assert problem in shell(RUNS / "collect.sh", back, out, "--base", base.source, code=FAILED).stderr
        assert not out.exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".out")]
    one.write_bytes(whole)
    with pytest.raises(ValueError, match="control token MASK"):
        kit.collect(back, out, "tiny")
    kit.collect(back, out, str(base.source))
    with pytest.raises(FileExistsError):
        kit.collect(back, out, str(base.source))


def test_a_hash_that_is_not_the_adapters_is_refused(work, base, tmp_path, monkeypatch):
    kit.train(work)
    with monkeypatch.context() as m:
        m.setattr(adapter, "adapter_sha256", lambda folder: "0" * 64)
        kit.give(work, tmp_path / "back")
    with pytest.raises(parts.PartsError, match="SHA-256 is"):
        kit.collect(tmp_path / "back", tmp_path / "out", str(base.source))
    assert not (tmp_path / "out").exists()


def test_bad_requests_are_one_sentence(base, data, tmp_path):
    ask = [tmp_path / "k", data, str(base.source)]
    for args, problem in (
        ([None, "gpu"], "unknown configuration 'gpu'"), ([None, "cpu-smoke", ["rnk=3"]], "'rank'"),
        ([None, "cpu-smoke", [], 0], "at least one byte"), ([tmp_path / "none"], "there is no adapter folder"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            kit.pack(*ask, *args)
    script = RUNS / "adapt_gpu.sh"
    said = shell(script, "pack", tmp_path / "k", "--base", base.source, "--data", tmp_path, code=2).stderr
    assert "'--wat' is not understood" in shell(script, "pack", tmp_path / "k", "--data", data, "--wat", code=2).stderr
    assert "holds no examples" in said and not list(tmp_path.iterdir())
    assert "adapt_gpu.sh pack KIT" in shell(script, code=2).stdout
    bare = Path(sys.base_prefix) / "bin" / "python3"
    lacks = subprocess.run([bare, "-c", "import torch"], capture_output=True).returncode != 0
    if lacks:
        assert "has no " in shell(script, "pack", PYTHON=str(bare), code=FAILED).stderr

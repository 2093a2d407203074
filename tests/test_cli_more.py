"""chat, infill, models, --quality and watch side by side, on tiny random weights: the text is noise, the rules are not."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from checkpoints import tiny_checkpoint
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

import mezzotint as mz
from mezzotint.cli import app
from mezzotint.engine.conversation import Conversation
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Text as Piece
from mezzotint.render import filled, show_strips
from mezzotint.sampler.decoding import POLICIES
from mezzotint.sampler.quality import QUALITY

DIFFUSION = ("--decode", "diffusion", "--max-tokens", "12")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    tiny_checkpoint.write_folder(root / "tiny", tiny_checkpoint.write_gguf(root / "tiny.gguf"))
    return root / "tiny"


@pytest.fixture(scope="module")
def silent(folder, tmp_path_factory):
    """The same checkpoint without a chat template."""
    path = tmp_path_factory.mktemp("raw") / "silent"
    shutil.copytree(folder, path)
    (path / "chat_template.jinja").unlink()
    return path


def call(*args, stdin=""):
    """-> (exit code, stdout, stderr)"""
    done = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)
    return done.exit_code, done.stdout, done.stderr


def answer(folder, messages, **options):
    return mz.Engine(mz.load(folder)).generate(mz.Request(messages, **options))[0].text


def user(text):
    return {"role": "user", "content": text}


# -- chat -----------------------------------------------------------------------------------------------------------


def test_chat_keeps_its_turns_until_reset(folder):
    code, out, errors = call(
        "chat", "-m", folder, "--max-tokens", 5, "--system", "S", stdin="One\n\nTwo\n/reset\nTwo\n/exit\nThree\n"
    )
    system = {"role": "system", "content": "S"}
    one = answer(folder, [system, user("One")], max_tokens=5)
    two = answer(folder, [system, user("One"), {"role": "assistant", "content": one}, user("Two")], max_tokens=5)
    fresh = answer(folder, [system, user("Two")], max_tokens=5)
    assert code == 0 and out == f"{one}\n{two}\n{fresh}\n" and "forgotten" in errors
    assert two != fresh


def test_a_full_context_drops_the_oldest_turns_and_says_so(folder):
    engine = mz.Engine(mz.load(folder))
    talk = Conversation(engine, mz.Request("-", max_tokens=10), system="Rules")
    room = engine.checkpoint.config.max_length - 10
    dropped = 0
    for number in range(5):
        request, gone = talk.ask(f"Question {number}")
        assert len(engine.tokenizer.chat(request.prompt)) <= room
        assert request.prompt[0]["content"] == "Rules" and request.prompt[-1] == user(f"Question {number}")
        dropped += gone
        assert len(talk.turns) == number - dropped
        talk.answered(f"Question {number}", "Answer")
    assert dropped > 0
    whole = Conversation(engine, talk.settings, "Rules", [(f"Question {4 - dropped}", "Answer"), *talk.turns[:-1]])
    assert len(engine.tokenizer.chat(whole.messages("Question 4"))) > room  # no turn was dropped without need
    lines = "".join(f"Question {number}\n" for number in range(5))
    code, _, errors = call("chat", "-m", folder, "--max-tokens", 10, stdin=lines)
    assert code == 0 and "the context is full" in errors
    assert call("chat", "-m", folder, stdin="x" * 200 + "\n")[0] == 2


def test_an_interrupted_answer_ends_a_second_one_soon_after_ends_the_chat(folder, monkeypatch):
    whole = Engine.stream
    asked, stop_at = [], {2, 3}

    def stream(self, request):
        asked.append(request.prompt)
        for event in whole(self, request):
            yield event
            if len(asked) in stop_at and isinstance(event, Piece):
                raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "stream", stream)
    code, _, errors = call("chat", "-m", folder, "--max-tokens", 5, stdin="One\nTwo\nThree\nFour\n")
    assert code == 130 and len(asked) == 3 and "Ctrl-C again" in errors
    partial = asked[2][3]
    assert partial["role"] == "assistant" and 0 < len(partial["content"]) < len(answer(folder, asked[1], max_tokens=5))
    asked.clear()
    stop_at.discard(3)
    assert call("chat", "-m", folder, "--max-tokens", 5, stdin="One\nTwo\nThree\nFour\n")[0] == 0 and len(asked) == 4


def test_ctrl_c_between_turns_of_a_real_process(folder):
    child = subprocess.Popen(
        [sys.executable, "-m", "mezzotint", "chat", "-m", str(folder), "--max-tokens", "3"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    child.stdin.write(b"One\n")
    child.stdin.flush()
    assert child.stdout.readline()
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    assert b"Ctrl-C again" in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130 and b"Traceback" not in errors


def test_a_model_without_a_template_continues_text_and_does_not_chat(silent):
    plain = call("generate", "The thing", "-m", silent, "--max-tokens", 8)
    assert plain[0] == 0 and plain[1:] == call("generate", "The thing", "-m", silent, "--max-tokens", 8, "--raw")[1:]
    assert plain[1].rstrip("\n") == answer(silent, "The thing", raw=True, max_tokens=8)
    assert call("watch", "The thing", "-m", silent, *DIFFUSION)[0] == 0
    code, out, errors = call("chat", "-m", silent, stdin="One\n")
    assert code == 2 and not out and "no chat template" in errors and "generate" in errors


# -- infill ---------------------------------------------------------------------------------------------------------


def test_infill_writes_the_given_text_back_to_the_byte(folder, tmp_path):
    text = "The [[2]] and\r\n\\[[ ]] a [[ ]]\u00e9\n"
    code, out, errors = call("infill", "-m", folder, "--max-length", 4, "--json", "--trace", tmp_path / "t", stdin=text)
    result = json.loads(out)
    assert code == 0 and "has not learnt to denoise" in errors
    one, two = result["holes"]
    assert result["text"] == f"The {one['text']} and\r\n[[ ]] a {two['text']}\u00e9\n"
    assert one["length"] == 2 and not one["found"] and two["found"] and 1 <= two["length"] <= 4
    for hole in (one, two):
        assert result["text"][hole["start"] : hole["end"]] == hole["text"] and 0 <= hole["confidence"] <= 1
    trace = mz.Trace.load(tmp_path / "t")
    assert trace.num_calls == result["calls"] and trace.num_positions == result["positions"]
    args = ["infill", "-m", str(folder), "--max-length", "4"]
    assert CliRunner().invoke(app, args, input=text).stdout_bytes == result["text"].encode()
    alone = text.rstrip("\n")  # an argument has no line end: the command adds it
    told = json.loads(call(*args, "--json", alone)[1])["text"]
    assert CliRunner().invoke(app, [*args, alone]).stdout_bytes == told.encode() + b"\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("infill", "no hole"), ("[[7]]",)), (("infill", ""), ("empty",)), (("infill", "[[0]]"), ("[[0]]", "at least 1")),
        (("infill", "[[ ]]", "--max-length", "0"), ("max_length is 0",)), (("infill", "[[900]]"), ("context", "128")),
        (("infill", "[[1]]", "--policy", "magic"), ("'magic'", "threshold, factor")),
        (("generate", "x", "--quality", "preset"), ("'preset'", "fast, balanced, best")),
        (("watch", "x", "--policy", "top", "--policy", "entropy"), ("--decode diffusion",)),
        (("chat", "--decode", "magic"), ("'magic'", "ar, verified, diffusion")),
        (("chat", "--max-tokens", "0"), ("max_tokens is 0",)),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_2(folder, args, words):
    code, out, errors = call(*args, "-m", folder)
    assert code == 2 and not out and len(errors.strip().splitlines()) <= 2
    for word in words:
        assert word in errors


# -- quality, watch, models -----------------------------------------------------------------------------------------


def header(folder, tmp_path, *args):
    code, _, errors = call("generate", "x", "-m", folder, *DIFFUSION, "--trace", tmp_path / "t", *args)
    assert code == 0
    return mz.Trace.load(tmp_path / "t").header["policy"], errors


def test_quality_chooses_the_policy_and_an_explicit_policy_wins(folder, tmp_path):
    assert "above(0.7)" in header(folder, tmp_path, "--quality", "fast")[0]
    assert "above(0.95)" in header(folder, tmp_path, "--quality", "best")[0]
    assert header(folder, tmp_path)[0] == "threshold"
    assert header(folder, tmp_path, "--quality", "fast", "--policy", "top")[0] == "top"
    assert repr(QUALITY["balanced"]()) == repr(POLICIES["threshold"]())
    for options in (("--quality", "best"), ("--policy", "top")):
        code, out, errors = call("generate", "x", "-m", folder, "--max-tokens", 4, *options)
        assert code == 0 and f"{options[0]} changes diffusion only; verified" in errors
        assert out == call("generate", "x", "-m", folder, "--max-tokens", 4)[1]


def test_help_lists_the_policies_and_qualities_there_are(monkeypatch):
    monkeypatch.setitem(POLICIES, "brand-new", POLICIES["top"])
    for verb in ("generate", "chat", "infill", "watch"):
        out = " ".join(call(verb, "--help")[1].split())
        assert "brand-new" in out and "fast, balanced, best" in out and "{" not in out.replace("{prompt}", "")


def test_watch_shows_policies_one_after_another_on_a_pipe(folder):
    code, out, errors = call(
        "watch", "The", "-m", folder, "--raw", *DIFFUSION, "--policy", "top", "--policy", "ancestral"
    )
    assert code == 0 and "has not learnt" in errors
    lines = out.splitlines()
    assert lines.index("# top") < lines.index("# ancestral")
    engine = mz.Engine(mz.load(folder))
    footers = [line for line in lines if line.startswith("= ")]
    for name, footer in zip(("top", "ancestral"), footers, strict=True):
        request = mz.Request("The", raw=True, decode="diffusion", max_tokens=12, policy=name)
        trace = engine.generate(request)[0].trace
        assert footer == f"= {trace.num_calls} calls, {trace.tokens_per_call:.2f} tokens/call"


@pytest.mark.parametrize(("width", "beside"), [(100, True), (50, False)])
def test_strips_stand_side_by_side_where_there_is_room(width, beside):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    show_strips(console, {"top": ([Text("aaa"), Text("bbb")], "2 calls"), "entropy": ([Text("ccc")], "1 calls")})
    lines = console.file.getvalue().splitlines()
    together = [("top", "entropy"), ("aaa", "ccc"), ("2 calls", "1 calls")]
    for pair in together:
        assert any(all(word in line for word in pair) for line in lines) == beside
    assert all(any(word in line for line in lines) for pair in (*together, ("bbb",)) for word in pair)


def test_filled_holes_stand_out():
    shown = filled("The cat sat", [(4, 7)])
    assert shown.plain == "The cat sat" and [(s.start, s.end, s.style) for s in shown.spans] == [(4, 7, "bold")]


def test_models_lists_what_is_known_and_fetches_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MEZZOTINT_CACHE", str(tmp_path))
    code, out, _ = call("models", "--json")
    row = next(row for row in json.loads(out) if row["name"] == "default")
    assert code == 0 and row["on_disk"] is None and row["license"] == "Apache-2.0"
    assert row["trained_canvas"] is True  # its adapter lies in the package
    code, out, _ = call("models")
    assert code == 0 and "mezzotint pull default" in out and "134.5 M" in out and not list(tmp_path.iterdir())


def test_the_parameters_listed_are_those_of_the_weights(base_path):
    from mezzotint.checkpoints import llama
    from mezzotint.checkpoints.load import KNOWN, _product

    for name, known in KNOWN.items():
        assert known.on_disk() is not None
        assert sum(map(_product, llama.shapes(mz.load(name).config).values())) == known.parameters

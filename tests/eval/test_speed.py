"""Speed: what is counted, the line and the correlation, and what the page says when more steps do not mean harder text."""

import json
import math
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import mezzotint as mz
from mezzotint.cli import app
from mezzotint.eval import speed, speed_command, speed_report
from mezzotint.eval.speed import Canvas, Found, Load, Prompt, Sample


def sample(kind="easy", right=True, text="abc", tokens=10, end=1.0, canvases=()):
    return Sample(
        kind, right, text, tokens, 5, 20, end, None, 0.1, (0.5, 0.9, 1.0), [0.1] * 4, 0.0, 0.5, list(canvases)
    )


def test_prompts_differ_and_their_answers_are_right():
    asked = speed.prompts(30, 0)
    assert len({p.text for p in asked}) == 60 and speed.prompts(30, 0) == asked and speed.prompts(30, 1) != asked
    for prompt in asked:
        assert prompt.right(f"It is: {prompt.answer}.") and not prompt.right("") and not prompt.right("It is 7 apples")
    assert Prompt("easy", "", "apple river").right("Apple, river!") and not Prompt("easy", "", "apple river").right(
        "river apple"
    )
    assert Prompt("hard", "", "70").right("so 70.0") and not Prompt("hard", "", "70").right("so 700")
    assert not Prompt("hard", "", "70").right("so 7")


def test_the_line_and_the_ranks():
    assert speed.line([(10, 1.2), (20, 2.2), (30, 3.2)]) == pytest.approx((0.2, 0.1))
    assert math.isnan(speed.line([(10, 1.0), (10, 2.0)])[1])
    value, low, high = speed.correlation([(n, n**3) for n in range(20)])
    assert value == pytest.approx(1) and low > 0.9 and high <= 1.0000001
    assert speed.correlation([(n, -n) for n in range(20)])[0] == pytest.approx(-1)
    assert math.isnan(speed.correlation([(n, 4) for n in range(20)])[0]) and math.isnan(speed.correlation([])[0])


def test_figures():
    one = speed.figures(
        [sample(tokens=10, end=1.2), sample(tokens=20, end=2.2), sample(tokens=30, end=3.2, right=False)]
    )
    assert (one.requests, one.right, one.tokens, one.tokens_per_call, one.positions_per_token) == (3, 2, 60, 4.0, 1.0)
    assert one.speed == pytest.approx(60 / 6.6) and one.overhead == pytest.approx(0.2)
    assert one.sampling_speed == pytest.approx(10) and one.end_p50 == 2.2 and one.call_p95 == pytest.approx(0.1)


def test_a_trace_is_read_right():
    frames = [
        SimpleNamespace(kind="denoise", block=0, start=5, tokens=[1, 2, 3], status=[2, 1, 1], calls=1, committed=0),
        SimpleNamespace(kind="denoise", block=0, start=5, tokens=[9, 2, 3], status=[3, 2, 1], calls=1, committed=0),
        SimpleNamespace(kind="commit", block=0, start=5, tokens=[9, 2], status=[3, 2], calls=1, committed=2),
    ]
    trace = SimpleNamespace(frames=frames)
    assert speed._revised(trace) == 0.5 and speed._canvases(trace) == [Canvas(2, 2)]
    assert speed._shares([(1.0, "aaaaa"), (2.0, "bbb"), (3.0, "cc")], 9.0) == (1.0, 3.0, 3.0)
    assert speed._shares([], 9.0) == (9.0, 9.0, 9.0) or speed._shares([], 9.0)[2] == 9.0


def found(steps, name="diffusion", right=True):
    canvases = [Canvas(steps(n), 8, n / 10) for n in range(40)]
    return Found(
        name, [sample(right=right, canvases=canvases), sample("hard", right)], [Load(1, 10.0, 0.1), Load(8, 20.0, 0.2)]
    )


def test_the_page_says_when_compute_is_not_adaptive():
    (works,) = speed_report.adaptive([found(lambda n: 1 + n // 8)])
    (falls,) = speed_report.adaptive([found(lambda n: 9 - n // 8)])
    (flat,) = speed_report.adaptive([found(lambda n: 8)])
    assert "adaptive compute is at work" in works and "does NOT work" in falls and "not adaptive" in flat
    assert speed_report.adaptive([Found("ar", [sample()], [])]) == [
        "No way here works on canvases, so there are no steps to compare."
    ]


def test_no_speed_is_claimed_at_another_quality(tmp_path):
    ar, bad, good = found(lambda n: 8, "ar"), found(lambda n: 8, "bad", False), found(lambda n: 8, "good")
    said = speed_report.equal_quality([ar, bad, good])
    assert "not of equal quality" in said[0] and "1.00 times the speed" in said[1]
    paths = speed_report.write([ar, bad, good], {"model": "m"}, 2.0, tmp_path / "page.md")
    text, plot = (path.read_text() for path in paths)
    assert "| ar | 8 | 20.0 | 200.0 | 27.78 |" in text and "not adaptive" in text and "page.svg" in text
    assert plot.startswith("<svg") and plot.count("<circle") == 120


def test_the_command_on_tiny(tmp_path):
    out = tmp_path / "speed"
    args = ["--model", "tiny", "--ways", "ar,verified,fast", "--count", "2", "--max-tokens", "24", "--together", "1,2"]
    done = CliRunner().invoke(app, ["bench", "speed", *args, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    ways = {way["name"]: way for way in told["ways"]}
    assert set(ways) == {"ar", "verified", "diffusion, fast"} and told["model"] == "tiny"
    texts = [[request["text"] for request in ways[name]["requests"]] for name in ("ar", "verified")]
    assert texts[0] == texts[1] and any(texts[0])
    for name, way in ways.items():
        for request in way["requests"]:
            assert 0 < (request["first_text"] or request["end"]) <= request["end"]
            assert (request["first_draft"] is not None) == ("diffusion" in name)
            assert (len(request["canvases"]) > 0) == ("diffusion" in name) and request["tokens"] <= 24
    assert "Steps against difficulty" in out.with_suffix(".md").read_text() and out.with_suffix(".svg").is_file()
    counted = mz.load("tiny")
    assert told["weights_sha256"] == counted.weights_sha256()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--ways", "ar,quick"), "unknown way 'quick'"), (("--ways", ""), "no way was named"), (("--count", "0"), "--count is 0"),
        (("--together", "1,x"), "--together"), (("--max-tokens", "0"), "max_tokens is 0"),
    ],
)  # fmt: skip
def test_bad_input(args, words):
    done = CliRunner().invoke(app, ["bench", "speed", "--model", "tiny", *args])
    assert done.exit_code == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.output


def test_ways():
    assert list(speed_command.ways("ar, best", 8)) == ["ar", "diffusion, best"] and speed_command.rows_of("1, 8") == [
        1,
        8,
    ]

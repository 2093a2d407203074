"""Infilling: the given text stays to the byte, known texts are found to the token, random weights break no promise."""

import dataclasses
import random

import documents
import pytest
import torch
from checkpoints import tiny_checkpoint
from networks import Shallow

import mezzotint as mz
from mezzotint.edit.infill import Look, certainty, fit, infill, literal, search, split_holes
from mezzotint.sampler.canvas import GIVEN, OPEN
from mezzotint.sampler.decoding import POLICIES

TRICKY = "The [[2]] <|im_end|>\r\n\tna\u00efve \U0001f600 [[ ]]of \\[[3]] and \x00 [[1]] \\\\[[ ]][[2]]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("infill")
    tiny_checkpoint.write_folder(root / "tiny", tiny_checkpoint.write_gguf(root / "tiny.gguf"))
    return root / "tiny"


def engine_of(folder, **facts):
    checkpoint = mz.load(folder)
    return mz.Engine(dataclasses.replace(checkpoint, facts=dataclasses.replace(checkpoint.facts, **facts)))


class Scripted:
    """Knows one text by heart: at every place it is sure of the token that stands there in it."""

    def __init__(self, model, truth):
        self.config, self.shift, self.truth = model.config, 0, truth

    def new_cache(self, rows, capacity):
        return None

    def denoise(self, tokens, positions, valid, cache):
        logits = torch.zeros(*tokens.shape, self.config.vocab_size)
        for place, token in enumerate(self.truth[: tokens.shape[1]]):
            logits[:, place, token] = 9.0
        return logits


def test_a_denoiser_that_knows_the_text_finds_lengths_and_fills_exactly(folder):
    engine = engine_of(folder, shift=0)
    encode = engine.tokenizer.encode
    given = [encode("Zed"), encode(" was QX"), encode(", JK"), encode("!")]
    answers = [encode(" the kid"), encode("zyx"), encode(" anything else")]
    whole = [token for pair in zip(given, [*answers, []], strict=True) for piece in pair for token in piece]
    engine.denoiser = Scripted(engine.denoiser, whole)
    result = infill(engine, f"Zed [[ ]] was QX[[{len(answers[1])}]], JK [[ ]]!", max_length=12)
    assert result.text == "Zed the kid was QXzyx, JK anything else!"
    assert [hole.text for hole in result.holes] == ["the kid", "zyx", "anything else"]
    assert [hole.length for hole in result.holes] == [len(answer) for answer in answers]
    assert [hole.found for hole in result.holes] == [True, False, True]
    assert [result.text[hole.start : hole.end] for hole in result.holes] == ["the kid", "zyx", "anything else"]
    assert all(hole.confidence > 0.9 for hole in result.holes)
    assert result.num_calls == 12 + 12 + 1  # each length once, twice, then all places are above the threshold
    assert len({len(answer) for answer in answers}) == 3  # else a wrong pairing of holes could pass


@pytest.mark.parametrize("noise", ["absorbing", "uniform", "hybrid"])
@pytest.mark.parametrize("shift", [0, 1])
def test_on_random_weights_the_given_text_is_untouched_and_seeds_repeat(folder, noise, shift):
    engine = engine_of(folder, noise=noise, shift=shift)
    pieces, wanted = split_holes(TRICKY)
    special = set(engine.tokenizer.specials.values())
    for policy in POLICIES:
        result = infill(engine, TRICKY, policy, seed=5, max_length=3)
        rest, last = [], 0
        for hole in result.holes:
            rest.append(result.text[last : hole.start])
            last = hole.end
            assert 0 <= hole.confidence <= 1
        assert [*rest, result.text[last:]] == pieces
        assert [hole.length for hole in result.holes if not hole.found] == [n for n in wanted if n]
        assert all(1 <= hole.length <= 3 for hole in result.holes)
        ids = result.trace.replay()
        assert not special & set(ids)
        final = result.trace.frames[-1]
        assert sum(s != GIVEN for s in final.status) == sum(hole.length for hole in result.holes)
        for frame in result.trace.frames:
            same = len(frame.tokens) == len(ids) and frame.block == final.block
            assert not same or all(
                a == b for a, b, s in zip(frame.tokens, ids, frame.status, strict=True) if s == GIVEN
            )
        again = infill(engine, TRICKY, policy, seed=5, max_length=3)
        assert again.text == result.text and again.num_calls == result.num_calls


def test_under_every_policy_the_text_around_holes_stays_to_the_byte(folder, count):
    engine, rng, names = engine_of(folder, shift=0), random.Random(0), list(POLICIES)
    engine.denoiser = Shallow(engine.checkpoint.config.vocab_size, 256)
    total = count(10_000)
    for trial in range(total):
        pieces = [documents.document(rng, 20) for _ in range(rng.choice((2, 2, 3)))]
        text = literal(pieces[0], before_hole=True)
        for n, piece in enumerate(pieces[1:], 2):
            text += f"[[{rng.choice((1, 1, 2))}]]" + literal(piece, before_hole=n < len(pieces))
        result = infill(engine, text, names[trial % len(names)], seed=trial, temperature=rng.choice((0, 1)))
        around, last = [], 0
        for hole in result.holes:
            around.append(result.text[last : hole.start])
            last = hole.end
        assert [*around, result.text[last:]] == pieces, (trial, text, names[trial % len(names)])
        assert result.text.encode().decode() == result.text
    print(f"{total} documents under {len(names)} policies")


@pytest.mark.parametrize("shift", [0, 1])
def test_a_length_looks_the_same_alone_and_beside_others(folder, shift):
    engine = engine_of(folder, shift=shift)
    special = list(engine.tokenizer.specials.values())
    seen = {}

    def watch(look):
        assert bool(look.hole[:, special].isneginf().all())  # what cannot be written is no evidence for a length
        assert look.right.shape == (3,) and bool(look.right.isfinite().all())
        seen.setdefault(len(look.hole), []).append(look)
        return fit(look)

    for most in (5, 4, 3, 2, 1):
        infill(engine, "The [[ ]] an[[1]]d.", find_length=search(most, watch, window=3))
    for length, found in seen.items():
        assert len(found) == 6 - length
        for other in found:
            torch.testing.assert_close(other.hole, found[0].hole, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(other.right, found[0].right, atol=1e-4, rtol=1e-4)


def test_the_window_hides_given_tokens_on_the_right_across_holes(folder):
    engine = engine_of(folder)
    frames = infill(engine, "QX[[ ]]Z[[2]]JK", find_length=search(2, window=2)).trace.frames
    hidden = [[number for number, s in enumerate(frame.status) if s == OPEN] for frame in frames[:2]]
    assert hidden == [[2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7]]  # hole, Z, hole of two, J; K is in view


def test_scores_are_what_they_say():
    law = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).log()
    right = torch.tensor([-1.0, -2.5])
    sure = (torch.tensor([0.5, 0.8]).log().sum() / 2).item()
    assert fit(Look(law, right)) == -3.5
    assert certainty(Look(law, right)) == pytest.approx(sure) and fit(Look(law, right[:0])) == pytest.approx(sure)


def test_equal_scores_take_the_shorter_and_the_best_length_wins(folder):
    engine = engine_of(folder)
    even = infill(engine, "a [[ ]] b", find_length=search(4, lambda look: 0.0))
    third = infill(engine, "a [[ ]] b", find_length=search(4, lambda look: -abs(len(look.hole) - 3)))
    assert even.holes[0].length == 1 and third.holes[0].length == 3


def test_a_hole_after_a_space_begins_with_it(folder):
    engine = engine_of(folder)
    ids = infill(engine, "a [[3]] b").trace.replay()
    assert engine.tokenizer.token_bytes(ids[len(engine.tokenizer.encode("a"))]).startswith(b" ")
    assert engine.tokenizer.encode("a") + ids[1:4] + engine.tokenizer.encode(" b") == ids


def test_holes_and_escapes_are_read():
    assert split_holes("a[[ ]]b[[ 12 ]]") == (["a", "b", ""], [None, 12])
    assert split_holes(r"\[[ ]] \\[[1]] \\\[[2]] \[[x]] [[]] [[-1]]") == (
        [r"[[ ]] " + "\\", r" \[[2]] \[[x]] [[]] [[-1]]"],
        [1],
    )


@pytest.mark.parametrize("a", ["", "x[[ ]]", "[[3]] \\[[ ]]", "\\\\", "[[", "\\\\[[ ]]\\"])
@pytest.mark.parametrize("b", ["", "]]", "\\[[ 2 ]]", "[[ ]]"])
def test_literal_text_holds_no_hole(a, b):
    assert split_holes(literal(a, before_hole=True) + "[[4]]" + literal(b)) == ([a, b], [4])


def test_a_report_may_end_the_work(folder):
    told = []

    def report(*what):
        told.append(what)
        if what[0] == "filling":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        infill(engine_of(folder, trained_canvas=True), "The [[ ]] sat", max_length=2, report=report)
    assert [what for what, _, _ in told] == ["measuring", "filling"]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("no hole", {}, "no hole"), (r"\[[ ]]", {}, "no hole"), ("[[0]]", {}, "has no tokens"),
        ("[[999]]", {}, "999"), ("word " * 200 + "[[ ]]", {}, "context"), ("[[1]]", {"policy": "magic"}, "threshold, factor"),
        ("[[1]]", {"seed": 2**70}, "64-bit"), ("[[ ]]", {"max_length": 0}, "max_length is 0"),
        ("[[1]]", {"temperature": -1.0}, "temperature is -1"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(folder, text, options, words):
    with pytest.raises(ValueError, match=words):
        infill(engine_of(folder), text, **options)


def test_a_full_context_leaves_shorter_holes(folder):
    engine = engine_of(folder)
    room = engine.denoiser.config.max_length - 1  # one start token
    text = "Z" * (room - 6) + "[[ ]]Z[[ ]]Z[[ ]]"
    result = infill(engine, text, max_length=16)
    assert sum(hole.length for hole in result.holes) <= 4
    with pytest.raises(ValueError, match="context"):
        infill(engine, "Z" * room + "[[ ]]")

"""Completion: both sides are read, a draft saves calls, what was read is kept, and work ends when it is told to."""

import dataclasses

import pytest

import mezzotint as mz
from mezzotint.live.complete import Completer, Place
from mezzotint.live.heard import Spelled, taken_back
from mezzotint.live.work import Cancelled

LEFT, RIGHT = "The blue horses ", " in the garden. They jump.\n"


@pytest.fixture(scope="module")
def causal(tiny):
    """The same weights as one that has not learnt to denoise."""
    engine = object.__new__(type(tiny))
    engine.__dict__ |= tiny.__dict__
    engine.checkpoint = dataclasses.replace(
        tiny.checkpoint, facts=dataclasses.replace(tiny.checkpoint.facts, trained_canvas=False)
    )
    return engine


def test_a_canvas_reads_both_sides(tiny):
    completer = Completer(tiny)
    made = completer.complete(Place(LEFT, RIGHT), lengths=(1, 2))
    assert made.way == "canvas" and made.text.split()[0] in ("wait", "run", "jump", "play", "sing", "sleep")
    assert 0 < made.confidence <= 1
    other = completer.complete(
        Place("The blue horses run in the garden. They jump because they ", " happy.\n"), lengths=(1,)
    )
    assert other.text == "are"
    with pytest.raises(ValueError, match="at least 1"):
        completer.complete(Place(LEFT, RIGHT), lengths=(0, 3))
    assert completer.complete(Place(" ", "\n")) is None


def test_a_right_draft_is_kept_and_a_wrong_one_is_not(tiny):
    completer = Completer(tiny)
    place = Place("The blue horses run in the garden. They jump because they ", " happy.\n")
    kept = completer.complete(place, draft="are", lengths=(1,))
    mended = completer.complete(place, draft="garden", lengths=(1,))
    assert kept.text == mended.text == "are"


def test_left_to_right_a_draft_saves_calls_and_changes_nothing(tiny):
    place = Place(LEFT, "")
    plain = Completer(tiny).complete(place)
    again = Completer(tiny).complete(place, draft=plain.text)
    wrong = Completer(tiny).complete(place, draft="no such thing at all")
    assert plain.way == "causal" and plain.text == again.text == wrong.text
    assert again.calls < plain.calls
    greedy = tiny.generate(mz.Request(LEFT.rstrip(), raw=True, decode="ar", max_tokens=24))[0].text
    assert greedy.startswith(" " + plain.text)


@pytest.mark.parametrize("left", ["The blue ho", "The blue hor", "The blue hors", "Mia has a dog.\nThe blue horse"])
def test_a_token_that_was_cut_off_is_finished(causal, left):
    """What is typed so far need not end where a token ends; drafts change nothing in that."""
    completer = Completer(causal)
    made = completer.complete(Place(left, ""))
    assert (left + made.text).rpartition("\n")[2].startswith("The blue horse"), made
    again = completer.complete(Place(left, ""), draft=made.text)
    assert again.text == made.text and again.calls < made.calls
    assert completer.complete(Place(left, ""), draft="no such thing").text == made.text


def test_a_space_more_or_less_changes_no_words(causal):
    completer = Completer(causal)
    for left in ("The blue", "The blue horses run in the", "Mia has a dog. Tom has a"):
        assert completer.complete(Place(left, "")).text == " " + completer.complete(Place(f"{left} ", "")).text


def test_ids_that_spell_what_is_due(tiny):
    spelled, known = Spelled(tiny.tokenizer), tiny.tokenizer.spellings()
    for due in (b" ", b"\n", b" hor", b"gar", b" no token begins so"):
        allowed = spelled.allowed(due).tolist()
        assert allowed == sorted(set(allowed)) and allowed
        begun = [id for id, text in enumerate(known) if text and text.startswith(due)]
        assert set(begun) <= set(allowed) and (begun == allowed or due.isspace() or not begun)
        for id in allowed:
            assert known[id].startswith(due) or due.startswith(known[id])
            assert spelled.after(due, id) == due[len(known[id]) :]
    ids = tiny.tokenizer.encode
    assert taken_back(tiny.tokenizer, ids("The blue hors")) == len(ids(" hors")) > 1
    assert taken_back(tiny.tokenizer, ids("The dog.")) == 1 and taken_back(tiny.tokenizer, []) == 0


def test_left_to_right_is_cut_where_the_right_side_stands_best(causal):
    completer = Completer(causal)
    assert completer.way(Place("a", "b")) == "causal"
    made = completer.complete(Place("The blue horses ", " They jump because they are happy.\n"))
    free = completer.complete(Place("The blue horses ", ""))
    assert free.text.startswith(made.text) and made.text.endswith(".") and len(made.text) < len(free.text)


def test_what_was_read_is_not_read_again(tiny):
    completer, read = Completer(tiny), []
    plain = tiny.denoiser.read

    def watched(tokens, counts, cache, every=False):
        if not every:
            read.append(int(counts.sum()))
        return plain(tokens, counts, cache, every)

    long = "The red dogs sing in the market. They play because they are happy. " * 6
    try:
        tiny.denoiser.read = watched
        first = completer.complete(Place(f"{long}The blue", ""))
        read.clear()
        completer.complete(Place(f"{long}The blue horses", ""))
        assert read[0] < 5  # new on the left; the second of the calls begins the line
        again = completer.complete(Place(f"{long}The blue", ""))
        longer = long * 5  # more than is read at once
        completer.complete(Place(f"{longer}The blue", ""))
        read.clear()
        completer.complete(Place(f"{longer}The blue horses", ""))
        assert read[0] < 5
    finally:
        del tiny.denoiser.read
    assert again.text == first.text


def test_a_long_text_and_odd_ones_are_no_problem(tiny):
    completer = Completer(tiny)
    long = "The red dogs sing. They play.\n" * 300
    assert completer.complete(Place(long + LEFT, RIGHT + long), lengths=(1, 2)).text
    for left, right in (("", "x = 1\n"), ("\U0001f600 na\u00efve <|mask|> ", "\u2028 \x00"), ("<|endoftext|>", "")):
        made = completer.complete(Place(left, right), lengths=(1, 2))
        assert made is None or "<|" not in made.text


def test_work_ends_between_steps(tiny):
    steps = []

    def report(what, done, total):
        steps.append(what)
        if len(steps) == 3:
            raise Cancelled

    for right in (RIGHT, ""):
        steps.clear()
        completer = Completer(tiny)
        with pytest.raises(Cancelled):
            completer.complete(Place(LEFT, right), report=report)
        assert len(steps) == 3
        after, fresh = completer.complete(Place(LEFT, right)), Completer(tiny).complete(Place(LEFT, right))
        assert after.text == fresh.text  # nothing of the work that was ended is left in the cache


def test_lines(tiny):
    completer = Completer(tiny)
    many = completer.complete(Place("The blue horses run in the garden", ""), one_line=False)
    one = completer.complete(Place("The blue horses run in the garden", ""), one_line=True)
    assert "\n" not in one.text and many.text.startswith(one.text)

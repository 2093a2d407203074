"""Stop strings: whatever the pieces, the text is cut where the whole text is cut, and nothing of a stop string is shown."""

import random

from mezzotint.server.stops import Stops


def cut(text, stops):
    found = [text.find(stop) for stop in stops if stop in text]
    return text[: min(found)] if found else text


def test_pieces_are_cut_as_the_whole_is(count):
    rng = random.Random(0)
    for _ in range(count(10_000)):
        text = "".join(rng.choices("abc\u00e9\n", k=rng.randrange(30)))
        stops = ["".join(rng.choices("abc\u00e9\n", k=rng.randrange(1, 5))) for _ in range(rng.randrange(4))]
        borders = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(6)))
        pieces = [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]
        cutter, shown, over = Stops(stops), "", False
        for piece in pieces:
            more, over = cutter.push(piece)
            shown += more
            assert cut(text, stops).startswith(shown)
            if over:
                break
        if not over:
            more, over = cutter.push("", last=True)
            shown += more
        assert shown == cut(text, stops) and over == any(stop in text for stop in stops)


def test_what_cannot_begin_a_stop_string_is_shown_at_once():
    cutter = Stops(["\n\n", "END"])
    assert cutter.push("a\n") == ("a", False)
    assert cutter.push("b E") == ("\nb ", False)
    assert cutter.push("NX") == ("ENX", False)
    assert cutter.push("\n\nmore") == ("", True)

"""Positions in every encoding, changes, and what was changed last: against plain string arithmetic."""

import random

import pytest

from mezzotint.edit.presets import presets
from mezzotint.live.actions import Settings, instruction, next_place, offers, selected
from mezzotint.live.document import Change, Document, History, Position, around, whole

ALPHABET = "ab é\u4e2d\U0001f600\r\n\x0c\u2028\n"
UNITS = {"utf-8": lambda t: len(t.encode()), "utf-16": lambda t: len(t.encode("utf-16-le")) // 2, "utf-32": len}


@pytest.mark.parametrize("encoding", UNITS)
def test_positions_and_changes_in_random_texts(encoding, count):
    draws = random.Random(3)
    for _ in range(count(2000)):
        text = "".join(draws.choice(ALPHABET) for _ in range(draws.randrange(12)))
        document = Document("x", text, 1, encoding)
        lines = text.replace("\r\n", "\n\n").replace("\r", "\n")  # same offsets
        for offset in range(len(text) + 1):
            if text[offset - 1 : offset + 1] == "\r\n":
                continue  # an editor has no position there
            position = document.position(offset)
            start = lines.rfind("\n", 0, offset) + 1
            assert position.character == UNITS[encoding](text[start:offset])
            assert document.offset(position) == offset
        a, b = sorted(draws.randrange(len(text) + 1) for _ in range(2))
        if any(text[at - 1 : at + 1] == "\r\n" for at in (a, b)):
            continue
        new = draws.choice(["", "z", "\n", "\U0001f600\r\n"])
        document.apply(Change(document.position(a), document.position(b), new))
        assert document.text == text[:a] + new + text[b:]
        assert document.starts == Document("x", document.text, 1, encoding).starts


def test_positions_beyond_the_text_and_inside_a_character():
    document = Document("x", "a\U0001f600b\r\nc", 1)
    assert [document.offset(Position(0, n)) for n in (1, 2, 3, 4, 99)] == [1, 1, 2, 3, 3]
    assert document.offset(Position(9, 0)) == len(document.text)
    with pytest.raises(ValueError, match="below 0"):
        document.offset(Position(0, -1))
    with pytest.raises(ValueError, match="before its start"):
        document.apply(Change(Position(1, 0), Position(0, 0), ""))
    with pytest.raises(ValueError, match="'latin'; allowed: utf-8, utf-16, utf-32"):
        Document("x", "", 1, "latin")
    assert whole("a\ud83d\ude00\ud83d") == "a\U0001f600\ufffd"
    assert Document("x", "a\r\nb\r\nc\n").ending == "\r\n"


def test_a_long_text_is_cut_at_lines_around_the_cursor():
    text = "".join(f"line {n}\r\n" for n in range(2000))
    place = around(text, text.index("line 1000") + 4, before=100, after=60)
    assert place.left.startswith("line 9") and place.left.endswith("line 999\nline") and len(place.left) < 100
    assert place.right.startswith(" 1000\nline 1001\n") and place.right.endswith("\n") and "\r" not in place.right
    assert (
        len({around(text, at, before=400).left[:40] for at in range(9000, 9040)}) <= 2
    )  # else it is read again at every key
    whole_one = around("ab", 1)
    assert whole_one == ("a", "b")


def test_a_word_that_is_typed_is_one_change_and_lines_above_move_it():
    document, history = Document("x", "one\ntwo\nthree\nfour\n"), History()
    for n, letter in enumerate("xyz"):
        history.add(*document.apply(Change(Position(2, n), Position(2, n), letter)))
    history.add(*document.apply(Change(Position(0, 0), Position(0, 0), "new\nlines\n")))
    hunks = [(recent.start, recent.count, recent.before, after) for recent, after in history.hunks(document)]
    assert hunks == [(4, 1, "three\n", "xyzthree\n"), (0, 3, "one\n", "new\nlines\none\n")]
    history.add(*document.apply(Change(Position(4, 0), Position(4, 3), "")))
    assert [after for _, after in history.hunks(document)] == ["new\nlines\none\n"]  # taken back: no change


def test_random_changes_keep_the_old_lines(count):
    """Putting every old text back gives the text as it was."""
    draws = random.Random(5)
    for _ in range(count(400)):
        document, history = Document("x", "".join(f"l{n}\n" for n in range(8))), History(most=99)
        first = document.text
        for _ in range(draws.randrange(1, 6)):
            a, b = sorted(draws.randrange(len(document.text) + 1) for _ in range(2))
            if b - a > 9:
                continue
            new = draws.choice(["", "n", "\n", "p\nq\n"])
            history.add(*document.apply(Change(document.position(a), document.position(b), new)))
        text = [document.lines(n, n + 1) for n in range(len(document.starts))]
        for recent in sorted(history.recent, key=lambda r: -r.start):
            text[recent.start : recent.start + recent.count] = [recent.before]
        assert "".join(text) == first


def test_the_next_place_is_the_most_alike_and_the_model_is_told_the_change():
    text = "a = load(path, True)\nother line\nb = load(name, True)\nprint(a)\nc = load(file, True)\n"
    document, history = Document("x", text), History()
    assert next_place(document, history, 0) is None
    history.add(*document.apply(Change(Position(0, 15), Position(0, 19), "strict=True")))
    place = next_place(document, history, 0)
    assert document.text[slice(*place.free)] == "b = load(name, True)"
    assert place.window == (0, len(document.text))
    assert "- a = load(path, True)\n+ a = load(path, strict=True)" in place.instruction
    assert document.text[slice(*next_place(document, history, 4).free)] == "c = load(file, True)"
    assert len(instruction([(history.recent[0], "x" * 5000)])) < 600
    lonely = Document("x", "alpha\n1 2 3\n")
    history = History()
    history.add(*lonely.apply(Change(Position(0, 0), Position(0, 0), "z")))
    assert next_place(lonely, history, 0) is None


def test_a_selection_is_itself_or_the_paragraph():
    document = Document("x", "one\ntwo\n\nthree\r\nfour")
    assert selected(document, 1, 5) == (1, 5)
    assert selected(document, 5, 5) == (0, 7)
    assert selected(document, 12, 12) == (9, 20)
    for start, end, words in ((8, 8, "no text"), (3, 1, "before its start"), (7, 9, "no text")):
        with pytest.raises(ValueError, match=words):
            selected(document, start, end)
    with pytest.raises(ValueError, match="60000 characters; it may have 50000"):
        selected(Document("x", "a" * 60000), 0, 60000)


def test_every_preset_is_offered_and_settings_are_checked():
    known = presets()
    plain = offers(known, Settings())
    assert {offer.preset for offer in plain} == set(known)
    assert [offer.preset for offer in plain if offer.disabled] == ["seo", "feature", "free"]
    asking = offers(known, Settings.of({"prompts": True, "values": {"keywords": ["rome"]}}))
    assert not any(offer.disabled for offer in asking)
    assert {offer.preset: offer.missing for offer in asking if offer.missing}["free"] == ("instruction",)
    assert any(offer.title.endswith(": rome") and offer.values == {"keywords": "rome"} for offer in asking)
    for told, words in (
        ([], "expected an object"), ({"colour": 1}, "unknown setting 'colour'"), ({"prompts": 1}, "true or false"),
        ({"values": {"a": "b"}}, "expected lists"), ({"values": {"a": [" "]}}, "expected lists"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            Settings.of(told)

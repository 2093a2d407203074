"""Locks and sources: graphemes stay whole, pieces end at borders, changed ids come back as characters."""

import random

import documents
import pytest
import regex
from checkpoints import tiny_checkpoint

import mezzotint as mz
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.edit.hunks import Edit
from mezzotint.edit.locks import Locks, edges, find_locks, layout, outside_lines
from mezzotint.edit.source import Change, Source


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    root = tmp_path_factory.mktemp("locks")
    tiny_checkpoint.write_folder(root / "tiny", tiny_checkpoint.write_gguf(root / "tiny.gguf"))
    return mz.load(root / "tiny").tokenizer


def test_borders_move_outward_to_graphemes_and_say_so(count):
    assert Locks.of("ae\u0301b", [(0, 2)]) == Locks(((0, 3),), frozenset(), (((0, 2), (0, 3)),))
    assert Locks.of("a\r\nb", [(2, 2)]).spans == ((1, 3),)
    assert Locks.of("abc", [(1, 1), (0, 2), (1, 3)]) == Locks(((0, 3),), frozenset({1}))
    with pytest.raises(ValueError, match="2:9 is outside the text's 0:3"):
        Locks.of("abc", [(2, 9)])
    rng = random.Random(0)
    for _ in range(count(2000)):
        text = documents.document(rng)
        wanted = documents.spans(rng, text)
        locks = Locks.of(text, wanted)
        borders = {0}
        for cluster in regex.findall(r"\X", text):
            borders.add(max(borders) + len(cluster))
        assert {b for span in locks.spans for b in span} | locks.seals <= borders
        for start, end in wanted:
            inside = [place for place in range(len(text)) if any(a <= place < b for a, b in locks.spans)]
            assert set(range(start, end)) <= set(inside)
        free = {place for a, b in locks.free(len(text)) for place in range(a, b)}
        for start, end in documents.spans(rng, text):
            assert locks.cover(start, end) == (not free & set(range(start, end)))
        assert free == set(range(len(text))) - {p for a, b in locks.spans for p in range(a, b)}


def test_what_locks_allow():
    locks = Locks.of("0123456789", [(2, 4), (6, 6), (8, 10), (7, 9)])
    assert [locks.allow(a, b) for a, b in ((0, 2), (2, 2), (4, 4), (4, 6), (6, 7), (10, 10))] == [True] * 6
    assert [locks.allow(a, b) for a, b in ((1, 3), (3, 3), (3, 5), (6, 6), (5, 7), (6, 8), (8, 8))] == [False] * 7
    assert list(locks.free(10)) == [(0, 2), (4, 6), (6, 7)]


def test_locks_are_asked_for_by_span_pattern_words_and_lines():
    text = "f(x) = 3\ng(x) = 14\n"
    assert find_locks(text, ["0:4"]) == [(0, 4)]
    assert find_locks(text, [r"\d+$"]) == [(7, 8), (16, 18)]
    assert find_locks(text, ["f(x)"]) == [(0, 4)]
    assert find_locks(text, ["g("]) == [(9, 11)] and find_locks(text, [""]) == []
    for bad, words in (
        ("pears", "does not occur"),
        ("h(", "no regular expression"),
        ("3:99", "outside the text's 0:19"),
    ):
        with pytest.raises(ValueError, match=words):
            find_locks(text, [bad])
    assert outside_lines(text, "1") == [(8, 19)] and outside_lines(text, "2-") == [(0, 9), (18, 19)]
    assert outside_lines(text, "-2") == outside_lines(text, "1-2") == [(18, 19)]
    assert outside_lines("a\r\nb", "1") == [(1, 4)] and outside_lines("a\r\nb", "2") == [(0, 3)]
    for bad, words in (("3", "1-2"), ("2-1", "1-2"), ("x", "A-B"), ("-", "A-B")):
        with pytest.raises(ValueError, match=words):
            outside_lines(text, bad)
    assert [("\ufeff  a b \r\n\tc\n")[a:b] for a, b in layout("\ufeff  a b \r\n\tc\n")] == ["\ufeff  ", " \r\n\t", "\n"]
    assert edges("\ufeffa\n") == [(0, 1), (2, 3)] and edges(" \n") == [(0, 2), (2, 2)]


def test_tokens_end_at_locks_and_what_has_no_token_is_locked(tokenizer):
    text = "the thing and"
    source = Source.of(text, Locks.of(text, [(5, 8), (11, 11)]), tokenizer)
    pieces = [tokenizer.decode([i]) for i in source.ids]
    assert "".join(pieces) == text and source.starts[-1] == len(text)
    assert {5, 8, 11} <= set(source.starts)
    assert "".join(piece for piece, stays in zip(pieces, source.locked, strict=True) if stays) == "hin"
    closed = [start for start, shut in zip(source.starts, source.closed, strict=True) if shut]
    assert closed == [6, 11]  # before the second of the locked tokens, and at the seal
    assert [source.closed[-1], Source.of(text, Locks.of(text, [(13, 13)]), tokenizer).closed[-1]] == [False, True]
    few = Tokenizer.of_tokens(["a", "b"])
    source = Source.of("aéb", Locks(), few)
    assert source.locks.spans == ((1, 2),) and source.starts == [0, 3, 4] and source.locked == [False, False]
    with pytest.raises(ValueError, match="lone surrogate"):
        Source.of("a\ud800", Locks(), few)


def test_changed_ids_become_whole_characters(tokenizer, count):
    text = "né"
    source = Source.of(text, Locks(), tokenizer)
    e = tokenizer.encode("è")
    (hunk,) = source.hunks([Change(2, 3, e[1:], 0.5)], tokenizer)  # é and è share their first byte
    assert (hunk.start, hunk.end, hunk.before, hunk.after) == (1, 2, "é", "è")
    assert source.hunks([Change(2, 3, tokenizer.encode("x"), 0.5)], tokenizer) == []
    rng, size = random.Random(1), 256
    for _ in range(count(2000)):
        text = documents.document(rng)
        wanted = documents.spans(rng, text)
        locks = Locks.of(text, wanted)
        source = Source.of(text, locks, tokenizer)
        changes, at = [], 0
        while at < len(source):
            at += rng.randint(0, 3)
            end = at
            while end < min(at + 3, len(source)) and not source.locked[end] and (end == at or not source.closed[end]):
                end += 1
            if at <= len(source) and (at < end or not source.closed[at]):
                changes.append(Change(at, end, [rng.randrange(7, 7 + size) for _ in range(rng.randint(0, 3))], 0.5))
            at = end + 1
        edit = Edit(text, source.hunks(changes, tokenizer))
        assert documents.kept(edit, locks.spans)
        assert edit.accept().after == text and edit.reject().after == edit.after

"""Labels applied label round by label round turn any text into any other, in as few rounds as the alignment allows."""

import itertools
import math
import random
from collections import Counter

import pytest

from mezzotint.alignment import (
    DELETE,
    EXPAND,
    INSERT,
    KEEP,
    SLOT,
    apply,
    gaps,
    growth_cap,
    label_ids,
    labels,
    longest_insertion,
    rounds,
)


def pairs(number, seed=0, alphabets=(2, 3, 10, 1000)):
    """Random texts of 1 to 60 tokens; half the targets are edits of the source. Few letters: many alignments tie."""
    rng = random.Random(seed)
    for n in range(number):
        size = rng.choice(alphabets)
        source = [rng.randrange(size) for _ in range(rng.randint(1, 60))]
        target = [rng.randrange(size) for _ in range(rng.randint(1, 60))]
        if n % 2:
            target = list(source)
            for _ in range(rng.randint(0, 5)):
                at = rng.randint(0, len(target))
                cut = rng.choice([0, 0, 1, 3])
                target[at : at + cut] = [rng.randrange(size) for _ in range(rng.choice([0, 1, 2, 9]))]
            target = target[:60] or [0]
        yield source, target


def least_rounds(insertion):
    return math.ceil(math.log2(max(insertion, 1)))


def test_labels_turn_any_source_into_any_target_within_the_bound(count, capsys):
    free, ruled, outside = Counter(), Counter(), 0
    for source, target in pairs(count(10_000)):
        texts = list(rounds(source, target))
        assert (texts or [source])[-1] == target
        assert len(texts) <= 4 + least_rounds(longest_insertion(source, target))
        free[len(texts)] += 1
        if len(target) > growth_cap(len(source)):
            outside += 1
            with pytest.raises(ValueError, match=f"the target has {len(target)} tokens"):
                next(rounds(source, target, capped=True))
            continue
        slow = list(rounds(source, target, capped=True, alternate=True))
        assert (slow or [source])[-1] == target and len(slow) <= 2 * len(texts)
        assert all(len(text) <= growth_cap(len(source)) for text in slow)
        lengths = [len(text) for text in [source, *slow]]
        changed = [a != b for a, b in itertools.pairwise(lengths)]
        assert not any(a and b for a, b in itertools.pairwise(changed))
        ruled[len(slow)] += 1
    with capsys.disabled():
        print(
            f"\nlabel rounds: {sorted(free.items())}\nwith both rules: {sorted(ruled.items())}; beyond the cap: {outside}"
        )


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 8, 9, 31, 32, 33, 60])
def test_an_insertion_opens_a_slot_then_doubles_it_wherever_it_stands(k):
    source, new = list(range(100, 120)), list(range(k))
    for at in (0, 7, 20):
        target = source[:at] + new + source[at:]
        texts = list(rounds(source, target))
        assert longest_insertion(source, target) == k
        assert len(texts) == 2 + least_rounds(k) and texts[-1] == target
        assert [text.count(SLOT) for text in texts[:-2]] == [2**n for n in range(len(texts) - 2)]
    assert list(rounds([], new))[-1] == new and list(rounds(new, [])) == [[]]


def between(places):
    return [b - a - 1 for a, b in itertools.pairwise(places)]


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_as_few_tokens_change_as_the_edit_distance_says(count):
    for source, target in pairs(count(2000), seed=1):
        changes = sum(max(end - start, last - first) for start, end, first, last in gaps(source, target))
        assert changes == levenshtein(source, target)


def test_of_the_alignments_with_the_fewest_edits_one_with_the_fewest_gaps_is_taken(count):
    rng = random.Random(5)
    for _ in range(count(10_000)):
        source = [rng.randrange(3) for _ in range(rng.randint(3, 5))]
        target = [rng.randrange(3) for _ in range(rng.randint(3, 6))]
        found = gaps(source, target)
        best = []
        for n in range(min(len(source), len(target)) + 1):
            for left in itertools.combinations(range(len(source)), n):
                for right in itertools.combinations(range(len(target)), n):
                    if [source[i] for i in left] == [target[j] for j in right]:
                        sizes = zip(between([-1, *left, len(source)]), between([-1, *right, len(target)]), strict=True)
                        changes = [max(pair) for pair in sizes]
                        best.append((sum(changes), sum(c > 0 for c in changes)))
        changes = sum(max(g.end - g.start, g.last - g.first) for g in found)
        unread = iter(target)
        if not all(x in unread for x in source):  # else rounds come first
            assert (changes, len(found)) == min(best)


def rounds_left(slots, tokens):
    """How long a run of slots takes to become so many tokens, played through."""
    if slots == 0:
        return 0 if tokens == 0 else 1 + rounds_left(1, tokens)
    if tokens <= slots:
        return 1
    grow = min(slots, tokens - slots)
    return 1 + rounds_left(2 * grow, tokens - (slots - grow))


def test_no_other_alignment_of_what_is_visible_needs_fewer_rounds(count):
    rng = random.Random(2)
    for _ in range(count(4000)):
        target = [rng.randrange(3) for _ in range(rng.randint(1, 9))]
        text = [x for x in target if rng.random() < 0.5]
        for _ in range(rng.randint(0, 4)):
            text.insert(rng.randint(0, len(text)), SLOT)
        visible = [i for i, x in enumerate(text) if x != SLOT]
        slots = between([-1, *visible, len(text)])
        best = min(
            max(map(rounds_left, slots, between([-1, *places, len(target)])))
            for places in itertools.combinations(range(len(target)), len(visible))
            if [target[j] for j in places] == [text[i] for i in visible]
        )
        assert len(list(rounds(text, target))) == best


def test_drafts_with_open_slots_and_wrong_tokens_arrive_too(count):
    rng = random.Random(3)
    for source, target in pairs(count(2000), seed=3):
        text = [SLOT if rng.random() < 0.3 else x for x in source]
        texts = [text, *rounds(text, target)]
        assert texts[-1] == target and len(texts) - 1 <= 4 + least_rounds(longest_insertion(text, target))


def test_labels_say_what_the_page_says():
    the, cat, dog, sat, down, there = range(6)
    assert labels([the, cat, sat], [the, dog, sat, down, there]) == [KEEP, dog, KEEP, INSERT]
    assert labels([the, SLOT, sat], [the, dog, down, sat]) == [KEEP, EXPAND, KEEP, KEEP]
    assert labels([the], [the, cat, the]) == [KEEP, INSERT]  # leftmost, where the rounds are the same
    assert labels([SLOT, SLOT], [the, dog, down]) == [the, EXPAND, KEEP]  # the rightmost expands
    assert labels([the, SLOT, SLOT, SLOT], [the, dog]) == [KEEP, dog, DELETE, DELETE, KEEP]
    assert labels([the, cat, dog], [the, dog]) == [KEEP, DELETE, KEEP, KEEP]
    assert labels([cat, SLOT, dog], [5, 6, 7, 8, 9]) == [5, EXPAND, 9, KEEP]  # what follows the growth is right-aligned
    ids = {"MASK": 90, "DELETE": 91, "INSERT": 92, "EXPAND": 93}
    assert label_ids([the, cat, sat], [KEEP, dog, DELETE, INSERT], 99, ids) == [the, dog, 91, 92]
    assert label_ids([SLOT, cat], [EXPAND, KEEP, KEEP], 99, ids) == [93, cat, 99]


def test_locked_positions_are_kept_or_the_pair_is_refused(count):
    for source, target in pairs(count(1000), seed=4, alphabets=(10, 1000)):
        pinned = sorted({0, len(source) // 2})
        target = [*target[:3], source[0], *target[3:9], *[source[i] for i in pinned[1:]], *target[9:]]
        said = labels(source, target, pinned)
        assert all(said[i] in (KEEP, INSERT) for i in pinned)
    with pytest.raises(ValueError, match="1 locked tokens do not all occur"):
        labels([1, 2, 3], [1, 3, 4], [1])


def test_growth_stops_at_the_cap_and_deletions_make_room():
    grow = [INSERT, EXPAND, DELETE, INSERT]
    assert apply([1, SLOT, 2], grow) == [SLOT, 1, SLOT, SLOT, SLOT]
    assert apply([1, SLOT, 2], grow, most=4) == [SLOT, 1, SLOT, SLOT]
    assert apply([1, SLOT, 2], grow, most=2) == [1, SLOT]
    assert apply([1, SLOT, 2], [5, EXPAND, DELETE, INSERT], structure=False) == [5, SLOT, 2]
    with pytest.raises(ValueError, match="3 labels for 3 positions"):
        apply([1, 2, 3], [KEEP] * 3)

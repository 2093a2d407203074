"""Labels of an edit: what to say at every position of a text so that, said round after round, it becomes another text.

    the cat  sat      [end]     -> the [ ] sat  down [end]      round 1   KEEP, SUBSTITUTE, KEEP, INSERT before the end
    the dog  sat [ ]  [end]                                     round 2   the open slot EXPANDs: two words are missing
    the dog  sat [ ] [ ] [end]                                  round 3   both slots get their token

- A text is a list of ids in which SLOT is an open position (a MASK on the canvas). A label is an id >= 0 (write it: a
  substitution, or the filling of a slot) or one of KEEP, DELETE, INSERT (a slot opens before it), EXPAND (a slot becomes two).
- There is one label more than there are positions: the last stands for the end of the text, where INSERT is allowed too.
- `labels` looks only at the present text and the target, never at how the text came about, so it labels a network's own
  drafts as well. One set of labels applied together, tokens and structure at once, is a *label round*.
- Once what is visible is part of the target, the alignment chosen is one that needs the fewest further rounds, and a
  round brings it one nearer. An insertion of k tokens so takes at most 2 + ceil(log2 k) rounds: a slot opens, the run of
  slots doubles, the tokens come.

KEEP, SUBSTITUTE, DELETE and INSERT are LLaDA2.2's labels, EXPAND is DreamOn's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count, pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

SLOT = -1  # in a text
KEEP, DELETE, INSERT, EXPAND = -2, -3, -4, -5  # in labels

L = TypeVar("L", int, Tensor)

# Costs: a gap begun, a slot filled, a slot dropped, a visible token changed, a locked one.
_GAP, _FILL, _DROP, _EDIT, _NEVER = 1, 1 << 16, 2 << 16, 4 << 16, 1 << 50


class Gap(NamedTuple):
    """What stands between two kept tokens: `start:end` of the text has to become `first:last` of the target."""

    start: int
    end: int
    first: int
    last: int


def growth_cap(length: L) -> L:
    """The most positions that a text of this length (an int, or lengths `[B]`) may grow to, however often it is edited."""
    return 2 * length + 32


def labels(text: Sequence[int], target: Sequence[int], locked: Collection[int] = ()) -> list[int]:
    """One label a position and one for the end: `len(text) + 1`. locked: positions that must be kept as they are.

    In a gap the tokens are taken from the left, and what is too much is deleted; where tokens are missing, the rightmost slots
    expand, and if there is none, one opens. Raises ValueError when the locked tokens do not occur in the target in order.
    """
    out = [KEEP] * (len(text) + 1)
    for start, end, first, last in gaps(text, target, locked):
        missing = (last - first) - (end - start)
        slots = [i for i in range(start, end) if text[i] == SLOT]
        growing = set(slots[-missing:]) if missing > 0 else set()
        if missing > 0 and not slots:
            out[end] = INSERT
        token = first
        for i in range(start, end):
            if growing and i > max(growing):
                token = max(token, last - (end - i))  # what is missing is the last slot's to grow
            if i in growing:
                out[i], token = EXPAND, token + 2
            elif token < last:
                out[i], token = target[token], token + 1
            else:
                out[i] = DELETE
    return out


def longest_insertion(text: Sequence[int], target: Sequence[int]) -> int:
    """The most tokens that any one gap of the alignment has to grow by."""
    return max(((last - first) - (end - start) for start, end, first, last in gaps(text, target)), default=0)


def apply(text: Sequence[int], said: Sequence[int], most: int | None = None, structure: bool = True) -> list[int]:
    """The text after one label round (`said`: its labels). `structure=False` applies the tokens only.

    most: how long the text may become; growth that finds no room, the leftmost being served first, is left undone.
    """
    if len(said) != len(text) + 1:
        raise ValueError(f"{len(said)} labels for {len(text)} positions; expected one each and one for the end")
    room = len(text) if most is None else most - len(text) + sum(label == DELETE for label in said)
    out: list[int] = []
    for here, label in zip([*text, KEEP], said, strict=True):  # KEEP stands for the end and is dropped again
        if label in (INSERT, EXPAND) and structure:
            room -= most is not None
            grows = room >= 0
            out += [SLOT, here] if grows else [here]
        elif label != DELETE or not structure:
            out.append(label if label >= 0 else here)
    return out[:-1]


def rounds(
    source: Sequence[int], target: Sequence[int], *, capped: bool = False, alternate: bool = False
) -> Iterator[list[int]]:
    """The text after every label round, until it is the target.

    capped: it never grows beyond `growth_cap(len(source))`; a longer target is a ValueError. alternate: a round that changed
    the structure is followed by one that changes only tokens.
    """
    most = growth_cap(len(source)) if capped else None
    if most is not None and len(target) > most:
        raise ValueError(f"the target has {len(target)} tokens; {len(source)} may grow to {most} at most")
    text, structure = list(source), True
    while text != list(target):
        said = labels(text, target)
        text = apply(text, said, most, structure)
        yield text
        structure = not (alternate and structure and {DELETE, INSERT, EXPAND} & set(said))


def label_ids(text: Sequence[int], said: Sequence[int], end_id: int, control_ids: Mapping[str, int]) -> list[int]:
    """What a network is trained to say: KEEP as the token that stands there, structure as its control id.

    `end_id`: the token that stands at the end of the canvas. control_ids: name -> id, as in a checkpoint's facts.
    """
    control = {DELETE: control_ids["DELETE"], INSERT: control_ids["INSERT"], EXPAND: control_ids["EXPAND"]}
    return [
        here if label == KEEP else control.get(label, label) for here, label in zip([*text, end_id], said, strict=True)
    ]


def gaps(text: Sequence[int], target: Sequence[int], locked: Collection[int] = ()) -> list[Gap]:
    """Where text and target differ, in order, between the tokens that are kept."""
    kept = _fewest_rounds(text, target)
    kept = _fewest_edits(text, target, locked) if kept is None else kept
    borders = pairwise([(-1, -1), *kept, (len(text), len(target))])
    found = (Gap(i + 1, k, j + 1, m) for (i, j), (k, m) in borders)
    return [gap for gap in found if gap.start < gap.end or gap.first < gap.last]


def _fewest_edits(text: Sequence[int], target: Sequence[int], locked: Collection[int]) -> list[tuple[int, int]]:
    """Pairs (position in the text, in the target) kept by the alignment with the fewest edits and, of those, gaps.

    Dynamic programming over prefixes with two costs each, row by row (Gotoh, 1982): after a kept token, and inside a gap.
    """
    same, ends = 0, min(len(text), len(target))
    while same < ends and text[same] == target[same]:  # matching a common beginning, or end, costs nothing anywhere
        same += 1
    last = 0
    while last < ends - same and text[-1 - last] == target[-1 - last]:
        last += 1
    inner = [i - same for i in locked if same <= i < len(text) - last]
    kept = _aligned(text[same : len(text) - last], target[same : len(target) - last], inner)
    before = [(i, i) for i in range(same)]
    after = [(len(text) - i, len(target) - i) for i in range(last, 0, -1)]
    return [*before, *((i + same, j + same) for i, j in kept), *after]


def _aligned(text: Sequence[int], target: Sequence[int], locked: Collection[int]) -> list[tuple[int, int]]:
    """`_fewest_edits` of texts with nothing in common at either end."""
    here, there = np.array(text, np.int64), np.array(target, np.int64)
    fixed = np.zeros(len(here), np.bool_)
    fixed[list(locked)] = True
    pair = np.where(fixed, _NEVER, np.where(here == SLOT, _FILL, _EDIT))
    drop = np.where(fixed, _NEVER, np.where(here == SLOT, _DROP, _EDIT))
    ramp = _EDIT * np.arange(len(there) + 1)
    keeps = np.full((len(here) + 1, len(there) + 1), _NEVER)
    inside = np.empty_like(keeps)
    keeps[0, 0], inside[0] = 0, ramp + _GAP
    inside[0, 0] = _NEVER
    for i in range(len(here)):
        enter = np.minimum(inside[i], keeps[i] + _GAP)
        keep, gap = keeps[i + 1], inside[i + 1]
        keep[1:] = np.where(there == here[i], np.minimum(keeps[i], inside[i])[:-1], _NEVER)
        gap[:] = enter + drop[i]
        np.minimum(gap[1:], enter[:-1] + pair[i], out=gap[1:])
        runs = np.minimum.accumulate(np.minimum(gap, keep + _GAP) - ramp) + ramp  # insertions cost the same everywhere
        np.minimum(gap[1:], runs[:-1] + _EDIT, out=gap[1:])
    kept_cost, gap_cost, pair, drop = keeps.tolist(), inside.tolist(), pair.tolist(), drop.tolist()
    i, j = len(text), len(target)
    if min(kept_cost[i][j], gap_cost[i][j]) >= _NEVER:
        raise ValueError(f"the {len(locked)} locked tokens do not all occur in the target in order")

    def entering(i: int, j: int) -> int:
        return min(gap_cost[i][j], kept_cost[i][j] + _GAP) if i >= 0 and j >= 0 else _NEVER

    kept: list[tuple[int, int]] = []
    in_gap = gap_cost[i][j] < kept_cost[i][j]
    while i or j:
        if not in_gap:
            i, j = i - 1, j - 1
            kept.append((i, j))
            in_gap = gap_cost[i][j] < kept_cost[i][j]
            continue
        ways = (
            (entering(i - 1, j - 1) + pair[i - 1], i - 1, j - 1),
            (entering(i, j - 1) + _EDIT, i, j - 1),
            (entering(i - 1, j) + drop[i - 1], i - 1, j),
        )
        _, i, j = min(ways)
        in_gap = gap_cost[i][j] <= kept_cost[i][j] + _GAP
    return kept[::-1]


def _fewest_rounds(text: Sequence[int], target: Sequence[int]) -> list[tuple[int, int]] | None:
    """Every visible token with its place in the target so that the fewest rounds remain, leftmost; None if they do not fit.

    Sets of places are bits of an int: `places[i]` holds those from which all tokens after the i-th can still be placed.
    """
    visible = [i for i, token in enumerate(text) if token != SLOT]
    unread = iter(target)
    if not all(text[i] in unread for i in visible):
        return None
    slots = [k - i - 1 for i, k in pairwise([-1, *visible, len(text)])]  # before each visible token, and before the end
    where: dict[int, int] = {}
    for j, token in enumerate(target):
        where[token] = where.get(token, 0) | 1 << j
    for remaining in count():
        widths = [min(_reach(m, remaining), len(target)) for m in slots]
        if min(widths) < 0:
            continue
        places = [1 << len(target)]
        for i, width in zip(reversed(visible), reversed(widths), strict=False):
            places.append(where[text[i]] & _before(places[-1], width))
        places.reverse()
        kept, at = [], 0  # `at`: the first place that is still free
        for i, width, possible in zip([*visible, len(text)], widths, places, strict=True):
            near = (possible >> at) & ((1 << (width + 1)) - 1)
            if not near:
                break
            at += (near & -near).bit_length()
            kept.append((i, at - 1))
        else:
            return kept[:-1]
    raise AssertionError("unreachable")


def _reach(slots: int, remaining: int) -> int:
    """The most tokens that a run of slots can become in so many rounds: it doubles in all but the last; -1 if it cannot wait."""
    if remaining == 0:
        return -1 if slots else 0
    if slots == 0:
        return 0 if remaining == 1 else 1 << (remaining - 2)  # the first round opens a slot
    return slots << (remaining - 1)


def _before(places: int, width: int) -> int:
    """Places that have one of `places` 1 to `width + 1` to their right."""
    out, done = places >> 1, 1
    while done <= width:
        step = min(done, width + 1 - done)
        out, done = out | out >> step, done + step
    return out

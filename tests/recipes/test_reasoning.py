"""The puzzles are what they say, the graders can fail, no arm sees what it may not, and the whole runs end to end."""

import itertools
import random

import pytest
import torch

from mezzotint.model.config import ModelConfig
from mezzotint.recipes import reasoning
from mezzotint.recipes.reasoning import (
    ARMS,
    BLANK,
    CLOSING,
    GRIDS,
    IDS,
    OPENING,
    TASKS,
    VOCABULARY,
    Causal,
    balanced,
    clue_of,
    for_testing,
    make_batches,
    num_solutions,
    puzzle_first,
    puzzles,
    right,
    solve,
    train,
    valid_grid,
)
from mezzotint.sampler.decoding import Decoding, above, top
from mezzotint.train.trainer import initialise

SMALL = ModelConfig(len(VOCABULARY), 16, 1, 2, 2, 8, 24, 34)
SEEDS = 400


def body(puzzle):
    return "".join("?" if b else t for t, b in zip(puzzle.tokens[1:], puzzle.blank[1:], strict=True))


def test_grids_are_all_that_brute_force_finds():
    lines = ["".join(p) for p in itertools.permutations("1234")]
    found = {g for rows in itertools.product(lines, repeat=3) if valid_grid(g := "1234" + "".join(rows))}
    assert {grid for grid in GRIDS if grid.startswith("1234")} == found and len(found) == 12
    assert len(set(GRIDS)) == len(GRIDS) == 24 * 12 and all(map(valid_grid, GRIDS))  # 24: the digits renamed
    assert not valid_grid("1234341221431234")


def test_sudokus_have_one_solution_by_search(count):
    def solutions(cells):
        if "?" not in cells:
            return {cells} if valid_grid(cells) else set()
        hole = cells.index("?")
        row, column = hole // 4, hole % 4
        near = [
            i for i in range(16) if i // 4 == row or i % 4 == column or (i // 8, i % 4 // 2) == (row // 2, column // 2)
        ]
        free = set("1234") - {cells[i] for i in near}
        return set().union(*(solutions(cells[:hole] + d + cells[hole + 1 :]) for d in free))

    blanks = set()
    for seed in range(count(SEEDS)):
        puzzle = reasoning.sudoku(random.Random(seed), False)
        assert solutions(body(puzzle)) == {"".join(puzzle.tokens[1:])}
        blanks.add(sum(puzzle.blank))
    assert min(blanks) >= 4 and max(blanks) <= 12 and len(blanks) > 3
    assert num_solutions("?" * 16) == 288 and num_solutions("11" + "?" * 14) == 0


def test_brackets_match_and_clues_give_the_answer_away(count):
    inverse = {"reversed": lambda w: w[::-1], "next": previous_letters, "both": lambda w: previous_letters(w)[::-1]}
    for seed in range(count(SEEDS)):
        puzzle = reasoning.brackets(random.Random(seed), False)
        assert balanced("".join(puzzle.tokens[1:])) and 4 <= sum(puzzle.blank) <= 12
        puzzle = reasoning.clue(random.Random(seed), False)
        answer, kind, word = "".join(puzzle.tokens[1:8]), puzzle.tokens[9], "".join(puzzle.tokens[10:])
        assert inverse[kind](word) == answer and clue_of(answer, kind) == word
        assert not any(puzzle.blank[8:]) and any(puzzle.blank[1:8])


def previous_letters(word):
    return word.translate(str.maketrans("bcdefgha", "abcdefgh"))


@pytest.mark.parametrize("task", TASKS)
def test_no_solution_is_both_trained_and_tested(task, count):
    def solutions(test):
        drawn = puzzles((task,), count(4 * SEEDS), 0, test).tokens[:, 1:].tolist()
        return {"".join(VOCABULARY[i] for i in (row if task != "clue" else row[:7])) for row in drawn}

    assert not solutions(True) & solutions(False)
    assert all(map(for_testing, solutions(True))) and not any(map(for_testing, solutions(False)))


def test_puzzles_depend_on_the_seed_alone():
    one, again, other = (puzzles(tuple(TASKS), 6, seed, False) for seed in (1, 1, 2))
    assert torch.equal(one.tokens, again.tokens) and torch.equal(one.blank, again.blank)
    assert not torch.equal(one.tokens, other.tokens)
    assert one.tokens[:, 0].tolist() == [IDS[f"<{task}>"] for task in TASKS] * 2
    with pytest.raises(ValueError, match=r"'chess'; allowed: sudoku, brackets, clue"):
        puzzles(("chess",), 1, 0, False)


@pytest.mark.parametrize(
    "text, fits", [("([{<>}])", True), ("()<>", True), ("([)]", False), ("((", False), ("][", False)]
)
def test_balanced(text, fits):
    assert balanced(text) is fits


@pytest.mark.parametrize("task", TASKS)
def test_one_wrong_blank_or_given_is_wrong(task):
    asked = puzzles((task,), 20, 0, True)
    assert right(task, asked, asked.tokens).all()
    for where in (asked.blank, ~asked.blank):
        first = where.int().argmax(-1) if where is asked.blank else torch.full((20,), asked.tokens.shape[1] - 1)
        spoiled = asked.tokens.scatter(1, first[:, None], IDS["="])
        assert not right(task, asked, spoiled).any()


def test_any_completion_of_brackets_is_right_but_what_was_given_stays():
    ids = torch.tensor([[IDS["<brackets>"], *(IDS[c] for c in "()" * 8)]])
    other = ids.clone()
    other[0, 1:3] = torch.tensor([IDS["["], IDS["]"]])
    blank = torch.zeros_like(ids, dtype=torch.bool)
    blank[0, 1:3] = True
    assert right("brackets", reasoning.Puzzles(ids, blank), other).all()
    assert not right("brackets", reasoning.Puzzles(ids, ~blank), other).any()
    assert len(OPENING) == len(CLOSING)


def test_only_blanks_are_masked_and_learnt():
    asked = puzzles(tuple(TASKS), 12, "0 5", False)  # what step 5 of seed 0 shows to every arm
    batch = make_batches("diffusion", 0, 12)(5)
    assert torch.equal(batch.target, asked.tokens) and not (batch.weight.bool() & ~asked.blank).any()
    assert torch.equal(batch.tokens == BLANK, batch.weight.bool()) and batch.weight.sum() < asked.blank.sum()
    batch = make_batches("ar", 0, 12)(5)
    assert torch.equal(batch.tokens, asked.tokens) and torch.equal(batch.weight[:, :-1].bool(), asked.blank[:, 1:])
    assert torch.equal(batch.target[:, :-1], asked.tokens[:, 1:]) and not batch.weight[:, -1].any()
    batch = make_batches("ar puzzle first", 0, 12)(5)
    assert not (batch.tokens[:, :17][asked.blank] != BLANK).any() and torch.equal(batch.tokens[:, 17:], asked.tokens)
    with pytest.raises(ValueError, match="'bert'; allowed: diffusion, ar"):
        make_batches("bert")(0)


def test_the_causal_pass_does_not_see_to_the_right_and_the_canvas_does():
    network = initialise(SMALL, 0)
    network.load([(name, torch.randn_like(slot) * 0.5) for name, slot in network.slots().items()])
    network.requires_grad_(False)
    tokens = puzzles(("clue",), 3, 0, False).tokens
    changed = tokens.clone()
    changed[:, 9:] = BLANK
    position, valid = torch.arange(17).expand(3, -1), torch.ones_like(tokens, dtype=torch.bool)

    def logits(of, ids):
        return of.denoise(ids, position, valid, None)

    left = slice(1, 10)  # position 9 is predicted from 0 to 8
    assert torch.allclose(
        logits(Causal(network), tokens)[:, left], logits(Causal(network), changed)[:, left], atol=1e-5
    )
    assert not torch.allclose(logits(network, tokens)[:, left], logits(network, changed)[:, left], atol=1e-2)


@pytest.mark.parametrize("arm", ARMS)
def test_three_steps_of_training_then_solving(arm):
    losses = []
    network = train(arm, 3, rows=6, report=lambda progress: losses.append(progress.loss), config=SMALL)
    assert len(losses) == 3
    asked = puzzles(tuple(TASKS), 6, 0, True)
    found = solve(network, arm, asked)
    assert torch.equal(found.calls, asked.blank.sum(-1))  # one blank a call, given tokens cost none
    assert torch.equal(found.tokens[~asked.blank], asked.tokens[~asked.blank])
    assert torch.equal(found.accepted_at >= 0, asked.blank) and not (found.tokens == BLANK).any()
    order = [at[at >= 0].tolist() for at in found.accepted_at]
    assert order == [list(range(n)) for n in asked.blank.sum(-1)]  # from the left


def test_confidence_ordered_decoding_fills_one_a_call_and_a_threshold_fewer():
    network = initialise(SMALL, 0)
    network.requires_grad_(False)
    asked = puzzles(tuple(TASKS), 6, 0, True)
    one = solve(network, "diffusion", asked, Decoding(top(), num_steps=16))
    assert torch.equal(one.calls, asked.blank.sum(-1))
    assert [sorted(at[at >= 0].tolist()) for at in one.accepted_at] == [list(range(n)) for n in one.calls]
    assert (solve(network, "diffusion", asked, Decoding(above(0.0), num_steps=16)).calls == 1).all()


def test_puzzle_first_shows_the_blanks_before_the_answers():
    asked = puzzles(("sudoku",), 4, 0, False)
    rows = puzzle_first(asked)
    assert torch.equal(rows.tokens[:, :17] == BLANK, asked.blank) and not rows.blank[:, :17].any()
    assert torch.equal(rows.tokens[:, 17:], asked.tokens) and torch.equal(rows.blank[:, 17:], asked.blank)

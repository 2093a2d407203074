"""`reasoning`: puzzles whose answer depends on what stands to its right, for AR and diffusion networks of one shape.

    sudoku     <sudoku> 1 ? ? 4  ? 4 1 ?  2 ? ? ?  ? ? 2 1     a unique solution; graded by equality with it
    brackets   <brackets> ? [ ] ? { ? ( ) ? ? < ? ? { ? }      any completion whose brackets all match is right
    clue       <clue> ? ? c ? ? ? a = next b c d a h e b       the answer stands first, its clue to the right; equality

Each is 17 tokens over one vocabulary; `?` is both the blank of the puzzle and the mask of the noise. The clue's word is the
answer reversed, with each letter replaced by the next one (h by a), or both; the token after `=` says which. A solution
(grid, string or answer) belongs to training or to testing by a hash of its name, so no tested solution was ever trained on.

One network an arm, trained on a third of each task with the same shape, steps and puzzles a step; the loss is on blanks only:

    diffusion         the whole puzzle is one canvas; a random share of the blanks is masked, the others show their truth
    ar                the solved puzzle, left to right; at a blank it sees the left side, and never the right
    ar puzzle first   the puzzle, then the solved puzzle: `<sudoku> 1 ? ? 4 ... <sudoku> 1 3 2 4 ...`, 34 tokens

`ar` measures what the order costs, not what AR can do: where a clue stands to the right it can only guess. `ar puzzle
first` is the fair rival: it reads all that the canvas shows before its first answer, and computes twice the positions.
All three decode through the one loop, given tokens locked; plain AR decoding is `left_to_right()` on a causal pass.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, CLEAN, Places, context_causal
from mezzotint.noise import Absorbing
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import Decoding, left_to_right
from mezzotint.sampler.loop import CanvasDenoiser, Sampler
from mezzotint.shapes import Logits, Tokens, Where
from mezzotint.train.corruption import pad_rows
from mezzotint.train.data import held_out
from mezzotint.train.trainer import Batch, Batches, Progress, Recipe, Trainer, by_rows, initialise

DIGITS, OPENING, CLOSING, LETTERS = "1234", "([{<", ")]}>", "abcdefgh"
CLUES = ("reversed", "next", "both")
VOCABULARY = ("?", "<sudoku>", "<brackets>", "<clue>", *DIGITS, *OPENING, *CLOSING, *LETTERS, "=", *CLUES)
IDS = {token: index for index, token in enumerate(VOCABULARY)}
BLANK = IDS["?"]
BODY = 16  # tokens of a puzzle after its name
WORD = 7  # letters of a clue's answer
HELD_OUT = 1 / 6  # of the solutions
ARMS = ("diffusion", "ar", "ar puzzle first")
CONFIG = ModelConfig(len(VOCABULARY), 96, 5, 4, 4, 24, 256, 2 * (BODY + 1))  # 556 thousand weights


class Puzzle(NamedTuple):
    """The solved puzzle and which of its tokens are to be found."""

    tokens: list[str]
    blank: list[bool]

    def __str__(self) -> str:
        return " ".join("?" if b else token for token, b in zip(self.tokens, self.blank, strict=True))


class Puzzles(NamedTuple):
    """Puzzles of any tasks as rows: tokens int64 `[B, L]`, solved; blank bool `[B, L]`."""

    tokens: Tokens
    blank: Where


# -- the tasks ------------------------------------------------------------------------------------------------------


def for_testing(solution: str) -> bool:
    """Is this solution kept for testing?"""
    return held_out(f"reasoning: {solution}", HELD_OUT)


def _until(draw: Callable[[], str], test: bool) -> str:
    """The first solution drawn that is on the wanted side of the split."""
    return next(solution for solution in iter(draw, None) if for_testing(solution) == test)


def _puzzle(name: str, solution: list[str], blanks: set[int]) -> Puzzle:
    return Puzzle([f"<{name}>", *solution], [False, *(i in blanks for i in range(len(solution)))])


ROWS = [{4 * i + j for j in range(4)} for i in range(4)]
COLUMNS = [{4 * j + i for j in range(4)} for i in range(4)]
BOXES = [{8 * i + 2 * j + k for k in (0, 1, 4, 5)} for i in range(2) for j in range(2)]
UNITS = ROWS + COLUMNS + BOXES


def near(cell: int) -> set[int]:
    """The cells that share a row, column or box with this one."""
    return set[int]().union(*(unit for unit in UNITS if cell in unit)) - {cell}


def valid_grid(cells: str) -> bool:
    """Do 16 digits, row by row, hold each of 1234 once in every row, column and box?"""
    return len(cells) == 16 and all({cells[c] for c in unit} == set(DIGITS) for unit in UNITS)


def _grids() -> list[str]:
    rows = ["".join(row) for row in itertools.permutations(DIGITS)]
    halves = [a + b for a in rows for b in rows if not {*a[:2]} & {*b[:2]} and not {*a[2:]} & {*b[2:]}]
    return [grid for a in halves for b in halves if valid_grid(grid := a + b)]


GRIDS = _grids()  # all 288
# bit g of _HOLDS[cell, digit]: grid g has that digit in that cell
_HOLDS = {(c, d): sum(1 << g for g, grid in enumerate(GRIDS) if grid[c] == d) for c in range(16) for d in DIGITS}


def num_solutions(cells: str) -> int:
    """How many grids agree with 16 cells, `?` where nothing is given."""
    agree = (1 << len(GRIDS)) - 1
    for cell, digit in enumerate(cells):
        if digit != "?":
            agree &= _HOLDS[cell, digit]
    return agree.bit_count()


def sudoku(r: random.Random, test: bool) -> Puzzle:
    """Cells are cleared in random order while the solution stays unique, until 4 to 12 are blank or none can go."""
    solution, wanted = _until(lambda: r.choice(GRIDS), test), r.randint(4, 12)
    cells, blanks = list(solution), set[int]()
    for cell in r.sample(range(16), 16):
        cells[cell] = "?"
        if num_solutions("".join(cells)) == 1:
            blanks.add(cell)
        else:
            cells[cell] = solution[cell]
        if len(blanks) == wanted:
            break
    return _puzzle("sudoku", [*solution], blanks)


def balanced(text: str) -> bool:
    """Does every bracket close the last one still open, with none left over?"""
    waiting: list[str] = []
    for character in text:
        if character in OPENING:
            waiting.append(CLOSING[OPENING.index(character)])
        elif not waiting or waiting.pop() != character:
            return False
    return not waiting


def _bracket_string(r: random.Random) -> str:
    text, waiting = "", list[str]()
    for remaining in range(BODY, 0, -1):
        if not waiting or (len(waiting) < remaining and r.random() < 0.5):
            kind = r.randrange(len(OPENING))
            text += OPENING[kind]
            waiting.append(CLOSING[kind])
        else:
            text += waiting.pop()
    return text


def brackets(r: random.Random, test: bool) -> Puzzle:
    """16 brackets of four kinds, 4 to 12 of them blank, anywhere."""
    solution = _until(lambda: _bracket_string(r), test)
    return _puzzle("brackets", [*solution], set(r.sample(range(BODY), r.randint(4, 12))))


def clue_of(answer: str, kind: str) -> str:
    """The word that stands to the right."""
    word = answer if kind == "reversed" else "".join(LETTERS[LETTERS.index(c) - len(LETTERS) + 1] for c in answer)
    return word if kind == "next" else word[::-1]


def clue(r: random.Random, test: bool) -> Puzzle:
    """A word of 7 letters, 4 to 7 of them blank, then the clue that gives it away."""
    answer, kind = _until(lambda: "".join(r.choices(LETTERS, k=WORD)), test), r.choice(CLUES)
    solution = [*answer, "=", kind, *clue_of(answer, kind)]
    return _puzzle("clue", solution, set(r.sample(range(WORD), r.randint(4, WORD))))


TASKS: dict[str, Callable[[random.Random, bool], Puzzle]] = {"sudoku": sudoku, "brackets": brackets, "clue": clue}


def puzzles(tasks: tuple[str, ...], count: int, seed: int | str, test: bool) -> Puzzles:
    """`count` puzzles, the tasks in turn; the same for the same seed. Raises ValueError for an unknown task."""
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ValueError(f"task is {unknown[0]!r}; allowed: {', '.join(TASKS)}")
    r = random.Random(f"{seed} {test}")
    rows = [TASKS[tasks[i % len(tasks)]](r, test) for i in range(count)]
    tokens, _ = pad_rows([[IDS[token] for token in row.tokens] for row in rows], BLANK)
    return Puzzles(tokens, torch.tensor([row.blank for row in rows]))


def right(task: str, asked: Puzzles, found: Tokens) -> Tensor:
    """bool `[B]`: is the whole row right? For brackets any completion counts; what was given must stand in every task."""
    same = found == asked.tokens
    if task != "brackets":
        return same.all(-1)
    kept = (same | asked.blank).all(-1)
    return kept & torch.tensor([balanced("".join(VOCABULARY[i] for i in row[1:])) for row in found.tolist()])


# -- training -------------------------------------------------------------------------------------------------------


def puzzle_first(asked: Puzzles) -> Puzzles:
    """`[B, 2L]`: the puzzle with its blanks showing, then the puzzle to be solved."""
    shown = torch.where(asked.blank, BLANK, asked.tokens)
    return Puzzles(torch.cat((shown, asked.tokens), 1), torch.cat((torch.zeros_like(asked.blank), asked.blank), 1))


def laid_out(arm: str, asked: Puzzles) -> Puzzles:
    """The rows as an arm reads them. Raises ValueError for an unknown arm."""
    if arm not in ARMS:
        raise ValueError(f"arm is {arm!r}; allowed: {', '.join(ARMS)}")
    return puzzle_first(asked) if arm == "ar puzzle first" else asked


def _places(position: Tensor, role: int) -> Places:
    return Places.of(position, torch.full_like(position, role))


def make_batches(arm: str, seed: int = 0, rows: int = 96) -> Batches:
    """step -> batch; every arm sees the same puzzles in the same steps."""
    process = Absorbing(BLANK, len(VOCABULARY))

    def batch(step: int) -> Batch:
        solved, blank = laid_out(arm, puzzles(tuple(TASKS), rows, f"{seed} {step}", test=False))
        position = torch.arange(solved.shape[1]).expand(rows, -1)
        if arm != "diffusion":
            weight = torch.cat((blank[:, 1:], torch.zeros_like(blank[:, :1])), 1).float()  # place i is about i + 1
            return Batch(solved, _places(position, CLEAN), solved.roll(-1, 1), weight)
        generator = torch.Generator().manual_seed((seed << 32) + step)
        level = 1 - torch.rand(rows, generator=generator, dtype=torch.float64)
        draws = Draws.of([(seed << 32) + index for index in range(rows)]).at(step=step)
        noisy = process.corrupt(solved, level, blank, draws)
        return Batch(noisy, _places(position, CANVAS), solved, (noisy == BLANK).float())

    return by_rows(batch)


def train(
    arm: str, max_steps: int, seed: int = 0, rows: int = 96, report: Callable[[Progress], None] = lambda progress: None,
    config: ModelConfig = CONFIG,
) -> Denoiser:  # fmt: skip
    """One network on the mix of the three tasks. The budget is steps times rows: puzzles seen."""
    denoiser = initialise(config, seed)
    recipe = Recipe(f"reasoning {arm}", config, max_steps=max_steps, seed=seed, bfloat16=False)
    for progress in Trainer(denoiser, recipe, make_batches(arm, seed, rows)).run():
        report(progress)
    return denoiser


# -- solving --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Causal:
    """A network's causal pass as a canvas denoiser: logits about each position from what stands to its left alone."""

    denoiser: Denoiser

    def denoise(self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any) -> Logits:
        logits = self.denoiser(tokens, _places(positions, CLEAN), context_causal()).logits
        return torch.cat((torch.zeros_like(logits[:, :1]), logits[:, :-1]), 1)


class Solved(NamedTuple):
    """tokens and accepted_at `[B, L]` (the step that filled a blank, -1 elsewhere); calls int64 `[B]`."""

    tokens: Tokens
    accepted_at: Tensor
    calls: Tensor


def solve(denoiser: Denoiser, arm: str, asked: Puzzles, decoding: Decoding | None = None) -> Solved:
    """Fill the blanks, all else locked. decoding: None is left to right, which is all that an AR arm can do."""
    rows = laid_out(arm, asked)
    network: CanvasDenoiser = denoiser if arm == "diffusion" else Causal(denoiser)
    count, length = rows.tokens.shape
    decoding = decoding or Decoding(left_to_right(), num_steps=length)
    process, draws = Absorbing(BLANK, len(VOCABULARY)), Draws.of(0, rows=count)
    forced = torch.where(rows.blank, -1, rows.tokens)
    canvas = Canvas.blank(process, torch.zeros(count, dtype=torch.int64), length, draws, forced)
    calls = torch.zeros(count, dtype=torch.int64)
    for step in Sampler(network, process, decoding).steps(canvas, None, draws):
        calls += step.running
    answer = slice(length - asked.tokens.shape[1], None)
    return Solved(canvas.tokens[:, answer], canvas.accepted_at[:, answer], calls)

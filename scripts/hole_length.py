"""Which score finds the length of a hole? Asked of a denoiser that is exact, up to a doubt about what it sees.

words of 2 to 8 letters, each followed by one of a few others: a Markov chain whose every posterior is computed
doubt: each letter seen is wrong with probability 0.03, as far as the denoiser knows

python scripts/hole_length.py 100      trials a row; prints a Markdown table
"""

import random
import sys

import numpy as np
import torch

from mezzotint.edit.infill import Look, certainty, fit

LETTERS, DOUBT, WINDOW, LONGEST = 27, 0.03, 8, 20  # 0 is the space


class World:
    def __init__(self, successors: int, words: int = 60) -> None:
        rng = random.Random(1)
        names = sorted(
            {"".join(chr(97 + int(rng.random() ** 2 * 26)) for _ in range(rng.randint(2, 8))) for _ in range(words)}
        )
        self.names, self.after = names, {w: rng.sample(names, successors) for w in names}
        states = [(w, i) for w in names for i in range(len(w) + 1)]  # a letter of a word, or the space after it
        index = {state: number for number, state in enumerate(states)}
        self.letter = np.array([0 if i == len(w) else ord(w[i]) - 96 for w, i in states])
        self.step = np.zeros((len(states), len(states)))
        for w, i in states:
            for state in [(w, i + 1)] if i < len(w) else [(v, 0) for v in self.after[w]]:
                self.step[index[w, i], index[state]] += 1 if i < len(w) else 1 / successors

    def text(self, rng: random.Random, count: int) -> list[str]:
        out = [rng.choice(self.names)]
        while len(out) < count:
            out.append(rng.choice(self.after[out[-1]]))
        return out

    def posterior(self, seen: list[int]) -> tuple[np.ndarray, float]:
        """Letters (-1: noise) -> their posteriors `[T, LETTERS]` and the log-likelihood, by forward-backward."""
        n, size = len(seen), len(self.letter)
        told = [np.ones(size) if c < 0 else (1 - DOUBT) * (self.letter == c) + DOUBT / LETTERS for c in seen]
        forward, total = np.zeros((n, size)), 0.0
        for t in range(n):
            forward[t] = (np.full(size, 1 / size) if t == 0 else forward[t - 1] @ self.step) * told[t]
            total += np.log(forward[t].sum())
            forward[t] /= forward[t].sum()
        out, back = np.zeros((n, LETTERS)), np.ones(size)
        for t in reversed(range(n)):
            np.add.at(out[t], self.letter, forward[t] * back / (forward[t] * back).sum())
            back = self.step @ (told[t] * back)
            back /= back.sum()
        return out, total


def letters(words: list[str]) -> list[int]:
    return [0 if c == " " else ord(c) - 96 for c in " ".join(words)]


def trial(world: World, rng: random.Random, span: int) -> list[bool]:
    """Was the length found by fit, by certainty, by the exact posterior of the length?"""
    words = world.text(rng, 8)
    left, hole, right = [*letters(words[:3]), 0], letters(words[3 : 3 + span]), [0, *letters(words[3 + span :])]
    scores = []
    for n in range(1, LONGEST + 1):
        whole, likelihood = world.posterior(left + [-1] * n + right)
        hidden, _ = world.posterior(left + [-1] * (n + WINDOW) + right[WINDOW:])
        at = len(left)
        told = [np.log(hidden[at + n + j, letter]) for j, letter in enumerate(right[:WINDOW])]
        looks = [Look(torch.tensor(np.log(p[at : at + n] + 1e-300)), torch.tensor(told)) for p in (hidden, whole)]
        scores.append((fit(looks[0]), certainty(looks[1]), likelihood))
    return [1 + int(np.argmax(column)) == len(hole) for column in zip(*scores, strict=True)]


def main() -> None:
    trials, rng = int(sys.argv[1]), random.Random(7)
    print("| words in the hole | words that may follow | fit | certainty | exact |\n|---|---|---|---|---|")
    for span, successors in ((1, 3), (1, 10), (2, 3)):
        world = World(successors)
        found = np.mean([trial(world, rng, span) for _ in range(trials)], axis=0)
        print(f"| {span} | {successors} | " + " | ".join(f"{share:.2f}" for share in found) + " |", flush=True)


if __name__ == "__main__":
    main()

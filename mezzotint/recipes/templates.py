"""`templates`: sentences of sixteen templates on four topics, told a label or an embedding. A minute or two on one core.

    label        the topic in seven of ten sentences, else one of the other three: what it says about a sentence is known, so
                 it is known too what guidance should make of it (`topic_law`)
    embedding    the mean of fixed random vectors of the sentence's words, and noise: near that of other sentences of its template

    rows         [ c c | the cold wind shakes the old trees <end> <end> .. ]     c: two soft tokens of the condition
    conditions   label, embedding, or in a tenth of the rows the null

One network learns both conditions. A fifth of the sentences, by a hash of their words, are never trained on.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mezzotint.checkpoints.load import Checkpoint, Facts
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.draws import Draws
from mezzotint.model.condition import Condition
from mezzotint.model.config import Conditioning, ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.noise import Absorbing, NoiseProcess, Uniform
from mezzotint.train.corruption import pad_rows, told_batch
from mezzotint.train.data import held_out
from mezzotint.train.trainer import Batch, Batches, Optimizer, Progress, Recipe, Trainer, by_rows, initialise

TEMPLATES = {
    "weather": (
        "the {cold,warm,wet,dry} wind shakes the {old,young,tall} trees",
        "it {rains,snows,hails} all {day,night,week} in the {hills,valley,north}",
        "a {white,grey,thin} fog hides the {river,harbour,road} this {morning,evening}",
        "the sun comes out after a {long,short,dark} {storm,winter,night}",
    ),
    "food": (
        "she bakes {fresh,brown,sweet} bread with {butter,honey,seeds}",
        "the {hot,thick,red} soup needs more {salt,pepper,garlic}",
        "we eat {apples,plums,pears} and {cheese,nuts,rice} for {lunch,supper}",
        "a {small,large,new} kitchen smells of {coffee,onions,fish}",
    ),
    "music": (
        "he plays the {violin,flute,piano} in a {small,large,dark} hall",
        "the {old,young,blind} singer forgets the {last,first} {verse,song}",
        "their {new,last,first} record has {slow,loud,quiet} drums",
        "a choir sings {softly,loudly,slowly} before the {organ,violin,crowd}",
    ),
    "travel": (
        "the {night,morning,slow} train stops near the {border,harbour,river}",
        "our {small,white,old} boat reaches the {island,coast,north} at {noon,dusk}",
        "they pack {warm,dry,new} clothes for the {mountains,desert,coast}",
        "a {tall,young,tired} guide reads the {map,sign,letter} in the {station,hotel,road}",
    ),
}  # fmt: skip
TOPICS = tuple(TEMPLATES)
ALL = tuple(template for templates in TEMPLATES.values() for template in templates)
TOPIC_OF = tuple(TOPICS.index(topic) for topic, templates in TEMPLATES.items() for _ in templates)
HONEST = 0.7  # of the labels are the topic
HELD_OUT = 0.2
DROP = 0.1
EMBEDDING, SPREAD = 32, 0.2  # numbers of an embedding, and length of the noise added to its unit vector
NOISE = ("absorbing", "uniform")


def _choices(template: str) -> list[list[str]]:
    return [word[1:-1].split(",") if word[0] == "{" else [word] for word in template.split()]


WORDS = tuple(sorted({word for template in ALL for words in _choices(template) for word in words}))
END, MASK = "<|end|>", "<|mask|>"
IDS = {word: index for index, word in enumerate((*WORDS, END, MASK))}
LENGTH = max(len(template.split()) for template in ALL) + 1
CONFIG = ModelConfig(
    len(IDS), 64, 3, 4, 4, 16, 160, LENGTH + 2, canvas_role=True,
    condition=Conditioning(classes=len(TOPICS), embedding=EMBEDDING, length=2),
)  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """template: index in `ALL`."""

    text: str
    template: int

    @property
    def topic(self) -> int:
        return TOPIC_OF[self.template]


class Sentences(NamedTuple):
    train: list[Sentence]
    held_out: list[Sentence]


def sentences() -> Sentences:
    """Every sentence of every template."""
    found = Sentences([], [])
    for index, template in enumerate(ALL):
        for words in itertools.product(*_choices(template)):
            sentence = Sentence(" ".join(words), index)
            (found.held_out if held_out(f"template: {sentence.text}", HELD_OUT) else found.train).append(sentence)
    return found


_PATTERNS = [re.compile(re.sub(r"\{(.*?)\}", lambda m: f"({m[1].replace(',', '|')})", template)) for template in ALL]


def template_of(text: str) -> int | None:
    """Index of the template that made a text, None if none did."""
    return next((index for index, pattern in enumerate(_PATTERNS) if pattern.fullmatch(text)), None)


def topic_law(strength: float) -> float:
    """The chance that a sentence is of its label's topic under the guided law p(topic | label)^g p(topic)^(1 - g)."""
    right, wrong = HONEST**strength, ((1 - HONEST) / (len(TOPICS) - 1)) ** strength
    return right / (right + (len(TOPICS) - 1) * wrong)


_VECTORS = torch.randn(len(WORDS), EMBEDDING, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def embed(text: str, spread: float = 0.0, chance: random.Random | None = None) -> tuple[float, ...]:
    """A unit vector of 32 numbers, plus noise whose length is about `spread`. Raises ValueError for an unknown word."""
    words = text.split()
    if not words or any(word not in IDS for word in words):
        raise ValueError(f"{text!r} has words outside the templates")
    mean = _VECTORS[[IDS[word] for word in words]].mean(0)
    unit = (mean / mean.norm()).tolist()
    chance = chance or random.Random(text)
    return tuple(x + chance.gauss(0, spread / EMBEDDING**0.5) for x in unit)


def centres(train: list[Sentence]) -> Tensor:
    """The mean embedding of each template's sentences: float64 `[16, 32]`."""
    return torch.stack(
        [
            torch.tensor([embed(s.text) for s in train if s.template == index]).double().mean(0)
            for index in range(len(ALL))
        ]
    )


def nearest(embedding: tuple[float, ...], among: Tensor) -> int:
    """The template whose centre has the largest cosine to an embedding."""
    vector = torch.tensor(embedding, dtype=torch.float64)
    return int((among @ vector / among.norm(dim=-1)).argmax())


def label(sentence: Sentence, chance: random.Random) -> int:
    """The topic, or in three of ten cases another."""
    others = [topic for topic in range(len(TOPICS)) if topic != sentence.topic]
    return sentence.topic if chance.random() < HONEST else chance.choice(others)


def process(noise: str) -> NoiseProcess:
    """absorbing, or uniform over the words (the end is one of them). Raises ValueError for another name."""
    if noise not in NOISE:
        raise ValueError(f"noise is {noise!r}; allowed: {', '.join(NOISE)}")
    return Absorbing(IDS[MASK], len(IDS)) if noise == "absorbing" else Uniform(IDS[MASK], len(IDS))


def make_batches(train: list[Sentence], noise: str, seed: int = 0, rows: int = 64) -> Batches:
    """step -> batch: templates drawn evenly, then a sentence; half of the conditions are labels, half embeddings."""
    kind = process(noise)
    by_template = [[s for s in train if s.template == index] for index in range(len(ALL))]
    ids = {s: [IDS[word] for word in s.text.split()] for s in train}

    def batch(step: int) -> Batch:
        chance = random.Random(f"{seed} {step}")
        chosen = [chance.choice(chance.choice(by_template)) for _ in range(rows)]
        told = [
            Condition(class_label=label(s, chance))
            if chance.random() < 0.5
            else Condition(embedding=embed(s.text, SPREAD, chance))
            for s in chosen
        ]
        clean, _ = pad_rows([*(ids[s] for s in chosen), [IDS[END]] * LENGTH], IDS[END])
        generator = torch.Generator().manual_seed((seed << 32) + step)
        draws = Draws.of([(seed << 32) + row for row in range(rows)]).at(step=step)
        return told_batch(clean[:-1], told, kind, CONFIG.prefix, DROP, draws, generator)

    return by_rows(batch)


def train(
    found: Sentences, noise: str = "absorbing", minutes: float | None = 2.0, max_steps: int | None = None, seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None, rows: int = 64,
) -> Checkpoint:  # fmt: skip
    """Train and return the checkpoint, not yet saved."""
    recipe = Recipe(
        f"templates {noise}", CONFIG, minutes, max_steps, seed, Optimizer(learning_rate=4e-3), bfloat16=False
    )
    denoiser = initialise(CONFIG, seed)
    for progress in Trainer(denoiser, recipe, make_batches(found.train, noise, seed, rows)).run():
        report(progress)
    return checkpoint(denoiser, noise)


def checkpoint(denoiser: Denoiser, noise: str = "absorbing") -> Checkpoint:
    tokenizer = Tokenizer.of_tokens([f" {word}" for word in WORDS], [END, MASK], [END])
    known = Facts(noise=noise, shift=0, canvas_length=LENGTH, trained_canvas=True, whole=True)
    return Checkpoint.of(denoiser, "templates", tokenizer, known.with_control({"MASK": MASK}, tokenizer), "Apache-2.0")

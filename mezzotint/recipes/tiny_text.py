"""Little texts of our own: people, things, numbers and records that keep agreeing with themselves from start to end.

    Mia has a red kite. She takes the kite to the park. Tom sees the red kite. "Is it yours, Mia?" asks Tom.

Every text repeats names, colours, counts or sums, so that a word can be told from what stands before it, from what stands
after it, or from both. That is what a model of a million weights can learn in minutes, and what a hole needs.
"""

from __future__ import annotations

import random

GIRLS = ("Mia", "Anna", "Lena", "Sara", "Ida", "Nora")
BOYS = ("Tom", "Ben", "Paul", "Max", "Leo", "Sam")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown")
THINGS = ("ball", "kite", "book", "cup", "hat", "box", "lamp", "drum", "coat", "boat")
FRUIT = ("apple", "pear", "plum", "cherry", "lemon", "nut", "egg", "cake")
PLACES = ("park", "garden", "school", "kitchen", "market", "forest", "river", "station")
ANIMALS = ("dog", "cat", "bird", "horse", "goat", "fox", "duck")
VERBS = (
    ("run", "runs"),
    ("sleep", "sleeps"),
    ("wait", "waits"),
    ("sing", "sings"),
    ("jump", "jumps"),
    ("play", "plays"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def plural(noun: str) -> str:
    return {"cherry": "cherries", "box": "boxes", "fox": "foxes"}.get(noun, noun + "s")


def _some(count: int, noun: str) -> str:
    return f"{count} {noun if count == 1 else plural(noun)}"


def _person(r: random.Random) -> tuple[str, str, str, str]:
    """Name, subject, object and possessive pronoun."""
    if r.random() < 0.5:
        return r.choice(GIRLS), "she", "her", "her"
    return r.choice(BOYS), "he", "him", "his"


def story(r: random.Random) -> str:
    """A thing changes hands or places."""
    name, she, her, hers = _person(r)
    friend = r.choice([n for n in GIRLS + BOYS if n != name])
    colour, thing, place, other = r.choice(COLOURS), r.choice(THINGS), r.choice(PLACES), r.choice(PLACES)
    lines = [f"{name} has a {colour} {thing}."]
    middle = [
        f"{she.capitalize()} takes the {thing} to the {place}.",
        f"{friend} likes the {colour} {thing} too.",
        f"The {thing} is {colour}, and {name} found it in the {other}.",
        f'"Is the {colour} {thing} yours, {name}?" asks {friend}.',
        f"{friend} asks {her} for the {thing}.",
        f"{name} and {friend} go to the {place} with the {colour} {thing}.",
        f"It is {hers} best {thing}.",
    ]
    lines += r.sample(middle, r.randint(2, 4))
    lines.append(
        r.choice((
            f"In the end {name} gives the {colour} {thing} to {friend}.",
            f"At night the {thing} is back in {hers} room, and {name} is happy.",
            f"{name} forgets the {colour} {thing} in the {place}, but {friend} brings it back.",
        ))
    )  # fmt: skip
    return " ".join(lines)


def counting(r: random.Random) -> str:
    """Things are bought, eaten or given away, and the count is right."""
    name, she, _, _ = _person(r)
    friend = r.choice([n for n in GIRLS + BOYS if n != name])
    fruit, count = r.choice(FRUIT), r.randint(1, 12)
    lines = [f"{name} has {_some(count, fruit)}."]
    for _ in range(r.randint(1, 3)):
        change = r.randint(1, 6)
        if change <= count and r.random() < 0.5:
            count -= change
            lines.append(f"{she.capitalize()} gives {_some(change, fruit)} to {friend}.")
        else:
            count += change
            lines.append(f"{she.capitalize()} buys {change} more.")
        lines.append(f"Now {name} has {_some(count, fruit)}.")
    return " ".join(lines)


def sums(r: random.Random) -> str:
    lines = []
    for _ in range(r.randint(4, 8)):
        a, b = r.randint(0, 9), r.randint(0, 9)
        lines.append(f"{a} + {b} = {a + b}" if r.random() < 0.6 else f"{a + b} - {a} = {b}")
    return "\n".join(lines)


def agreement(r: random.Random) -> str:
    """Number runs through the sentence, and comes back later."""
    lines = []
    for _ in range(r.randint(3, 5)):
        animal, place, (many, one), colour = r.choice(ANIMALS), r.choice(PLACES), r.choice(VERBS), r.choice(COLOURS)
        if r.random() < 0.5:
            lines.append(f"The {colour} {animal} {one} in the {place}. It {one} because it is happy.")
        else:
            lines.append(f"The {colour} {plural(animal)} {many} in the {place}. They {many} because they are happy.")
    return " ".join(lines)


def week(r: random.Random) -> str:
    """A plan in the order of days, repeated as a question and an answer."""
    name = r.choice(GIRLS + BOYS)
    first = r.randrange(7)
    places = r.sample(PLACES, 3)
    days = [DAYS[(first + i) % 7] for i in range(3)]
    plan = " ".join(f"On {day} {name} goes to the {place}." for day, place in zip(days, places, strict=True))
    asked = r.randrange(3)
    return f"{plan}\nWhere is {name} on {days[asked]}? {name} is at the {places[asked]} on {days[asked]}."


def record(r: random.Random) -> str:
    """The same facts as JSON and as a sentence."""
    name, she, _, hers = _person(r)
    age, colour, animal = r.randint(4, 40), r.choice(COLOURS), r.choice(ANIMALS)
    data = f'{{"name": "{name}", "age": {age}, "pet": "{animal}", "colour": "{colour}"}}'
    text = f"{name} is {age} years old. {she.capitalize()} has a {colour} {animal}, and {hers} {animal} is {colour}."
    return f"{data}\n{text}" if r.random() < 0.5 else f"{text}\n{data}"


def numerals(r: random.Random) -> str:
    start, step = r.randint(0, 4), r.choice((1, 1, 2))
    run = list(range(start, 11, step))[: r.randint(4, 7)]
    return f"{', '.join(str(n) for n in run)}: {', '.join(NUMBERS[n] for n in run)}."


def code(r: random.Random) -> str:
    """A function, a call and its value."""
    name, sign = r.choice((("add", "+"), ("subtract", "-"), ("multiply", "*")))
    x, y = r.sample("abcdxyz", 2)
    m, n = r.randint(0, 9), r.randint(0, 9)
    value = {"+": m + n, "-": m - n, "*": m * n}[sign]
    return f"def {name}({x}, {y}):\n    return {x} {sign} {y}\n\n\nprint({name}({m}, {n}))  # {value}"


GENRES = (story, counting, sums, agreement, week, record, numerals, code)
WEIGHTS = (4, 3, 1, 2, 2, 2, 1, 1)


def little_texts(count: int, seed: int) -> list[str]:
    """`count` different texts, in an order that the seed fixes. Raises ValueError when so many cannot be told apart."""
    r = random.Random(seed)
    found: dict[str, None] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        genre = r.choices(GENRES, WEIGHTS)[0]
        texts = [genre(r)]
        while sum(map(len, texts)) < 160 and genre in (counting, numerals, code):
            texts.append(genre(r))
        found["\n".join(texts)] = None
    if len(found) < count:
        raise ValueError(f"only {len(found)} different texts were found; ask for fewer than {count}")
    return list(found)

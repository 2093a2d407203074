"""The default's canvas against AR on the same weights: short tasks at several tokens a call, corrections, answers.

    python benchmarks/against_ar.py [--count 500] [--only tasks,corrections,answers] [--compute int8]

tasks          held-out texts (MEZZOTINT_DATA); an item is right when all of its answer is
    last word  prose up to the last word of a sentence; canvases of 6 tokens
    cloze      prose with a word of four letters or more hidden; 12 tokens that follow are given
    hole       code with three tokens hidden; 13 tokens that follow are given
    change     "Replace A by B:" and a sentence, behind three examples; canvases of 16 tokens
AR sees what stands on the left and is told how many tokens are hidden, as the canvas is. Where AR is right in at least a fifth,
the canvas at 3 tokens a call is compared with 0.95 of AR's score, item by item.

corrections    `editing` on chat and code: accepted tokens that were overwritten before their canvas was done, and how often
               the base finds the later token likelier than the first, behind the text that was written
answers        chat prompts and single words through the engine: empty ones, loops, unigram entropy, repetition
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

import report
import torch
from adapter import chat_requests

import mezzotint as mz
from mezzotint.draws import Draws
from mezzotint.eval.edit_items import Stock
from mezzotint.eval.metrics import bootstrap, repetition, unigram_entropy, wilson
from mezzotint.model.denoiser import Denoiser
from mezzotint.recipes.mixture import Prompts
from mezzotint.sampler.blocks import block_frames
from mezzotint.sampler.canvas import ACCEPTED, OVERWRITTEN
from mezzotint.sampler.decoding import POLICIES, Decoding, fixed_steps
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.verify import Verified
from mezzotint.train.corruption import pad_rows
from mezzotint.train.data import data_folder

RATES = (1.0, 1.5, 2.0, 3.0, 6.0)  # tokens a call
AT = 3.0  # at which AR's score is compared
ENOUGH, SHARE = 0.2, 0.95  # of items that AR has right; of its score that is wanted
LEFT = 48  # tokens on the left, at most
ROWS = 16
WORD, CLOZE, HOLE, CHANGE = 6, 12, 13, 16
WORDS = ("dog", "house", "river", "teacher", "music", "winter", "garden", "city", "letter", "engine")
SHOTS = (
    ("cat", "dog", "The cat slept on the sofa all day."),
    ("red", "green", "She painted the red door and left."),
    ("Monday", "Friday", "We meet on Monday to talk about the plan."),
)
SINGLE = (
    "Hello", "Hi", "Why", "Rain", "Python", "Help", "Yes", "No", "Music", "Paris", "Code", "Thanks", "Bread", "Love", "Seven",
    "Stop", "Tomorrow", "Water", "Poem", "Mezzotint", "ok", "?", "42", "Bonjour",
)  # fmt: skip
LOOP = 24  # tokens that repeat one unit of at most 16, at least three times: a loop
ANSWER = 128


@dataclass(frozen=True)
class Item:
    """left: ids before; right: ids behind the hole; room: tokens to write; judge: is the text, or are the tokens, right?"""

    left: list[int]
    room: int
    judge: Callable[[str, list[int]], bool]
    right: list[int] = field(default_factory=list)


# -- items -------------------------------------------------------------------------------------------------------------


def _says(word: str) -> Callable[[str, list[int]], bool]:
    return lambda text, ids: (found := re.match(r"\s*(\w+)", text)) is not None and found[1] == word


def last_words(stock: Stock) -> Iterator[Item]:
    for text in stock.prose:
        if found := re.search(r"\s([a-z]{3,})[.!?]$", text):
            left = stock.tokenizer.encode(text[: found.start()])
            if len(left) >= 16:
                yield Item(left[-LEFT:], WORD, _says(found[1]))


def _hidden(ids: list[int], start: int, count: int, seen: int) -> Item:
    truth = ids[start : start + count]
    behind = ids[start + count : start + count + seen]
    return Item(ids[max(0, start - LEFT) : start], count, lambda text, found: found == truth, behind)


def cloze(stock: Stock) -> Iterator[Item]:
    for text in stock.prose:
        words = [m for m in re.finditer(r"\s([A-Za-z]{4,})(?=\s)", text) if m.start() > 60]
        if not words:
            continue
        word = random.Random(text).choice(words)
        pieces = (text[: word.start()], word[0], text[word.end() :])
        left, own, right = map(stock.tokenizer.encode, pieces)
        if len(own) <= 3 and len(right) >= CLOZE and stock.tokenizer.encode(text) == left + own + right:
            yield _hidden(left + own + right, len(left), len(own), CLOZE)


def holes(stock: Stock) -> Iterator[Item]:
    for text in stock.pool("code"):
        ids = stock.tokenizer.encode(text)
        if len(ids) >= 16 + 3 + HOLE:
            yield _hidden(ids, random.Random(text).randint(16, len(ids) - 3 - HOLE), 3, HOLE)


def changes(stock: Stock) -> Iterator[Item]:
    shots = "".join(f"Replace {a} by {b}: {text}\n{text.replace(a, b)}\n\n" for a, b, text in SHOTS)
    for text in stock.prose:
        for sentence in re.findall(r"(?<=[.!?] )[A-Z][^.!?]{30,90}\.", text)[:1]:
            words = [w for w in re.findall(r"\b[a-z]{4,}\b", sentence) if sentence.count(w) == 1]
            if not words:
                continue
            r = random.Random(sentence)
            old, new = r.choice(words), r.choice(WORDS)
            wanted = sentence.replace(old, new)
            ids = stock.tokenizer.encode(f"{shots}Replace {old} by {new}: {sentence}\n")
            room = len(stock.tokenizer.encode(wanted)) + 2
            yield Item(ids, room, lambda said, _, wanted=wanted: said.split("\n")[0].strip() == wanted)  # type: ignore[misc]  # mypy reads defaults of a lambda as Any


TASKS: Mapping[str, tuple[Callable[[Stock], Iterator[Item]], int]] = {
    "last word": (last_words, WORD), "cloze": (cloze, 0), "hole": (holes, 0), "change": (changes, CHANGE),
}  # fmt: skip


def some(make: Callable[[Stock], Iterator[Item]], stock: Stock, count: int) -> list[Item]:
    found = []
    for item in make(stock):
        found.append(item)
        if len(found) == count:
            break
    return sorted(found, key=lambda item: (item.room if item.right else 0, len(item.left)))


# -- both ways ---------------------------------------------------------------------------------------------------------


def ar(network: Denoiser, items: Sequence[Item], banned: tuple[int, ...]) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in items]
    for first in range(0, len(items), ROWS):
        part = items[first : first + ROWS]
        frames = Verified(network, banned=banned).frames(
            [i.left for i in part], max(i.room for i in part), Draws.of([0] * len(part))
        )
        for frame in frames:
            texts[first + frame.row] += frame.tokens[: frame.committed]
    return [text[: item.room] for text, item in zip(texts, items, strict=True)]


def canvases(
    checkpoint: mz.Checkpoint,
    network: Denoiser,
    items: Sequence[Item],
    length: int,
    rate: float,
    banned: tuple[int, ...],
) -> tuple[list[list[int]], float]:
    """What stands in the holes, or behind the text, at about `rate` tokens a call; -> and tokens a call as they were.

    A canvas in a hole begins with the last token on the left, given: its row speaks about the hole's first place, and sees
    the right side.
    """
    texts: list[list[int]] = [[] for _ in items]
    tokens = calls = 0
    groups: dict[tuple[int, int], list[int]] = {}  # canvases of one call are equally long
    for number, item in enumerate(items):
        groups.setdefault((item.room, len(item.right)) if item.right else (0, 0), []).append(number)
    for (room, behind), numbers in groups.items():
        own = room if behind else length
        decoding = Decoding(
            fixed_steps(), num_steps=max(1, round(own / rate)), canvas_length=1 + room + behind if behind else length,
            first_from_commit=not behind,
        )  # fmt: skip
        sampler = Sampler(network, checkpoint.process, decoding, banned)
        for first in range(0, len(numbers), ROWS):
            part = numbers[first : first + ROWS]
            forced = [
                {0: items[n].left[-1]} | {1 + room + k: t for k, t in enumerate(items[n].right)} if behind else {}
                for n in part
            ]
            frames = block_frames(
                sampler, network, [items[n].left[:-1] if behind else items[n].left for n in part],
                1 + room + behind if behind else max(items[n].room for n in part), Draws.of(part), forced,
            )  # fmt: skip
            for frame in frames:
                if frame.kind == "denoise":
                    calls += 1
                texts[part[frame.row]] += frame.tokens[: frame.committed]
                tokens += room if behind and frame.committed else frame.committed
        if behind:
            for n in numbers:
                texts[n] = texts[n][1 : 1 + room]
    return [text[: item.room] for text, item in zip(texts, items, strict=True)], tokens / calls


def tasks(checkpoint: mz.Checkpoint, network: Denoiser, stock: Stock, count: int, banned: tuple[int, ...]) -> list[str]:
    rows, verdicts = [], []
    for name, (make, length) in TASKS.items():
        items = some(make, stock, count)

        def right(texts: list[list[int]], items: list[Item] = items) -> list[float]:
            decode = checkpoint.tokenizer.decode
            return [float(item.judge(decode(ids), ids)) for item, ids in zip(items, texts, strict=True)]

        theirs = right(ar(network, items, banned))
        low, high = wilson(int(sum(theirs)), len(theirs))
        rows.append([name, len(items), "ar", 1.0, mean(theirs), f"{low:.3f} to {high:.3f}"])
        curve: list[tuple[float, float]] = []
        compared: list[float] | None = None
        for rate in RATES:
            texts, done = canvases(checkpoint, network, items, length, rate, banned)
            if curve and done <= curve[-1][0]:
                continue
            ours = right(texts)
            curve.append((done, mean(ours)))
            low, high = wilson(int(sum(ours)), len(ours))
            rows.append([name, len(items), "canvas", done, mean(ours), f"{low:.3f} to {high:.3f}"])
            if rate <= AT:
                compared = [x - SHARE * y for x, y in zip(ours, theirs, strict=True)]
        assert compared is not None
        low, high = bootstrap(compared)
        under = area(curve)
        verdicts.append(
            [name, mean(theirs), "yes" if mean(theirs) >= ENOUGH else "no", f"{mean(compared):+.3f}",
             f"{low:+.3f} to {high:+.3f}", under, under / mean(theirs) if any(theirs) else math.nan]
        )  # fmt: skip
        print(f"{name} done", flush=True)
    return [
        "## Tasks", "",
        *report.table(["task", "items", "", "tokens a call", "right", "95% interval"], rows), "",
        f"Canvas at {AT:g} tokens a call (or the most that its holes allow) less {SHARE} of AR's score, paired; area: mean score "
        "over the logarithm of tokens a call.", "",
        *report.table(["task", "AR", "counts", "difference", "95% interval", "area", "of AR's"], verdicts), "",
    ]  # fmt: skip


def area(curve: Sequence[tuple[float, float]]) -> float:
    """Mean score over the logarithm of tokens a call, by trapezoids; the score itself where there is one point."""
    points = [(math.log(rate), score) for rate, score in curve]
    width = points[-1][0] - points[0][0]
    if not width:
        return points[0][1]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points)) / width


# -- corrections -------------------------------------------------------------------------------------------------------


def chat_prompts(checkpoint: mz.Checkpoint, count: int) -> list[str]:
    """Some of at most 150 tokens."""
    found = [text for text in chat_requests() if len(checkpoint.tokenizer.encode(text)) <= 150]
    return random.Random(0).sample(found, min(count, len(found)))


def corrections(
    checkpoint: mz.Checkpoint, network: Denoiser, stock: Stock, count: int, banned: tuple[int, ...]
) -> list[str]:  # fmt: skip
    ask = Prompts(checkpoint.tokenizer).ask
    kinds = {
        "chat": [list(ask(text)) for text in chat_prompts(checkpoint, count)],
        "code": [stock.tokenizer.encode(text)[:64] for text in stock.pool("code")[:count]],
    }
    rows = []
    for name, prompts in kinds.items():
        accepted = helped = 0
        texts: list[list[int]] = [[] for _ in prompts]
        changed: list[tuple[int, int, int, int]] = []  # row, place in its text, first token, last token
        sampler = Sampler(network, checkpoint.process, POLICIES["editing"](), banned)
        for begin in range(0, len(prompts), ROWS):
            part = prompts[begin : begin + ROWS]
            firsts: dict[tuple[int, int], int] = {}
            for frame in block_frames(sampler, network, part, 48, Draws.of(list(range(begin, begin + len(part))))):
                if frame.kind == "denoise":
                    for n, (token, status) in enumerate(zip(frame.tokens, frame.status, strict=True)):
                        if status in (ACCEPTED, OVERWRITTEN):
                            firsts.setdefault((frame.row, frame.start + n), token)
                elif frame.kind == "commit":
                    for n, token in enumerate(frame.tokens):
                        first = firsts.get((frame.row, frame.start + n))
                        accepted += first is not None
                        if first is not None and first != token:
                            changed.append((begin + frame.row, frame.start + n, first, token))
                    texts[begin + frame.row] += frame.tokens[: frame.committed]
        for begin in range(0, len(prompts), ROWS):
            whole = [p + t for p, t in zip(prompts[begin : begin + ROWS], texts[begin : begin + ROWS], strict=True)]
            tokens, valid = pad_rows(whole, 0)
            law = network.read(tokens, valid.sum(-1), network.new_cache(*tokens.shape), every=True).logits
            for row, place, first, last in changed:
                if begin <= row < begin + ROWS:
                    helped += bool(law[row - begin, place - 1, last] > law[row - begin, place - 1, first])
        overwritten = len(changed)
        low, high = wilson(helped, overwritten)
        rows.append([name, len(prompts), accepted, overwritten / max(accepted, 1), helped / max(overwritten, 1),
                     f"{low:.2f} to {high:.2f}", *told(texts)])  # fmt: skip
    head = [
        "prompts",
        "",
        "accepted",
        "overwritten later",
        "for a likelier token",
        "95% interval",
        "entropy",
        "repetition",
    ]
    return ["## Corrections", "", *report.table(head, rows), ""]


# -- answers -----------------------------------------------------------------------------------------------------------


def told(texts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Mean unigram entropy, nats, and mean share of 4-grams that stood before."""
    return mean(map(unigram_entropy, texts)), mean(map(repetition, texts))


def loops(ids: Sequence[int]) -> bool:
    """Does it end in a unit of at most 16 tokens, three times or more and over LOOP tokens?"""
    return any(
        len(ids) >= (n := max(LOOP, 3 * unit)) and all(ids[-k] == ids[-k - unit] for k in range(1, n - unit + 1))
        for unit in range(1, 17)
    )


def answers(engine: mz.Engine, count: int) -> list[str]:
    rows = []
    for kind, prompts in (("chat", chat_prompts(engine.checkpoint, count)), ("one word", list(SINGLE))):
        said: dict[str, list[list[int]]] = {}
        for way in ("ar", "verified", "diffusion"):
            replies = [engine.generate(mz.Request(p, decode=way, max_tokens=ANSWER))[0] for p in prompts]  # type: ignore[arg-type]  # a literal of the three
            said[way] = [engine.tokenizer.encode(reply.text) for reply in replies]
            empty = sum(not reply.text.strip() for reply in replies)
            equal = mean(a == b for a, b in zip(said[way], said["ar"], strict=True))
            rows.append([kind, len(prompts), way, empty, sum(map(loops, said[way])), *told(said[way]), equal])
            print(f"{kind}, {way} done", flush=True)
    head = ["prompts", "", "way", "empty", "loops", "entropy", "repetition", "as ar"]
    return [
        "## Answers", "", f"At most {ANSWER} tokens, compute {engine.compute}. A loop: it ends in a unit of at most 16 tokens, "
        f"three times or more and over {LOOP} tokens.", "", *report.table(head, rows), "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument(
        "--count", type=int, default=500, help="items of a task; corrections and answers take at most 100"
    )
    parser.add_argument("--only", default="tasks,corrections,answers")
    parser.add_argument("--compute", default="int8", help="of the answers; the rest is float32")
    args = parser.parse_args()
    if (data := data_folder()) is None:
        parser.error("the training folder is not there: MEZZOTINT_DATA names it")
    checkpoint, wanted = mz.load(args.model), args.only.split(",")
    stock, lines = Stock(checkpoint.tokenizer, texts=data), []
    banned = tuple(checkpoint.facts.control_ids.values())
    with torch.inference_mode():
        if {"tasks", "corrections"} & set(wanted):
            network = checkpoint.denoiser()
        if "tasks" in wanted:
            lines += tasks(checkpoint, network, stock, args.count, banned)
        if "corrections" in wanted:
            lines += corrections(checkpoint, network, stock, min(args.count, 100), banned)
    if "answers" in wanted:
        lines += answers(mz.Engine(checkpoint, compute=args.compute), min(args.count, 100))
    report.write("against-ar", "The default's canvas against AR", lines)


if __name__ == "__main__":
    main()

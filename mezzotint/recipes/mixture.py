"""What the default model is adapted on: free texts, answers, edits, code, tokenised into the folder that a kit packs.

    sets of the training folder     SETS: rows of a free licence, that share no 13 words with an evaluation, once each
    answers                         of the base itself, where `mezzotint data regenerate` has made some
    programmatic edits              `edits.py`, of texts that came through above; one in `NO_OP` asks for what is so already
    repair                          texts that were spoilt: tokens, spans, typos  ->  as they were

The same folder, seed and scale give the same bytes. Sources (files, problems, packages) are held out whole.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.recipes.edits import Edit, edits, no_op, say, typo
from mezzotint.train.canvases import Example
from mezzotint.train.data import COPYLEFT, Skipped, data_folder, document_of, find_evaluations, held_out, read_rows
from mezzotint.train.examples import Part, Record, write_examples
from mezzotint.train.overlap import Runs, evaluation_runs
from mezzotint.train.tokens import merged

HOLD_OUT = 0.04  # of the sources
SHORTEST = 16  # tokens of a piece of running text
PIECES = 8  # of one document
NO_OP = 12
SAME = 0.4  # of their tokens that two versions of a text share at least, to be an edit
POOL = 40_000  # clean texts that edits are made of
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Set:
    """A file of the training folder. kind: text, chat or edit. licence: of rows that do not name their own.

    most: examples taken. weight: how often an epoch holds them. keep: rows that may be used. pool: prose or code that edits
    are made of. alone: a row is a source of its own, since what the file names as one is all of it.
    """

    name: str
    kind: str
    licence: str
    most: int = 20_000
    weight: float = 1.0
    keep: Callable[[Row], bool] = lambda row: True
    pool: str = ""
    alone: bool = False


def _from(*sources: str) -> Callable[[Row], bool]:
    return lambda row: str(row.get("source", "")).startswith(sources)


# Of `data.PERMISSIVE` are left out: chatterbot (rude), codexglue (code on one line), the two npm sets whose answers are
# keywords and slogans, and exercism, which an evaluation is made of. Texts of synthetic-grammar-edits are of four licences,
# of which CC BY-SA is not ours to give on.
SETS = (
    Set("30seconds-js", "chat", "CC0-1.0"),
    Set("docs-corpus", "text", "PSF-2.0, MIT, Apache-2.0", 8_000, pool="prose"),
    Set("gsm8k-train", "chat", "MIT", 5_000, pool="prose", alone=True),
    Set("html-apps", "text", "Apache-2.0, MIT, CC0-1.0", 4_000),
    Set("js-functions", "chat", "MIT, ISC, BSD, Apache-2.0", pool="code"),
    Set("neetcode-code-explanation", "chat", "MIT"),
    Set("neetcode-code-from-description", "chat", "MIT", 5_000),
    Set("neetcode-parallel-code", "chat", "MIT"),
    Set("neetcode-parallel-solutions", "chat", "MIT"),
    Set("npm-readme-corpus", "text", "MIT, ISC, BSD, Apache-2.0", 8_000, pool="prose"),
    Set("python-docs-fr", "chat", "CC0-1.0, PSF-2.0", 4_000),
    Set("python-functions", "chat", "PSF-2.0, MIT, BSD, Apache-2.0", pool="code"),
    Set("seed-instructions", "chat", "Apache-2.0", keep=_from("yizhongw/"), alone=True),
    Set("t0-open-subset", "chat", "Apache-2.0, CC BY 4.0, MIT", 4_000, alone=True),
    Set("taskmaster4-coffee-dialogs", "chat", "CC BY 4.0", 600, alone=True),
    Set("thealgorithms-code-corpus", "text", "MIT", 5_000),
    Set("thealgorithms-parallel-code", "chat", "MIT"),
    Set("thealgorithms-python-functions", "chat", "MIT", pool="code"),
    Set("commit-edits", "edit", "Apache-2.0, MIT, CC0-1.0"),
    Set("commit-edits-markdown", "edit", "CC0-1.0, MIT"),
    Set("python2to3-functions", "edit", "PSF-2.0", 3_000),
    Set("ruff-lint-edits", "edit", "PSF-2.0, MIT, BSD, Apache-2.0", 16_000),
    Set("ruff-refactor-functions", "edit", "PSF-2.0, MIT, BSD, Apache-2.0"),
    Set("synthetic-grammar-edits", "edit", "PSF-2.0, MIT, BSD, ISC, Apache-2.0", 14_000,
        keep=_from("synthetic:python-docs-fr", "synthetic:npm-readme-corpus", "synthetic:gsm8k-train"), alone=True),
)  # fmt: skip
MADE = {"edits-prose": 20_000, "edits-code": 20_000, "edits-made": 10_000, "repair": 24_000}
REPAIR = "Fix the errors|Correct the mistakes|Repair this text|Something went wrong here: correct it|Restore the text"
LINT = "{a}|{a} in this code|In the code below: {a}|Improve this code: {a}|One change: {a}|Apply this lint fix: {a}"


def clean_pieces(text: str, pool: str) -> list[str]:
    """What of a text edits may be made of: paragraphs of prose, or a short function (pool `code`)."""
    if pool == "code":
        return [text.strip("\n")] if 60 <= len(text) <= 900 and text.count("\n") <= 30 else []
    some = [p.strip() for p in text.split("\n\n") if 40 <= len(p.strip()) <= 450]
    return [p for p in some if re.match(r"[A-Z]", p) and p[-1] in ".!?" and not re.search(r"[`{}|<>\[\]\n]", p)][:12]


# -- prompts -----------------------------------------------------------------------------------------------------------


class Prompts:
    """A user's request -> the ids before the answer. Rendering the template each time would cost more than all the rest."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.frame = self._frame() if tokenizer.chat_template is not None else None

    def _frame(self) -> tuple[list[int], str, str, list[int]] | None:
        """ids, text before and after the request, ids; None where the template does more than to put it between."""
        mark = "request-of-a-user"
        pieces = merged(self.tokenizer.chat_pieces([{"role": "user", "content": mark}], True))
        places = [i for i, piece in enumerate(pieces) if isinstance(piece, str) and mark in piece]
        if len(places) != 1:
            return None
        at = places[0]
        before, _, after = str(pieces[at]).partition(mark)
        ids = [[i for p in some for i in ([p] if isinstance(p, int) else self.tokenizer.encode(p))]
               for some in (pieces[:at], pieces[at + 1 :])]  # fmt: skip
        frame = ids[0], before, after, ids[1]
        probe = " \n two\nlines  "
        same = self._framed(frame, probe) == self.tokenizer.chat([{"role": "user", "content": probe}])
        return frame if same else None

    def _framed(self, frame: tuple[list[int], str, str, list[int]], request: str) -> list[int]:
        ids, before, after, rest = frame
        return [*ids, *self.tokenizer.encode(f"{before}{request}{after}"), *rest]

    def __call__(self, *turns: Mapping[str, str]) -> list[int]:
        """Raises ValueError for turns that the template refuses."""
        if self.frame is not None and len(turns) == 1 and turns[0]["role"] == "user":
            return self._framed(self.frame, turns[0]["content"])
        if self.tokenizer.chat_template is None:
            return self.tokenizer.encode("".join(f"{turn['content']}\n\n" for turn in turns))
        return self.tokenizer.chat(turns)

    def ask(self, request: str) -> list[int]:
        return self({"role": "user", "content": request})


# -- building ----------------------------------------------------------------------------------------------------------


@dataclass
class Builder:
    """What all sources of a build share. seen: digests of texts. pools: clean texts for edits, with their sources."""

    tokenizer: Tokenizer
    runs: Runs = field(default_factory=Runs)
    length: int = 512
    seed: int = 0
    scale: float = 1.0
    seen: set[bytes] = field(default_factory=set)
    pools: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {"prose": [], "code": []})

    def __post_init__(self) -> None:
        if self.length < 2 * SHORTEST or not self.scale > 0:
            raise ValueError(f"length {self.length} must be at least {2 * SHORTEST}, scale {self.scale} positive")
        self.prompts = Prompts(self.tokenizer)

    def draw(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")

    def part(self, of: Set, rows: Iterable[Row]) -> Part:
        """The examples of a set, rows in a drawn order."""
        skipped: Counter[str] = Counter()
        about = {"kind": of.kind, "licence": of.licence, "skipped": skipped}
        most = max(1, round(of.most * self.scale))
        order = list(rows)
        self.draw(f"order of {of.name}").shuffle(order)
        return Part(of.name, islice(self._records(of, order, skipped), most), of.weight, about)

    def _records(self, of: Set, rows: Iterable[Row], skipped: Counter[str]) -> Iterator[Record]:
        make = {"text": self._text, "chat": self._chat, "edit": self._edit}[of.kind]
        draw = self.draw(of.name)
        for row in rows:
            if not of.keep(row) or COPYLEFT.search(str(row.get("licence", ""))):
                skipped["of another licence or source"] += 1
                continue
            try:
                content = document_of(row, file=of.name).content
                reason = self._unusable(content)
                found = [] if reason else list(make(row, draw))
            except ValueError as error:
                reason, found = str(error), []
            if reason or not found:
                skipped[reason or "too long, too short or no edit"] += 1
                continue
            source = content if of.alone else str(row.get("source", of.name))
            if of.pool:
                self._keep_clean(of.pool, row, source)
            away = held_out(source, HOLD_OUT)
            yield from (record._replace(held_out=away) for record in found)

    def _unusable(self, content: str) -> str:
        digest = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if digest in self.seen:
            return "a repetition"
        self.seen.add(digest)
        return "shares words with an evaluation" if self.runs.overlaps(content) else ""

    def _keep_clean(self, pool: str, row: Row, source: str) -> None:
        """Paragraphs of prose, short functions."""
        text = str(row.get("text") or row.get("output"))
        some = clean_pieces(text, pool)
        room = POOL - len(self.pools[pool])
        self.pools[pool] += [(p, source) for p in some[:room]]

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _text(self, row: Row, draw: random.Random) -> Iterator[Record]:
        """Pieces of running text, some of the document's, blocks anywhere in them."""
        ids = self.tokenizer.encode(str(row.get("text") or row["output"]))
        starts = range(0, len(ids), self.length)
        for start in sorted(draw.sample(starts, min(PIECES, len(starts)))):
            if len(piece := ids[start : start + self.length]) >= SHORTEST:
                yield Record(Example([], piece, free=True))

    def _chat(self, row: Row, draw: random.Random) -> Iterator[Record]:
        """Every answer, after what was said before it."""
        turns = document_of(row).messages
        for at, turn in enumerate(turns):
            if turn["role"] == "assistant" and at and turn["content"].strip():
                context, text = self.prompts(*turns[:at]), self.tokenizer.encode(turn["content"])
                if len(context) + len(text) < self.length:
                    yield Record(Example(context, text, ends=not (row.get("cut") and at == len(turns) - 1)))

    def _edit(self, row: Row, draw: random.Random) -> Iterator[Record]:
        ask, before, after = (str(row.get(key) or "") for key in ("instruction", "input", "output"))
        if "rule" in row:
            ask = say(draw, LINT, a=ask.rstrip("."))
        if before.strip() and after.strip():
            yield from self.edit(ask, before, after, draw, answer=True)

    def edit(self, ask: str, before: str, after: str, draw: random.Random, answer: bool = False) -> Iterator[Record]:
        """The request, with the text in it every other time; the text as the draft. answer: learn it as one too."""
        draft, text = self.tokenizer.encode(before), self.tokenizer.encode(after)
        shared = sum((Counter(draft) & Counter(text)).values())
        if 2 * shared < SAME * (len(draft) + len(text)):
            return
        shown = draw.random() < 0.5
        context = self.prompts.ask(f"{ask}\n\n{before}" if shown else ask)
        if len(context) + max(len(text), len(draft)) < self.length:
            yield Record(Example(context, text, ends=answer and shown, draft=draft), answer=answer and shown)

    # -- made ----------------------------------------------------------------------------------------------------------

    def edits_part(self, name: str) -> Part:
        """Programmatic edits of prose, of code, or of texts that are made up with them."""
        kinds, most = name.removeprefix("edits-"), max(NO_OP, round(MADE[name] * self.scale))
        counts: Counter[str] = Counter()
        about = {
            "kind": "edit",
            "licence": "of the texts: as above" if kinds != "made" else "ours, Apache-2.0",
            "classes": counts,
        }

        def records() -> Iterator[Record]:
            draw, texts = self.draw(name), self.pools.get(kinds) or []
            if kinds != "made" and not texts:
                return
            source = [("", f"{name} {n}") for n in range(most)] if kinds == "made" else texts
            each = max(1, -(-most // len(source)))
            for where, edit in edits(draw.sample(source, len(source)), self.seed, kinds, each):
                away = held_out(where, HOLD_OUT)
                unchanged = no_op(edit) if draw.randrange(NO_OP) == 0 else None
                for one in (edit, unchanged):
                    for record in self._of_edit(one, draw) if one else ():
                        counts[one.kind if one else ""] += 1
                        yield record._replace(held_out=away)

        return Part(name, islice(records(), most), 1.0, about)

    def _of_edit(self, edit: Edit, draw: random.Random) -> Iterator[Record]:
        return self.edit(edit.instruction, edit.before, edit.after, draw)

    def repair_part(self) -> Part:
        """Clean texts, spoilt; half of them with a request."""
        most = max(1, round(MADE["repair"] * self.scale))

        def records() -> Iterator[Record]:
            draw = self.draw("repair")
            texts = [(text, source) for pool in self.pools.values() for text, source in pool]
            special = set(self.tokenizer.specials.values())
            support = [i for i in range(self.tokenizer.vocab_size) if i not in special]
            other: Sequence[int] = support
            for text, source in draw.sample(texts, len(texts)):
                ids = self.tokenizer.encode(text)[: self.length // 2]
                draft = spoilt(ids, text, self.tokenizer, support, other, draw)
                other = ids
                context = self.prompts.ask(say(draw, REPAIR)) if draw.random() < 0.5 else []
                if len(ids) >= SHORTEST and len(context) + max(len(ids), len(draft)) < self.length:
                    yield Record(Example(context, ids, draft=draft), held_out(source, HOLD_OUT))

        return Part("repair", islice(records(), most), 1.0, {"kind": "edit", "licence": "of the texts: as above"})


def spoilt(
    ids: Sequence[int], text: str, tokenizer: Tokenizer, support: Sequence[int], other: Sequence[int], draw: random.Random
) -> list[int]:  # fmt: skip
    """`ids` with 1% to 15% of it wrong; one in five by typos in `text`, which is what they spell, if all of it.

    other: ids of another text, which wrong ones are taken from as often as from `support`.
    """
    rate = draw.uniform(0.01, 0.15)
    if draw.random() < 0.2 and tokenizer.decode(ids) == text:
        words = re.split(r"([A-Za-z]{4,})", text)
        return tokenizer.encode(
            "".join(typo(w, draw) if i % 2 and draw.random() < rate else w for i, w in enumerate(words))
        )
    out = list(ids)
    for _ in range(max(1, round(rate * len(ids) / 2))):
        at, span = draw.randrange(len(out) + 1), min(8, 1 + int(draw.expovariate(0.7)))
        kind = draw.randrange(6)
        if kind <= 1:  # wrong tokens
            out[at : at + 1] = [draw.choice(draw.choice((support, other)))]
        elif kind == 2:
            del out[at : at + span]
        elif kind == 3:
            start = draw.randrange(len(other))
            out[at:at] = other[start : start + span]
        elif kind == 4:  # said twice
            out[at:at] = out[max(0, at - span) : at]
        else:  # neighbours swapped
            out[at : at + 2] = out[at : at + 2][::-1]
        if not out:
            return list(ids)
    return out


def build(
    out: str | Path, tokenizer: Tokenizer, length: int = 512, seed: int = 0, scale: float = 1.0,
    answers: Sequence[Path] = (), say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Write the folder; -> its manifest. scale: of the number of examples. answers: files of `data regenerate`, each a source.

    Raises ValueError where MEZZOTINT_DATA names no folder or a file for evaluation is asked for, FileExistsError, OSError.
    """
    folder = data_folder()
    if folder is None:
        raise ValueError("MEZZOTINT_DATA is not set; it names the folder of training text")
    here = [s for s in SETS if (folder / f"{s.name}.jsonl.zst").is_file()]
    evaluations = find_evaluations(["all"])
    builder = Builder(tokenizer, evaluation_runs(evaluations), length, seed, scale)
    say(f"{len(builder.runs):,} runs of words in {len(evaluations)} evaluations")

    def parts() -> Iterator[Part]:
        for path in answers:
            of = Set(path.name.split(".")[0], "chat", "the base's own answers, Apache-2.0", 10**9, 3.0)
            yield builder.part(of, read_rows(path, Skipped()))
        for of in here:
            yield builder.part(of, read_rows(folder / f"{of.name}.jsonl.zst", Skipped()))
            say(of.name)
        for name in MADE:
            yield builder.repair_part() if name == "repair" else builder.edits_part(name)
            say(name)

    about = {
        "seed": seed, "length": length, "scale": scale, "held_out_share": HOLD_OUT,
        "evaluations": sorted(path.name for path in evaluations), "evaluation_runs": len(builder.runs),
    }  # fmt: skip
    return write_examples(out, parts(), tokenizer, about, card)


def card(manifest: Mapping[str, Any]) -> str:
    """The manifest as Markdown: mixture, counts, licences."""
    sources = manifest["sources"]
    shares = {n: e["weight"] * e["learnt"] for n, e in sources.items()}
    total = sum(shares.values()) or 1
    lines = [
        "# What an adaptation learns", "",
        f"{sum(e['examples'] for e in sources.values()):,} examples, {sum(e['tokens'] for e in sources.values()):,} tokens; "
        f"seed {manifest['seed']}, at most {manifest['length']} tokens an example; "
        f"{manifest['held_out_share']:.0%} of the sources are held out. No text shares 13 words in a row with any of "
        f"{len(manifest['evaluations'])} evaluation files ({manifest['evaluation_runs']:,} runs of words).", "",
        "| source | kind | licence | weight | of an epoch | examples | edits | tokens | held out | left out |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    for name, e in sources.items():
        left = "; ".join(f"{count} {reason}" for reason, count in sorted(e.get("skipped", {}).items()))
        lines.append(
            f"| {name} | {e['kind']} | {e['licence']} | {e['weight']:g} | {shares[name] / total:.1%} | {e['examples']:,} | "
            f"{e['edits']:,} | {e['tokens']:,} | {e['held_out']:,} | {left} |"
        )
    classes = {name: e["classes"] for name, e in sources.items() if e.get("classes")}
    for name, counts in classes.items():
        lines += ["", f"{name}: " + ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) + "."]
    return "\n".join(lines)

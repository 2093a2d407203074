r"""Infilling: text with holes, all of them filled together, each place seeing what stands on both sides.

    The [[2]] sat on [[ ]].      [[7]] a hole of 7 tokens, [[ ]] a hole whose length is to be found
    The ░░░░ sat on ░░░░░░.      one canvas: the text between the holes is given, the holes are noise
    The old cat sat on its mat.  the given text is copied, character for character

* To write a marker itself, put a backslash before it: `\[[ ]]`. Backslashes count only there: `\\[[ ]]` is one, then a hole.
* Lengths that are not given are found from left to right. While one is searched, those not yet found stand at a middle
  length, and all the text is in view.
* A hole after a space takes the space into its first token (" cat" is one token in most vocabularies, " " and "cat" is
  what no training text was cut into), unless the vocabulary has no such tokens.
* A checkpoint of shift 1 speaks about the next position, so the canvas stands behind one start token that it has read.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.edit.ask import Report, silent
from mezzotint.edit.passages import start_id
from mezzotint.engine.engine import Engine
from mezzotint.model.denoiser import Denoiser
from mezzotint.sampler.canvas import ACCEPTED, OPEN, Canvas
from mezzotint.sampler.decoding import POLICIES, Decoding
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.trace import Frame, Trace
from mezzotint.shapes import Logits, Tokens, Where

_MARKER = re.compile(r"(\\*)(\[\[(?: +| *([0-9]+) *)\]\])")
DOUBTED = 0.5  # p of a draft's token below which it returns to noise
_POSITIONS = 1024  # of one forward while lengths are searched: its logits are that many vocabularies


@dataclass(frozen=True)
class Hole:
    """A filled hole: characters `start:end` of the result. length: its tokens; found: was that searched for?

    confidence: geometric mean of the probabilities its tokens had when they were last accepted.
    """

    start: int
    end: int
    text: str
    length: int
    found: bool
    confidence: float


@dataclass(frozen=True)
class Infilled:
    """The whole text, its holes in order, and every call."""

    text: str
    holes: list[Hole]
    trace: Trace

    @property
    def num_calls(self) -> int:
        """Calls of the network, one for every length tried included."""
        return self.trace.num_calls

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "holes": [asdict(hole) for hole in self.holes], "calls": self.num_calls}


def split_holes(text: str) -> tuple[list[str], list[int | None]]:
    """The given pieces around the holes, escapes resolved, and each hole's length (None: to be found).

    Raises ValueError for text without a hole and for a hole of no tokens.
    """
    pieces, lengths, last = [""], list[int | None](), 0
    for match in _MARKER.finditer(text):
        slashes, marker, number = match.groups()
        pieces[-1] += text[last : match.start()] + "\\" * (len(slashes) // 2)
        last = match.end()
        if len(slashes) % 2:
            pieces[-1] += marker
            continue
        if number and int(number) < 1:
            raise ValueError(f"the hole {marker} has no tokens; give it at least 1, or [[ ]] to have its length found")
        lengths.append(int(number) if number else None)
        pieces.append("")
    pieces[-1] += text[last:]
    if not lengths:
        raise ValueError("the text has no hole; write [[ ]] for one of any length, [[7]] for one of 7 tokens")
    return pieces, lengths


def literal(text: str, before_hole: bool = False) -> str:
    """`text` written so that it holds no hole; before_hole: a hole's marker follows it."""
    escaped = _MARKER.sub(lambda match: f"{match[1]}{match[1]}\\{match[2]}", text)
    return escaped + "\\" * (len(text) - len(text.rstrip("\\"))) * before_hole


@dataclass(frozen=True)
class _Spaced:
    """A denoiser that predicts only tokens beginning with a space at `where` `[B, C]`; spaced bool `[V]`."""

    denoiser: Denoiser
    where: Where
    spaced: Tensor

    def denoise(self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any) -> Logits:
        return self._spaced(self.denoiser.denoise(tokens, positions, valid, cache))

    def denoise_with_shadow(
        self, tokens: Tokens, positions: Tensor, valid: Where, cache: Any, masks: Tokens
    ) -> tuple[Logits, Logits]:
        """The same for policies that ask for shadows (WINO)."""
        logits, shadow = self.denoiser.denoise_with_shadow(tokens, positions, valid, cache, masks)
        return self._spaced(logits), self._spaced(shadow)

    def _spaced(self, logits: Logits) -> Logits:
        logits[self.where] = logits[self.where].masked_fill(~self.spaced, -torch.inf)
        return logits


class Look(NamedTuple):
    """What one call says of a hole of some length, in nats: hole `[n, V]`, log-probabilities of its places; right `[w]`,
    those of the given tokens next to it that the call did not see."""

    hole: Tensor
    right: Tensor


@dataclass
class Blanks:
    """A text with holes as ids, for a length finder to ask about. `lengths`: what the holes have now, in tokens.

    given: ids of the pieces around the holes; spaced: which holes begin with the space before them. report: called
    around every forward, and may raise to end the work.
    """

    engine: Engine
    decoding: Decoding
    draws: Draws
    given: list[list[int]]
    spaced: list[bool]
    lengths: list[int]
    spaces: Tensor  # bool [V]: ids that begin with a space
    banned: tuple[int, ...]
    trace: Trace
    report: Report = silent
    _block: int = field(default=0, init=False)
    _began: float = field(default_factory=time.perf_counter, init=False)

    @property
    def start(self) -> int:
        """Position of the text's first token."""
        return self.engine.denoiser.shift

    @property
    def room(self) -> int:
        """Tokens that the holes may have together."""
        return self.engine.denoiser.config.max_length - self.start - sum(map(len, self.given))

    def blank(self, rows: Sequence[Sequence[int]], hidden: Sequence[Sequence[int]] = ()) -> tuple[Canvas, Tensor]:
        """A canvas row for every list of hole lengths, the holes all noise; and each place's hole, -1 elsewhere.

        hidden: for every row, further places that are noise.
        """
        ids: list[list[int]] = []
        holes: list[list[int]] = []
        for lengths in rows:
            row, owner = list(self.given[0]), [-1] * len(self.given[0])
            for number, length in enumerate(lengths):
                after = self.given[number + 1]
                row += [-1] * length + after
                owner += [number] * length + [-1] * len(after)
            ids.append(row)
            holes.append(owner)
        for row, places in zip(ids, hidden, strict=False):
            for place in places:
                row[place] = -1
        width = max(map(len, ids))
        forced = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        starts = torch.full((len(rows),), self.start)
        canvas = Canvas.blank(self.engine.checkpoint.process, starts, width, self._draws(len(rows)), forced)
        canvas.valid = torch.arange(width) < torch.tensor([[len(row)] for row in ids])
        return canvas, torch.tensor([owner + [-1] * (width - len(owner)) for owner in holes])

    def look(self, rows: Sequence[Sequence[int]], hole: int, window: int = 0) -> list[Look]:
        """One call for every list of hole lengths, all holes noise: what it says of hole number `hole` and beside it.

        window: so many given tokens right of the hole (or as many as there are) are noise as well.
        """
        after = [token for piece in self.given[hole + 1 :] for token in piece][:window]
        hidden = [self._right_of(lengths, hole)[: len(after)] for lengths in rows]
        self.report("measuring", hole, len(self.lengths))
        canvas, holes = self.blank(rows, hidden)
        logits = self._denoiser(holes).denoise(canvas.tokens, canvas.positions, canvas.valid, self._cache(canvas))
        logits[..., list(self.banned)] = -torch.inf
        looks = []
        for i in range(len(rows)):
            self._record(canvas, i, i)
            right = logits[i, hidden[i]].log_softmax(-1)
            told = right.gather(-1, torch.tensor(after, dtype=torch.int64)[:, None])[:, 0]
            looks.append(Look(logits[i, holes[i] == hole].log_softmax(-1), told))
        return looks

    def _right_of(self, lengths: Sequence[int], hole: int) -> list[int]:
        """Indices of the given tokens right of a hole."""
        places: list[int] = []
        at = len(self.given[0])
        for number, length in enumerate(lengths):
            at += length
            if number >= hole:
                places += range(at, at + len(self.given[number + 1]))
            at += len(self.given[number + 1])
        return places

    def next_block(self) -> None:
        """Number the coming frames as another piece of work."""
        self._block += 1

    def fill(self) -> tuple[list[int], Tensor, Tensor]:
        """Decode all holes together: the ids of the text, the hole of each, and its confidence float64 `[C]`."""
        canvas, holes = self._filled([self.lengths], ())
        tokens = canvas.tokens[0].tolist()
        status = [ACCEPTED if s == OPEN else s for s in canvas.status[0].tolist()]
        self.trace.add(Frame("commit", 0, self._block, 0, self.start, tokens, status, len(tokens), 0, 0))
        return tokens, holes[0], canvas.confidence[0]

    def fill_each(
        self, rows: Sequence[Sequence[int]], drafts: Sequence[Sequence[int] | None] = ()
    ) -> list[list[tuple[list[int], float]]]:
        """Decode several choices of lengths, rows of the same calls: of every hole its ids and their confidence.

        drafts: of some rows, the ids that their holes start with, left to right. One call asks the network what it doubts of
        them; only that is noise. Of use to weights that doubt what they see (`repair.py`). confidence: as in `Hole`.
        """
        canvas, holes = self._filled(rows, drafts)
        found = []
        for row, lengths in enumerate(rows):
            inside = [(holes[row] == number).nonzero()[:, 0] for number in range(len(lengths))]
            sure = canvas.confidence[row].clamp(min=1e-300).log()
            found.append([(canvas.tokens[row, places].tolist(), float(sure[places].mean().exp())) for places in inside])
        return found

    def _filled(
        self, rows: Sequence[Sequence[int]], drafts: Sequence[Sequence[int] | None]
    ) -> tuple[Canvas, Tensor]:  # fmt: skip
        canvas, holes = self.blank(rows)
        total = max(map(sum, rows))
        # steps as many a place as in a canvas of the policy's own length: a schedule keeps its pace in a long text
        steps = max(self.decoding.num_steps, math.ceil(self.decoding.num_steps * total / self.decoding.canvas_length))
        decoding = replace(self.decoding, num_steps=steps)
        denoiser, cache = self._denoiser(holes), self._cache(canvas)
        if any(drafts):
            self._start_from(canvas, holes, drafts, denoiser, cache)
        sampler = Sampler(denoiser, self.engine.checkpoint.process, decoding, self.banned)
        for step in sampler.steps(canvas, cache, self._draws(len(rows))):
            for row in step.running.nonzero()[:, 0].tolist():
                self._record(canvas, row, step.number, step.positions)
            self.report("filling", step.number + 1, steps)
        return canvas, holes

    def _start_from(
        self, canvas: Canvas, holes: Tensor, drafts: Sequence[Sequence[int] | None], denoiser: _Spaced, cache: Any
    ) -> None:
        """Put drafts into their rows' holes, and return to noise what the network doubts of them."""
        given = torch.zeros_like(canvas.tokens, dtype=torch.bool)
        for row, ids in enumerate(drafts):
            if ids:
                given[row] = holes[row] >= 0
                canvas.tokens[row, given[row]] = torch.tensor(ids)
        canvas.status[given] = ACCEPTED
        self.report("reading the draft", 0, 1)
        logits = denoiser.denoise(canvas.tokens, canvas.positions, canvas.valid, cache).to(torch.float64)
        logits[..., list(self.banned)] = -torch.inf
        current = logits.softmax(-1).gather(-1, canvas.tokens[..., None])[..., 0]
        for row in given.any(-1).nonzero()[:, 0].tolist():
            self._record(canvas, row, 0)
        canvas.confidence = torch.where(given, current, canvas.confidence)
        doubtful = given & (current < DOUBTED)
        noise = self.engine.checkpoint.process.prior(
            canvas.tokens.shape, self._draws(len(canvas.tokens)), canvas.positions
        )
        canvas.tokens = torch.where(doubtful, noise, canvas.tokens)
        canvas.status[doubtful] = OPEN

    def _denoiser(self, holes: Tensor) -> _Spaced:
        first = (holes >= 0) & (holes != torch.nn.functional.pad(holes, (1, 0), value=-1)[:, :-1])
        opens = torch.tensor(self.spaced)[holes.clamp(min=0)]
        return _Spaced(self.engine.denoiser, first & opens, self.spaces)

    def _cache(self, canvas: Canvas) -> Any:
        count, width = canvas.tokens.shape
        passes = 2 if "shadow" in self.decoding.needs else 1  # canvas and shadows share the scratch
        cache = self.engine.denoiser.new_cache(count, self.start + passes * width)
        if self.start:
            self.engine.denoiser.read(
                torch.full((count, 1), start_id(self.engine)), torch.ones(count, dtype=torch.int64), cache
            )
        return cache

    def _draws(self, count: int) -> Draws:
        return self.draws.rows(torch.zeros(count, dtype=torch.int64))  # every row the same numbers

    def _record(self, canvas: Canvas, row: int, step: int, positions: int | None = None) -> None:
        valid = canvas.valid[row]
        tokens, status = canvas.tokens[row, valid].tolist(), canvas.status[row, valid].tolist()
        seconds = round(time.perf_counter() - self._began, 4)
        self.trace.add(
            Frame("denoise", 0, self._block, step, self.start, tokens, status, 0, 1, positions or len(tokens), seconds)
        )


LengthFinder = Callable[[Blanks, int], int]  # (the text as it stands, number of the hole) -> its length in tokens


def fit(look: Look) -> float:
    """What a length is worth: how well the text right of the hole stands where that length puts it, in nats.

    By Bayes' rule, with every length as likely before, p(length | text) grows as p(tokens right of the hole | the rest,
    length). One call has them all as noise at once and takes them as independent. Where nothing stands on the right there
    is nothing to fit, and `certainty` decides.
    """
    return float(look.right.sum()) if len(look.right) else certainty(look)


def certainty(look: Look) -> float:
    """Another: mean of log max p over the hole, nats a token: how sure the network is of the likeliest fill.

    The sum is that fill's log-probability with places taken as independent, which falls with every token added; its mean
    is beam search's length normalisation (Wu et al., arXiv 1609.08144, exponent 1). It leans to short holes (docs/log.md).
    """
    return float(look.hole.max(-1).values.mean())


def search(max_length: int = 16, score: Callable[[Look], float] = fit, window: int = 8) -> LengthFinder:
    """Try every length from 1 to `max_length` (or as many as the context holds): one call each, the best score wins.

    window: given tokens right of the hole that the call does not see, for `fit`. Of equal scores the shorter wins.
    """
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}; it must be at least 1 token")
    if window < 0:
        raise ValueError(f"window is {window}; it must be at least 0 tokens")

    def find(blanks: Blanks, hole: int) -> int:
        others = sum(blanks.lengths) - blanks.lengths[hole]
        most = min(max_length, blanks.room - others)
        rows = [[*blanks.lengths[:hole], n, *blanks.lengths[hole + 1 :]] for n in range(1, most + 1)]
        together = max(1, _POSITIONS // (sum(map(len, blanks.given)) + others + most))
        scores: list[float] = []
        for first in range(0, len(rows), together):
            scores += map(score, blanks.look(rows[first : first + together], hole, window))
        return 1 + max(range(len(scores)), key=scores.__getitem__)

    return find


def infill(
    engine: Engine,
    text: str,
    policy: str | Decoding = "threshold",
    *,
    seed: int = 0,
    temperature: float = 0.0,
    max_length: int = 16,
    find_length: LengthFinder | None = None,
    report: Report = silent,
) -> Infilled:
    """Fill the holes of `text` (see above for how they are written) with the checkpoint's own noise under a policy.

    max_length: longest hole looked for where no length is given; find_length: another way of finding it. Raises
    ValueError for text without a hole, an unknown policy, values out of range, or a text that exceeds the context.
    """
    pieces, wanted = split_holes(text)
    engine.must_read()
    if isinstance(policy, str) and policy not in POLICIES:
        raise ValueError(f"unknown policy {policy!r}; known: {', '.join(POLICIES)}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed is {seed}; it must be a 64-bit integer")
    decoding = POLICIES[policy]() if isinstance(policy, str) else policy
    if temperature:
        decoding = replace(decoding, temperature=temperature)
    finder = find_length or search(max_length)
    blanks = blanks_of(engine, pieces, wanted, decoding, seed, (max_length + 1) // 2)
    blanks.report = report
    blanks.trace.header |= {
        "model": engine.checkpoint.name, "prompt": text, "decode": "infill", "seed": seed, "temperature": temperature,
        "policy": policy if isinstance(policy, str) else repr(policy),
    }  # fmt: skip
    with torch.inference_mode():
        for number, length in enumerate(wanted):
            if length is None:
                blanks.lengths[number] = finder(blanks, number)
                blanks.next_block()
        ids, owner, confidence = blanks.fill()
    result, holes = pieces[0], []
    for number, length in enumerate(blanks.lengths):
        inside = (owner == number).nonzero()[:, 0]
        raw = engine.tokenizer.decode_bytes([ids[i] for i in inside.tolist()])
        fill = raw[1 if blanks.spaced[number] else 0 :].decode("utf-8", "replace")
        sure = float(confidence[inside].clamp(min=1e-300).log().mean().exp())
        holes.append(Hole(len(result), len(result) + len(fill), fill, length, wanted[number] is None, sure))
        result += fill + pieces[number + 1]
    return Infilled(result, holes, blanks.trace)


def blanks_of(
    engine: Engine, pieces: list[str], wanted: list[int | None], decoding: Decoding, seed: int, middle: int
) -> Blanks:
    """The holes between `pieces`, of the `wanted` lengths; None is to be found, and `middle` until then.

    Raises ValueError for a text that exceeds the context.
    """
    tokenizer, size = engine.tokenizer, engine.checkpoint.config.vocab_size
    special = set(tokenizer.specials.values())
    plain = [i for i in range(min(size, tokenizer.vocab_size)) if i not in special]
    spelled = {i: tokenizer.token_bytes(i) for i in plain}
    begins = [i for i, spelling in spelled.items() if spelling.startswith(b" ")]
    words = any(spelled[i][1:2].isalpha() for i in begins)
    spaces = torch.zeros(size, dtype=torch.bool)
    spaces[begins] = True
    spaced = [words and piece.endswith(" ") for piece in pieces[:-1]]
    given = [
        tokenizer.encode(piece[:-1] if cut else piece) for piece, cut in zip(pieces, [*spaced, False], strict=True)
    ]
    banned = tuple(sorted(set(range(size)) - set(plain)))
    lengths = [middle if length is None else length for length in wanted]
    blanks = Blanks(engine, decoding, Draws.of(seed), given, spaced, lengths, spaces, banned, Trace())
    least = sum(1 if length is None else length for length in wanted)
    if least > blanks.room:
        raise ValueError(
            f"the text has {sum(map(len, given))} tokens and its holes at least {least}: together more than the "
            f"{engine.denoiser.config.max_length} of this model's context; shorten one of them"
        )
    for number, length in enumerate(wanted):  # middle lengths give way where the context is short
        if length is None:
            blanks.lengths[number] = max(1, min(middle, middle - (sum(blanks.lengths) - blanks.room)))
    return blanks

"""Completion: what stands between the text left and right of a cursor.

    def area(w, h):
        return |
    print(area(2, 3))      the text on the right is read too: it says where the missing part ends

canvas    weights that have learnt to denoise, with text on the right: canvases of several lengths in one call, the lengths
          after which that text stands best are filled together, the surest is kept
causal    others, and the end of a text: written left to right with drafts checked, then cut where the text on the right stands
          best (several cuts in one call). What was read of the text on the left is kept for the next key.

Warm start: what is left of the suggestion before this one is the draft of either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.draws import Draws
from mezzotint.edit.ask import Report, silent
from mezzotint.edit.infill import Blanks, blanks_of, fit
from mezzotint.edit.repair import can_repair
from mezzotint.engine.engine import Engine
from mezzotint.live.document import Place
from mezzotint.live.heard import BACK, Healing, Spelled, taken_back
from mezzotint.model.visibility import CLEAN, Places, branches
from mezzotint.sampler.canvas import Canvas
from mezzotint.sampler.decoding import POLICIES
from mezzotint.sampler.verify import Drafter, GivenText, PreviousIterate, Verified

LENGTHS = (1, 2, 4, 6, 8, 12, 16, 24)  # tokens of the canvases; the last is the most that is written
USUAL = 8  # tokens that are missing on average: lengths are as likely as a geometric law of that mean says
TOGETHER = 2  # lengths that are filled
LEFT, RIGHT = 512, 96  # tokens read of the text on either side
CUTS = 4  # of a line that was written left to right, looked at in one call
FITTED = 6  # tokens on the right that say where to cut
SPARE = 128  # places of the cache behind the left side
STRIDE = 128  # tokens by which the start of the left side moves on
DRAFTED, GUESSED = 8, 3  # tokens checked a call: of a suggestion, of what was said before


@dataclass(frozen=True)
class Suggestion:
    """confidence: geometric mean of the probabilities of its tokens. way: canvas or causal; calls: what it cost."""

    text: str
    confidence: float
    way: str
    calls: int


@dataclass
class Behind(Blanks):
    """Blanks whose first piece has been read: `held` has its keys and values, and the canvas holds only what comes after."""

    held: Any = None

    @property
    def start(self) -> int:
        return int(self.held.lengths[0])

    def _cache(self, canvas: Canvas) -> Any:
        count, width = canvas.tokens.shape
        passes = 2 if "shadow" in self.decoding.needs else 1
        return self.held.fork([0] * count, capacity=self.start + passes * width)


@dataclass
class _Written:
    """What was written left to right. due: bytes that its first ids spell again. laws: logits `[V]`, one for each id and perhaps
    for some that followed the last."""

    tokenizer: Tokenizer
    due: bytes
    ids: list[int] = field(default_factory=list)
    laws: list[Tensor] = field(default_factory=list)
    calls: int = 0

    def said(self, at: int, token: int) -> float:
        """log p of a token behind the first `at` ids, in nats."""
        return float(self.laws[at].float().log_softmax(-1)[token])

    def text(self, count: int | None = None) -> str:
        """What the first ids, or all, say behind what was due."""
        spelled = self.tokenizer.decode_bytes(self.ids[:count])[len(self.due) :]
        return spelled.decode("utf-8", "replace").rstrip("\ufffd")

    def behind(self) -> int:
        """How many ids say something behind what was due."""
        spelled = itertools.accumulate(len(self.tokenizer.token_bytes(id)) for id in self.ids)
        return sum(total > len(self.due) for total in spelled)


class Completer:
    """An engine, and what it has read last of a text on the left."""

    def __init__(self, engine: Engine) -> None:
        engine.must_read()
        self.engine = engine
        self._cache: Any = None
        self._read: list[int] = []
        self._spelled = Spelled(engine.tokenizer)

    def way(self, place: Place) -> str:
        """canvas or causal."""
        if self.engine.denoiser.reader is not None:
            return "canvas"
        return "canvas" if self.engine.canvas_leads and place.right.strip() else "causal"

    def complete(
        self, place: Place, *, draft: str = "", one_line: bool = True, lengths: Sequence[int] = LENGTHS, seed: int = 0,
        report: Report = silent,
    ) -> Suggestion | None:  # fmt: skip
        """The suggestion; None where there is none. draft: what is expected. one_line: it ends at the end of a line.

        report is called between steps, and may raise to end the work. Raises ValueError for lengths below 1.
        """
        if not lengths or min(lengths) < 1:
            raise ValueError(f"lengths are {list(lengths)}; they must be at least 1 token")
        if not (place.left + place.right).strip():
            return None
        with torch.inference_mode():
            made = (self._canvas if self.way(place) == "canvas" else self._causal)(
                place, draft, one_line, sorted(set(lengths)), seed, report
            )
        return made if made is not None and made.text.strip() else None

    def _side(self, text: str, most: int, first: bool) -> str:
        """At most `most` tokens of a text, from its start or its end; of an end that grows, so that its start stays a while."""
        tokenizer = self.engine.tokenizer
        ids = tokenizer.encode(text)
        if len(ids) <= most:
            return text
        over = -(-(len(ids) - most) // STRIDE) * STRIDE if most > 2 * STRIDE else len(ids) - most
        cut = tokenizer.decode(ids[:most] if first else ids[over:], skip_special=False).strip("\ufffd")
        return text[: len(cut)] if first else text[len(text) - len(cut) :]

    def _sides(self, place: Place, room: int) -> Place:
        """As much of a place as `room` tokens hold."""
        right = self._side(place.right, min(RIGHT, room // 4), True)
        return Place(self._side(place.left, max(1, min(LEFT, room - min(RIGHT, room // 4))), False), right)

    # -- a canvas --------------------------------------------------------------------------------------------------

    def _canvas(
        self, place: Place, draft: str, one_line: bool, lengths: Sequence[int], seed: int, report: Report
    ) -> Suggestion | None:
        most = self.engine.denoiser.config.max_length - self.engine.denoiser.shift - 8  # cutting may add a token
        lengths = [length for length in lengths if length <= most // 4]
        place = self._sides(place, most - lengths[-1])
        blanks = blanks_of(self.engine, list(place), [None], POLICIES["threshold"](), seed, lengths[0])
        left = blanks.given[0] or list(self.engine.tokenizer.eos_ids[:1])
        if left and self.engine.denoiser.reader is None:
            self._hold(left, report)
            told = {name.name: getattr(blanks, name.name) for name in fields(blanks) if name.init}
            blanks = Behind(**told | {"given": [[], blanks.given[1]]}, held=self._cache)
        blanks.report = report
        lengths = [length for length in lengths if length <= blanks.room]
        if not lengths:
            return None
        looks = blanks.look([[length] for length in lengths], 0, window=8)
        ranked = sorted(
            zip(map(fit, looks), lengths, strict=True), key=lambda pair: (_long(pair[1]) - pair[0], pair[1])
        )
        rows: list[list[int]] = [[length] for _, length in ranked[:TOGETHER]]
        drafts: list[list[int] | None] = [None] * len(rows)
        warm = self._draft(blanks, draft)
        if warm:
            rows, drafts = [*rows, [len(warm)]], [*drafts, warm]
        filled = [hole for (hole,) in blanks.fill_each(rows, drafts)]
        ids, sure = max(filled, key=lambda hole: hole[1])
        raw = self.engine.tokenizer.decode_bytes(ids)
        text = raw[1 if blanks.spaced[0] else 0 :].decode("utf-8", "replace").replace("\ufffd", "")
        if one_line and place.right.startswith("\n"):
            text = text.partition("\n")[0]
        return Suggestion(text, sure, "canvas", blanks.trace.num_calls)

    def _draft(self, blanks: Blanks, draft: str) -> list[int] | None:
        if not draft or not can_repair(self.engine):
            return None
        ids = self.engine.tokenizer.encode(" " + draft if blanks.spaced[0] else draft)
        return ids if 0 < len(ids) <= blanks.room else None

    # -- left to right ---------------------------------------------------------------------------------------------

    def _causal(
        self, place: Place, draft: str, one_line: bool, lengths: Sequence[int], seed: int, report: Report
    ) -> Suggestion | None:
        room = SPARE - CUTS * FITTED - DRAFTED - BACK - 2
        most = max(1, min(lengths[-1], self.engine.denoiser.config.max_length // 4, room))
        place = self._sides(place, self.engine.denoiser.config.max_length - most - BACK - DRAFTED - FITTED - 8)
        tokenizer = self.engine.tokenizer
        prompt, due = tokenizer.encode(place.left), b""
        if len(prompt) > 1 or tokenizer.eos_ids:
            back = taken_back(tokenizer, prompt)
            due = b"".join(map(tokenizer.token_bytes, prompt[len(prompt) - back :]))
            prompt = prompt[: len(prompt) - back] or list(tokenizer.eos_ids[:1])
        if not prompt:
            return None
        self._hold(prompt[:-1], report)
        try:
            written = self._write(prompt, due, draft, one_line, most, seed, report)
            if not written.text():
                return None
            count, calls = len(written.ids), written.calls
            if place.right.strip():
                count, calls = self._cut(prompt, written, place.right), calls + 1
        finally:
            self._cache.truncate([len(prompt) - 1])
        text = written.text(count)
        if one_line:
            text = text.partition("\n")[0] if text.lstrip("\n") == text else text
        sure = math.exp(sum(written.said(n, token) for n, token in enumerate(written.ids[:count])) / count)
        return Suggestion(text, sure, "causal", calls)

    def _hold(self, ids: list[int], report: Report) -> None:
        """Have the cache hold exactly these; what it holds already is not read again."""
        if self._cache is None or self._cache.capacity < len(ids) + SPARE:
            self._read = []
            self._cache = self.engine.denoiser.new_cache(1, max(LEFT, len(ids)) + SPARE)
        same = next((n for n, (a, b) in enumerate(zip(self._read, ids, strict=False)) if a != b), None)
        same = min(len(self._read), len(ids)) if same is None else same
        self._cache.truncate([same])
        self._read = self._read[:same]
        for first in range(same, len(ids), STRIDE):
            report("reading", first, len(ids))
            part = ids[first : first + STRIDE]
            self.engine.denoiser.read(torch.tensor([part]), torch.tensor([len(part)]), self._cache)
            self._read = ids[: first + len(part)]

    def _write(
        self, prompt: list[int], due: bytes, draft: str, one_line: bool, most: int, seed: int, report: Report
    ) -> _Written:
        """Ids that spell `due`, up to the end of the line or of the text behind it. The cache holds all of them but the last."""
        engine, written = self.engine, _Written(self.engine.tokenizer, due)
        drafted = engine.tokenizer.encode(due.decode("utf-8", "ignore") + draft) if draft else []
        drafter: Drafter | None = None
        if drafted:
            drafter = GivenText(drafted, [len(prompt)], careful=not engine.denoiser.wide_calls_pay)
        elif engine.denoiser.wide_calls_pay:
            drafter = PreviousIterate(engine.denoiser.config.vocab_size)
        banned = tuple(set(engine.tokenizer.specials.values()) - engine.stop_ids)
        length = 0 if drafter is None else DRAFTED if drafted else GUESSED
        heard = Healing(engine.denoiser, self._spelled, due)
        loop = Verified(heard, drafter, length, stop_ids=engine.stop_ids, banned=banned)
        ids = written.ids
        for frame in loop.frames([prompt], most + BACK, Draws.of(seed), cache=self._cache):
            new = frame.tokens[: frame.committed]
            assert heard.logits is not None
            heard.wrote(new)
            written.calls += frame.calls
            written.laws += heard.logits[0, : len(new)]
            ids += new
            report("writing", len(ids), most)
            if (one_line and "\n" in written.text().lstrip("\n")) or written.behind() >= most:
                break
        while ids and (ids[-1] in engine.stop_ids or written.behind() > most):
            ids.pop()
        if one_line:
            while ids and "\n" in written.text(len(ids) - 1).lstrip("\n"):
                ids.pop()
        self._cache.truncate([len(prompt) + max(len(ids) - 1, 0)])
        return written

    def _cut(self, prompt: list[int], written: _Written, right: str) -> int:
        """How many of the written ids the text on the right stands best behind, by one call over its beginning.

        By Bayes' rule: p(length | text) grows as p(length) p(the right | the rest, length). Writing has told what its first
        token is worth at each place; the best of them are looked at, side by side.
        """
        after = self.engine.tokenizer.encode(right)[:FITTED]
        whole = len(written.ids)
        soon = sorted(self._ends(written), key=lambda cut: _long(cut) - written.said(cut, after[0]))
        cuts = [*soon[: CUTS - 1], whole]
        tokens = torch.tensor([[written.ids[cut - 1], *after[:-1]] for cut in cuts])
        first = len(prompt) - 1 + torch.tensor(cuts)[:, None]
        positions = (first + torch.arange(len(after))).view(1, -1)
        starts = (-1 - first).expand(-1, len(after)).reshape(1, -1)
        places = Places.of(positions, torch.full_like(positions, CLEAN), starts)
        said = self.engine.denoiser(tokens.view(1, -1), places, branches(), self._cache).logits
        laws = said.view(*tokens.shape, -1).log_softmax(-1)
        worth = laws.gather(-1, torch.tensor(after).expand(len(cuts), -1)[..., None]).sum((1, 2)).tolist()
        return max(zip(worth, cuts, strict=True), key=lambda pair: (pair[0] - _long(pair[1]), -pair[1]))[1]

    def _ends(self, written: _Written) -> list[int]:
        """Where a word of what was written ends, the end left out."""
        bytes_of, ids = self.engine.tokenizer.token_bytes, written.ids
        inside = [bytes_of(a)[-1:].isalnum() and bytes_of(b)[:1].isalnum() for a, b in itertools.pairwise(ids)]
        return [n for n, within in enumerate(inside, 1) if not within and written.text(n)]


def _long(length: int) -> float:
    """-log of how likely a length is before anything is read, up to a constant, nats."""
    return -length * math.log(1 - 1 / USUAL)

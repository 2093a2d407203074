"""Live translation: every update of a source that keeps growing, or changes its mind, is translated again from the last draft.

    source   I have seen            source   I have seen the sea
    draft    J'ai vu                read again  J'ai vu   one call keeps all of the last draft that still holds
                                    write on            la mer
    committed J'ai | draft  vu la mer      (`captions.py`)

causal   any checkpoint that follows instructions: lossless `verified` decoding behind the committed text, with the last draft as
         its draft. The translation is what AR would write; an update takes a call or two where little has changed.
canvas   weights that have learnt to denoise, where the last draft breaks off: one canvas call looks at what is left of it, keeps
         what it does not doubt and writes the rest anew; the causal pass judges that as any other draft.

Keys and values of what was read stay from update to update, up to where the source changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from mezzotint.draws import Draws
from mezzotint.edit.ask import Report, silent
from mezzotint.engine.engine import Engine
from mezzotint.engine.overtime import Overtime
from mezzotint.live.captions import MOST, RULES, Captions, Draft, Limit, Rule, words_of
from mezzotint.live.heard import Heard
from mezzotint.sampler.verify import Drafted, GivenText, Verified
from mezzotint.shapes import Tokens

DRAFTED = 64  # tokens of the last draft checked in one call
RESUMED = 8  # once a draft was wrong somewhere
PATIENCE = 2  # drafts of a canvas in vain
DOUBTED = 0.5  # p of a draft's token below which a canvas writes another
ENDS = (".", "!", "?", "\u2026", "\u3002", "\uff01", "\uff1f", "...", ":", ";")  # of a sentence
SPARE = 16  # tokens that a translation may have over twice its source
LONGEST = 64  # characters of a language's name


@dataclass(frozen=True)
class Live:
    """How a source is followed. rule: agreement (the last `n` drafts begin alike), stability (unchanged for `n` updates) or
    probability (no token less likely than `threshold`).

    hold: words at the end of a draft that stay hidden. max_erasure, max_replaced: how much shown text may be taken back, of the
    final text's characters and in characters an update (`captions.Limit`). deadline: seconds an update may take, one call at
    least; the last one takes what it needs. Raises ValueError for values out of range.
    """

    source: str = "English"
    target: str = "French"
    rule: str = "agreement"
    n: int = 2
    threshold: float = 0.9
    hold: int = 0
    max_erasure: float | None = None
    max_replaced: int | None = None
    deadline: float | None = None
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule is {self.rule!r}; allowed: {', '.join(RULES)}")
        for name, least, most in (("n", 1, MOST), ("threshold", 0, 1), ("hold", 0, 64), ("max_tokens", 1, 1 << 20)):
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name} is {value}; it must lie between {least} and {most}")
        if self.deadline is not None and not self.deadline > 0:
            raise ValueError(f"deadline is {self.deadline}; it must be more than 0 seconds")
        for name in ("source", "target"):
            value = getattr(self, name)
            if not value.strip() or not value.isprintable() or len(value) > LONGEST:
                raise ValueError(f"{name} is {value!r}; name a language in at most {LONGEST} characters of one line")
        self.limit()

    def limit(self) -> Limit:
        return Limit(self.max_erasure, self.max_replaced)

    def when(self) -> Rule:
        """The rule itself."""
        return RULES[self.rule](self.threshold if self.rule == "probability" else self.n)

    def prompt(self, source: str, template: bool) -> str:
        if template:
            return f"Translate from {self.source} to {self.target}. Answer with the translation alone.\n\n{source}"
        return f"{self.source}: {source}\n{self.target}:"


@dataclass(frozen=True)
class Ask:
    """One update's decoding. committed: ids that stand; last: those of the draft behind them; deadline: of `time.monotonic`.

    words: so many behind the committed ones are enough, None for all.
    """

    source: str
    live: Live
    committed: Sequence[int] = ()
    last: Sequence[int] = ()
    deadline: float | None = None
    words: int | None = None


@dataclass(frozen=True)
class Written:
    """Ids behind the committed ones and p of each. checked: how many were decoded for this source; ended: did the model come to
    an end? late: the deadline came first. calls: forwards, the one that reads the source included; positions: of those."""

    ids: list[int]
    chances: list[float]
    checked: int
    ended: bool
    late: bool = False
    calls: int = 0
    positions: int = 0


class Writes(Protocol):
    """What translates. `Writer` is one; tests have others."""

    def write(self, ask: Ask) -> Written: ...
    def spell(self, token: int) -> bytes: ...


@dataclass
class Update:
    """What is known after an update. committed never changes but grows; draft may. confidence: p of each word of the draft.

    erased: characters of the shown draft taken back. late: the deadline came first. calls, positions: see `Written`.
    """

    revision: int
    committed: str
    draft: str
    confidence: tuple[float, ...]
    erased: int
    final: bool
    late: bool = False
    calls: int = 0
    positions: int = 0
    seconds: float = 0.0

    @property
    def text(self) -> str:
        return self.committed + self.draft

    def to_json(self) -> dict[str, Any]:
        return {
            "rev": self.revision, "committed": self.committed, "draft": self.draft, "confidence": list(self.confidence),
            "erased": self.erased, "final": self.final, "late": self.late, "calls": self.calls, "positions": self.positions,
            "ms": round(1000 * self.seconds, 1),
        }  # fmt: skip


# -- the draft before is the draft ----------------------------------------------------------------------------------


@dataclass
class LastDraft(GivenText):
    """The last draft, as far as it goes: all of it at first, a few tokens at a time once some of it was wrong."""

    broken: bool = False

    def draft(self, texts: Sequence[Sequence[int]], count: int, draws: Draws) -> Drafted:
        rest = self.rest(texts[0])[: min(count, RESUMED) if self.broken else count]
        tokens = torch.zeros(1, count, dtype=torch.int64)
        tokens[0, : len(rest)] = torch.tensor(rest, dtype=torch.int64)
        return Drafted(tokens, counts=torch.tensor([len(rest)]))

    def rest(self, text: Sequence[int]) -> list[int]:
        """What is expected behind a text, by the place in the last draft that ends as it does."""
        written = list(text[self.prompt_length[0] :])
        if written and written[-1] not in self.ids:
            return []
        return list(self.ids[self._resume(written) :])

    def observe(self, targets: Tokens, emitted: Sequence[int]) -> None:
        self.broken = self.broken or emitted[0] < targets.shape[1]


@dataclass
class Doubting(LastDraft):
    """Where the last draft broke off, a canvas call keeps what it does not doubt of the rest, and writes what it does.

    engine: weights with a trained canvas that speak about their own places. calls, positions: what that took. misses: drafts of
    the canvas, the latest, of which nothing was right; after `PATIENCE` of them it is asked no more.
    """

    engine: Engine | None = None
    cache: Any = None
    calls: int = 0
    positions: int = 0
    misses: int = 0

    def draft(self, texts: Sequence[Sequence[int]], count: int, draws: Draws) -> Drafted:
        if not self.broken or self.misses >= PATIENCE:
            return super().draft(texts, count, draws)
        assert self.engine is not None
        size = min(count, RESUMED)
        rest = self.rest(texts[0])[:size]
        seed, noise = texts[0][-1], self.engine.checkpoint.process
        positions = len(texts[0]) - 1 + torch.arange(size + 1)[None]
        tokens = noise.prior((1, size + 1), draws, positions)
        tokens[0, : len(rest) + 1] = torch.tensor([seed, *rest])
        said = self.engine.denoiser.denoise(tokens, positions, torch.ones_like(tokens, dtype=torch.bool), self.cache)
        said = said[:, 1:].index_fill(-1, torch.tensor([*self._illegal()], dtype=torch.int64), -torch.inf)
        old = tokens[:, 1:]
        sure = said.softmax(-1).gather(-1, old[..., None])[..., 0] >= DOUBTED
        sure[0, len(rest) :] = False
        self.calls, self.positions = self.calls + 1, self.positions + size + 1
        drafted = torch.zeros(1, count, dtype=torch.int64)
        drafted[:, :size] = torch.where(sure, old, said.argmax(-1))
        return Drafted(drafted, counts=torch.tensor([size]))

    def observe(self, targets: Tokens, emitted: Sequence[int]) -> None:
        if self.broken and self.misses < PATIENCE:
            self.misses = self.misses + 1 if emitted[0] == 1 else 0
        super().observe(targets, emitted)

    def _illegal(self) -> set[int]:
        assert self.engine is not None
        mask = self.engine.checkpoint.process.mask_id
        return {*self.engine.banned, *([] if mask is None else [mask])}


class Writer:
    """An engine that translates, and what it has read. warm: start from the last draft; else a token a call, as AR does.

    report: called between calls, and may raise to end the work. Raises ValueError for a checkpoint that reads no text causally.
    """

    def __init__(self, engine: Engine, warm: bool = True, report: Report = silent) -> None:
        engine.must_read()
        if engine.denoiser.reader is not None:
            raise ValueError(f"{engine.checkpoint.name} reads no text causally, which live translation needs")
        self.engine, self.warm, self.report = engine, warm, report
        tokenizer = engine.tokenizer
        self.banned = tuple(set(tokenizer.specials.values()) - engine.stop_ids)
        self._cache: Any = None
        self._read: list[int] = []

    @property
    def way(self) -> str:
        """canvas or causal."""
        trained = self.engine.checkpoint.facts.trained_canvas and self.engine.denoiser.shift == 0
        return "canvas" if trained and self.warm else "causal"

    def spell(self, token: int) -> bytes:
        return self.engine.tokenizer.token_bytes(token)

    @torch.inference_mode()
    def write(self, ask: Ask) -> Written:
        """Decode behind the committed ids. Raises ValueError for a source that does not fit the model's context."""
        prompt, most = self._prompt(ask)
        cache = self._hold(prompt, most)
        drafter = self._drafter(ask, prompt, cache)
        heard, length = Heard(self.engine.denoiser), DRAFTED if drafter is not None else 0
        loop = Verified(heard, drafter, length, stop_ids=self.engine.stop_ids, banned=self.banned)
        ids, chances, calls, positions = list[int](), list[float](), 0, 0
        overtime = None if ask.deadline is None else Overtime(ask.deadline)
        late = over = False
        if overtime is not None:
            overtime.over()  # the first call's length counts from here
        try:
            for frame in loop.frames([prompt], most, Draws.of([0]), cache=cache):
                new = frame.tokens[: frame.committed]
                assert heard.logits is not None
                laws = heard.logits[0, : len(new)].float().log_softmax(-1)
                chances += laws.gather(-1, torch.tensor(new)[:, None])[:, 0].exp().tolist()
                ids += new
                calls, positions = calls + 1, positions + frame.positions
                self.report("translating", len(ids), most)
                over = ids[-1] in self.engine.stop_ids or self._over(ask, ids, chances)
                if over or (overtime is not None and overtime.over()):
                    late = not over
                    break
        finally:  # what the last call rejected is still in the cache
            kept = min(int(cache.lengths[0]), len(prompt) + max(len(ids) - 1, 0))
            cache.truncate([kept])
            self._read = [*prompt, *ids][:kept]
        if isinstance(drafter, Doubting):
            calls, positions = calls + drafter.calls, positions + drafter.positions
        checked = len(ids)
        if late and drafter is not None:
            rest = drafter.rest([*prompt, *ids])
            ids, chances = ids + rest, chances + [0.0] * len(rest)
        ids, chances, checked, cut = self._end(ask, ids, chances, checked)
        return Written(ids, chances, checked, cut, late, calls, positions)

    def _prompt(self, ask: Ask) -> tuple[list[int], int]:
        """What is read, committed ids included, and the most tokens that may be written."""
        engine, tokenizer = self.engine, self.engine.tokenizer
        template = tokenizer.chat_template is not None
        text = ask.live.prompt(ask.source, template)
        prompt = tokenizer.chat([{"role": "user", "content": text}]) if template else tokenizer.encode(text)
        wanted = min(2 * len(tokenizer.encode(ask.source)) + SPARE, ask.live.max_tokens)
        most = max(wanted - len(ask.committed), RESUMED)
        longest = engine.denoiser.config.max_length
        if len(prompt) + len(ask.committed) + most > longest:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens and its translation may have {len(ask.committed) + most}: together more "
                f"than the {longest} of this model's context; end this text and go on with a new one"
            )
        return [*prompt, *ask.committed], most

    def _hold(self, prompt: list[int], most: int) -> Any:
        """A cache that holds the beginning of the prompt, as much of it as was read before."""
        needed = len(prompt) + most + DRAFTED + RESUMED + 2
        if self._cache is None or self._cache.capacity < needed:
            self._read = []
            self._cache = self.engine.denoiser.new_cache(1, needed + needed // 2)
        pairs = zip(self._read, prompt[:-1], strict=False)
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(self._read), len(prompt) - 1))
        self._cache.truncate([same])
        return self._cache

    def _drafter(self, ask: Ask, prompt: list[int], cache: Any) -> LastDraft | None:
        if not self.warm:
            return None
        if self.way == "canvas":
            return Doubting(ask.last, [len(prompt)], engine=self.engine, cache=cache)
        return LastDraft(ask.last, [len(prompt)])

    def _over(self, ask: Ask, ids: list[int], chances: list[float]) -> bool:
        """Is there enough? A source of one line has a translation of one line; the rest is a model's small talk."""
        if "\n" not in ask.source and "\n" in self.engine.tokenizer.decode(ids).lstrip():
            return True
        if ask.words is None:
            return False
        return len(words_of(ids, chances, self.spell, not ask.committed)) > ask.words

    def _end(
        self, ask: Ask, ids: list[int], chances: list[float], checked: int
    ) -> tuple[list[int], list[float], int, bool]:
        """Without the end token or what stands behind a first line; and whether there was such an end."""
        decode, stops = self.engine.tokenizer.decode, self.engine.stop_ids
        end = next((n for n, token in enumerate(ids) if token in stops), len(ids))
        if "\n" not in ask.source and "\n" in decode(ids[:end]).lstrip():
            end = next(n for n in range(end) if "\n" in decode(ids[: n + 1]).lstrip())
        return ids[:end], chances[:end], min(checked, end), end < checked


# -- the session ----------------------------------------------------------------------------------------------------


@dataclass
class Translator:
    """One text being translated while it arrives. `update` takes the source so far, which may grow, change and shrink.

        translator = Translator(Writer(engine), Live(target="French"))
        shown = translator.update("I have seen the"); shown.committed, shown.draft
        translator.update("I have seen the sea.", final=True).committed

    rule: another than `live` names (`policies.py`).
    """

    writer: Writes
    live: Live = field(default_factory=Live)
    rule: Rule | None = None
    enough: Callable[[str, int], int | None] = lambda source, done: None  # words wanted behind the committed ones

    def __post_init__(self) -> None:
        self.captions = Captions(self.rule or self.live.when(), self.live.limit(), self.live.hold)
        self.revision, self.ended = 0, False
        self._written: Written | None = None
        self._source = ""

    def update(self, source: str, final: bool = False, writer: Writes | None = None) -> Update:
        """Translate the source as it now stands. final: nothing comes after it; all is committed.

        writer: another one for this update. Raises ValueError for what is not text, for too long a source, and after the end.
        """
        began = time.perf_counter()
        if not isinstance(source, str):
            raise ValueError(f"a hypothesis is {source!r:.40}; it must be text")
        if self.ended:
            raise ValueError("this text has ended; translate the next with a new translator")
        source = source.strip()
        written = self._write(source, final, writer or self.writer)
        captions = self.captions
        words = [
            *captions.committed,
            *words_of(written.ids, written.chances, self.writer.spell, not captions.committed),
        ]
        checked = len(words)
        if not written.ended:  # its last word may be half of one
            sure = slice(written.checked)
            part = words_of(written.ids[sure], written.chances[sure], self.writer.spell, not captions.committed)
            checked = len(captions.committed) + max(0, len(part) - 1)
        elif not source.endswith(ENDS):  # a model ends its sentence though the source goes on
            while checked > len(captions.committed) and words[checked - 1].text.strip() in ENDS:
                checked -= 1
        shown = captions.take(Draft(tuple(words), source, checked), final)
        self.revision += 1
        self.ended = final
        return Update(
            self.revision, shown.committed, shown.draft, shown.confidence, shown.erased, final, written.late, written.calls,
            written.positions, time.perf_counter() - began,
        )  # fmt: skip

    def _write(self, source: str, final: bool, writer: Writes) -> Written:
        """What is written behind the committed words."""
        captions = self.captions
        committed, last = captions.ids, captions.rest
        known, self._written = self._written, None
        if not source:  # silence, or all of it taken back
            return Written([], [], 0, True)
        if source == self._source and known is not None:  # the same again
            self._written = known
            return Written(last, known.chances[len(known.ids) - len(last) :], len(last), known.ended)
        due = None if self.live.deadline is None or final else time.monotonic() + self.live.deadline
        enough = None if final else self.enough(source, len(captions.committed))
        if enough == 0:
            return Written([], [], 0, True)
        written = writer.write(Ask(source, self.live, committed, last, due, enough))
        if not written.late and enough is None:
            self._written, self._source = written, source
        return written

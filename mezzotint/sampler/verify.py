"""Lossless decoding: drafts from anywhere, checked by the causal pass. The text is the AR model's own.

    cache   t0 .. t(n-2)            seed t(n-1): emitted, not yet read
    round   read [seed, d1 .. dk]   one call gives the AR model's token after each of them: a1 .. a(k+1)
            keep d1 .. dj while d = a; emit a1 .. a(j+1); a(j+1) is the next seed; the cache is cut after dj

With an empty draft (k = 0) this *is* AR decoding, so `ar` and `verified` share every line. Two ways to sample:

- coupled: the AR token at a position is the inverse CDF of that position's counted uniform number, so a draft token is
  kept exactly when AR with the same seed would have written it: the text equals `ar` with that seed, for any draft. For
  a point-mass draft the chance of acceptance is p(d), the best that any rule can do.
- speculative: the rule of Leviathan et al. (arXiv 2211.17192) for drafts that come with their distribution q: accept with
  min(1, p/q), else draw from (p - q)+. The law is AR's, the text is not; acceptance is 1 - TV(p, q).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mezzotint.constraint.guide import Guide
from mezzotint.draws import Draws, categorical
from mezzotint.sampler.canvas import ACCEPTED, GIVEN, OPEN
from mezzotint.sampler.trace import Frame
from mezzotint.shapes import Logits, Probs, Tokens


class CausalDenoiser(Protocol):
    """What lossless decoding asks of a network; `Denoiser` is one."""

    def new_cache(self, rows: int, capacity: int) -> Any: ...
    def read(self, tokens: Tokens, counts: Tensor, cache: Any, every: bool = False) -> Any: ...


class Drafted(NamedTuple):
    """tokens `[B, k]`; probs `[B, k, V]` when they were drawn from a distribution, else None (a point mass).

    counts int64 `[B]`: how many of the k tokens a row has, None when every row has all of them. A drafter that is asked for k
    tokens may give fewer a row, in k columns still.
    """

    tokens: Tokens
    probs: Probs | None = None
    counts: Tensor | None = None

    def lengths(self) -> Tensor:
        """int64 `[B]`."""
        return torch.full((len(self.tokens),), self.tokens.shape[1]) if self.counts is None else self.counts


class Emitted(NamedTuple):
    """targets `[B, k + 1]`: the AR model's token at each position; ids: what each row emits, the kept draft and one more."""

    targets: Tokens
    ids: list[list[int]]


class Drafter(Protocol):
    """A source of drafts. `texts`: prompt and emitted ids of each running row, the seed last."""

    def draft(self, texts: Sequence[Sequence[int]], count: int, draws: Draws) -> Drafted: ...
    def observe(self, targets: Tokens, emitted: Sequence[int]) -> None:
        """After a round that had a draft: the causal pass's tokens `[B, k + 1]`, of which the first `emitted[b]` were emitted."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        ...


def positions_after(texts: Sequence[Sequence[int]], count: int) -> Tensor:
    """Absolute positions of the next `count` tokens, int64 `[B, count]`."""
    return torch.tensor([len(text) for text in texts])[:, None] + torch.arange(count)


@dataclass
class RandomTokens:
    """Fresh random ids below `vocab_size` each round: a draft that knows nothing."""

    vocab_size: int

    def draft(self, texts: Sequence[Sequence[int]], count: int, draws: Draws) -> Drafted:
        uniform = draws.uniform("draft", positions_after(texts, count))
        return Drafted((uniform * self.vocab_size).to(torch.int64))

    def observe(self, targets: Tokens, emitted: Sequence[int]) -> None:
        pass

    def keep(self, rows: Sequence[int]) -> None:
        pass


class PreviousIterate(RandomTokens):
    """From random tokens to the fixed point: what the causal pass said behind the accepted prefix is the next draft.

    Jacobi decoding (Santilli et al., arXiv 2305.10427); positions never drafted before start from random ids.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.tails: list[list[int]] = []

    def draft(self, texts: Sequence[Sequence[int]], count: int, draws: Draws) -> Drafted:
        tokens = super().draft(texts, count, draws).tokens
        for row, tail in enumerate(self.tails):
            length = min(len(tail), count)
            tokens[row, :length] = torch.tensor(tail[:length], dtype=torch.int64)
        return Drafted(tokens)

    def observe(self, targets: Tokens, emitted: Sequence[int]) -> None:
        self.tails = [row[count:] for row, count in zip(targets.tolist(), emitted, strict=True)]

    def keep(self, rows: Sequence[int]) -> None:
        self.tails = [self.tails[row] for row in rows] if self.tails else []


class Reach:
    """How many tokens each row's next draft may have, where a call over many places is dear.

    After a round that left a draft early one more than was kept, after one that kept it all twice as many.
    """

    def __init__(self, rows: int, first: int) -> None:
        self.most = [first] * rows
        self.given = [0] * rows  # tokens of the last draft

    def cut(self, drafts: Sequence[Sequence[int]]) -> list[list[int]]:
        cut = [list(draft[:most]) for draft, most in zip(drafts, self.most, strict=True)]
        self.given = [len(draft) for draft in cut]
        return cut

    def observe(self, emitted: Sequence[int]) -> None:
        for row, (given, count) in enumerate(zip(self.given, emitted, strict=True)):
            if given:
                self.most[row] = 2 * given if count > given else count

    def keep(self, rows: Sequence[int]) -> None:
        self.most = [self.most[row] for row in rows]


def _table(drafts: Sequence[Sequence[int]], count: int) -> Tokens:
    """`[B, count]`, 0 behind the end of a draft."""
    rows = [[*draft, *[0] * (count - len(draft))] for draft in drafts]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), count)


@dataclass
class GivenText:
    """A text the answer is expected to resemble: what followed the last place in it that ends like the text so far.

    The longest match of up to `context` emitted ids wins, the later one on a tie; before any match, its beginning. careful:
    drafts reach as far as `Reach` says, so that a text that is not being copied costs little.
    """

    ids: Sequence[int]
    prompt_length: Sequence[int]
    context: int = 4
    careful: bool = False
    reach: Reach | None = field(default=None, init=False)

    def draft(self, texts: Sequence[Sequence[int]], count: int, draws: Draws) -> Drafted:
        rows = []
        for text, prompt in zip(texts, self.prompt_length, strict=True):
            start = self._resume(list(text[prompt:]))
            rows.append(list(self.ids[start : start + count]))
        if not self.careful:
            return Drafted(_table(rows, count))
        self.reach = self.reach or Reach(len(texts), count)
        rows = self.reach.cut(rows)
        return Drafted(_table(rows, count), counts=torch.tensor([len(row) for row in rows]))

    def _resume(self, written: list[int]) -> int:
        for length in range(min(self.context, len(written)), 0, -1):
            tail = written[-length:]
            ends = [e for e in range(length, len(self.ids) + 1) if list(self.ids[e - length : e]) == tail]
            if ends:
                return min(ends, key=lambda e: (abs(e - len(written)), -e))
        return len(written)

    def observe(self, targets: Tokens, emitted: Sequence[int]) -> None:
        if self.reach is not None:
            self.reach.observe(emitted)

    def keep(self, rows: Sequence[int]) -> None:
        self.prompt_length = [self.prompt_length[row] for row in rows]
        if self.reach is not None:
            self.reach.keep(rows)


class EarlierText:
    """The text itself: what followed the last place in it, prompt included, that ends like it does now.

    The longest match of `longest` down to `shortest` ids wins; without one there is no draft, and the call is AR's. Drafts reach
    as far as `Reach` says. Prompt lookup decoding (Saxena, 2023), LLMA (arXiv 2304.04487).
    """

    def __init__(self, longest: int = 4, shortest: int = 2, first: int = 2) -> None:
        self.longest, self.shortest, self.first = longest, shortest, first
        self.reach: Reach | None = None
        self.ends: list[dict[tuple[int, ...], int]] = []  # of a row: the last place behind some ids, its end excepted
        self.known: list[int] = []  # so much of a row's text is in there

    def draft(self, texts: Sequence[Sequence[int]], count: int, draws: Draws) -> Drafted:
        if self.reach is None:
            self.reach = Reach(len(texts), self.first)
            self.ends, self.known = [{} for _ in texts], [0] * len(texts)
        rows = []
        for row, text in enumerate(texts):
            ends = self.ends[row]
            for end in range(max(self.known[row], self.shortest), len(text)):
                for length in range(self.shortest, min(self.longest, end) + 1):
                    ends[tuple(text[end - length : end])] = end
            self.known[row] = len(text)
            found = (ends.get(tuple(text[-n:])) for n in range(min(self.longest, len(text)), self.shortest - 1, -1))
            start = next((end for end in found if end is not None), len(text))
            rows.append(list(text[start : start + count]))
        rows = self.reach.cut(rows)
        return Drafted(_table(rows, count), counts=torch.tensor([len(row) for row in rows]))

    def observe(self, targets: Tokens, emitted: Sequence[int]) -> None:
        assert self.reach is not None
        self.reach.observe(emitted)

    def keep(self, rows: Sequence[int]) -> None:
        if self.reach is not None:
            self.reach.keep(rows)
            self.ends, self.known = [self.ends[row] for row in rows], [self.known[row] for row in rows]


class SmallerModel:
    """Any other causal network over the same vocabulary, decoding ahead with a cache of its own."""

    def __init__(self, denoiser: CausalDenoiser, capacity: int, temperature: float = 0.0) -> None:
        self.denoiser, self.capacity, self.temperature = denoiser, capacity, temperature
        self.cache: Any = None
        self.known = torch.zeros(0, dtype=torch.int64)  # length of each text when the last draft began
        self.num_calls = 0

    def draft(self, texts: Sequence[Sequence[int]], count: int, draws: Draws) -> Drafted:
        if self.cache is None:
            self.cache = self.denoiser.new_cache(len(texts), self.capacity)
        self.known = torch.tensor([len(text) for text in texts])
        lengths = self.cache.lengths.tolist()
        unread = [list(text[length:]) for text, length in zip(texts, lengths, strict=True)]
        tokens, probs = [], []
        for index in range(count):
            ids, counts = pad(unread)
            logits = self.denoiser.read(ids, counts, self.cache).logits[:, -1:]
            self.num_calls += len(texts)
            chosen, law = choose(logits, positions_after(texts, count)[:, index : index + 1], self.temperature, draws)
            tokens.append(chosen)
            probs.append(law)
            unread = chosen.tolist()
        laws = None if self.temperature == 0 else torch.cat([law for law in probs if law is not None], 1)
        if not tokens:
            return Drafted(torch.zeros(len(texts), 0, dtype=torch.int64))
        return Drafted(torch.cat(tokens, 1), laws)

    def observe(self, targets: Tokens, emitted: Sequence[int]) -> None:
        if self.cache is not None:  # it has read its own draft, of which emitted - 1 tokens were right
            self.cache.truncate(torch.minimum(self.cache.lengths, self.known + torch.as_tensor(emitted) - 1))

    def keep(self, rows: Sequence[int]) -> None:
        if self.cache is not None:
            self.cache = self.cache.fork(rows)


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tokens, Tensor]:
    """Right-pad with 0: tokens `[B, T]`, counts `[B]`."""
    counts = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(counts.max()), dtype=torch.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
    return tokens, counts


def choose(
    logits: Logits, positions: Tensor, temperature: float, draws: Draws, banned: Sequence[int] = ()
) -> tuple[Tokens, Probs | None]:
    """The AR model's token at each position `[B, W]`: argmax at temperature 0, else the inverse CDF of its uniform number.

    Also the law it was drawn from, float64 `[B, W, V]`, None at temperature 0.
    """
    if banned:
        logits = logits.index_fill(-1, torch.as_tensor(list(banned), device=logits.device), -torch.inf)
    if temperature == 0:
        # on a CPU numpy takes a tenth of torch's time
        return torch.from_numpy(logits.numpy().argmax(-1)) if logits.device.type == "cpu" else logits.argmax(-1), None
    probs = (logits.to(torch.float64) / temperature).softmax(-1)
    return categorical(probs, draws.uniform("token", positions)), probs


@dataclass
class Answers:
    """What a lossless decoder has written: prompt and answer of every row. `active`: the rows still running, in order.

    Tokens that the guide knows to come next are locked as soon as it does.
    """

    prompts: Sequence[Sequence[int]]
    max_tokens: int
    forced: Sequence[dict[int, int]] | None = None
    stop_ids: frozenset[int] = frozenset()
    guide: Guide | None = None

    def __post_init__(self) -> None:
        if any(not prompt for prompt in self.prompts):
            raise ValueError("a prompt has no tokens; give at least one (a chat template always does)")
        self.locks = [dict(locks) for locks in self.forced or [{} for _ in self.prompts]]
        for row in range(len(self.prompts)):
            self._lock_certain(row, 0)
        self.all = [list(prompt) for prompt in self.prompts]
        self.active = list(range(len(self.prompts)))

    @property
    def texts(self) -> list[list[int]]:
        return [self.all[r] for r in self.active]

    def rooms(self) -> Tensor:
        """How many tokens each running row may still write, int64 `[B]`."""
        return torch.tensor([len(self.prompts[r]) + self.max_tokens - len(self.all[r]) for r in self.active])

    def locked(self, count: int) -> Tokens:
        """Locked ids of the next `count` positions, -1 where free: `[B, count]`."""
        written = [len(self.all[r]) - len(self.prompts[r]) for r in self.active]
        table = [
            [self.locks[r].get(w + n, -1) for n in range(count)] for r, w in zip(self.active, written, strict=True)
        ]
        return torch.tensor(table, dtype=torch.int64).reshape(len(self.active), count)

    def masked(self, logits: Logits, drafts: Tokens) -> Logits:
        """Logits `[B, k + 1, V]` of a call, -inf for what the guide does not allow after the draft tokens before it."""
        return logits if self.guide is None else self.guide.masked(logits, self.active, drafts)

    def certain(self) -> Tensor:
        """How many locked tokens come next in each running row, int64 `[B]`; a call accepts them all."""
        counts = []
        for r in self.active:
            written = len(self.all[r]) - len(self.prompts[r])
            counts.append(next(n for n in range(self.max_tokens + 1) if written + n not in self.locks[r]))
        return torch.tensor(counts)

    def _lock_certain(self, row: int, written: int) -> None:
        if self.guide is not None:
            self.locks[row] |= dict(enumerate(self.guide.certain(row), written))

    def add(self, index: int, emitted: Sequence[int]) -> tuple[list[int], list[int], bool]:
        """Write what counts of `emitted` in running row `index` -> those ids, their status, and whether the row is over."""
        r = self.active[index]
        written = len(self.all[r]) - len(self.prompts[r])
        new = list(emitted[: self.max_tokens - written])
        free = [written + n not in self.locks[r] for n in range(len(new))]
        stop = next((n for n, t in enumerate(new) if t in self.stop_ids and free[n]), None)
        new = new if stop is None else new[: stop + 1]
        status = [ACCEPTED if is_free else GIVEN for is_free in free[: len(new)]]
        if self.guide is not None:
            self.guide.advance(r, new)
            if ending := self.guide.end(r):
                self.guide.advance(r, ending)
                new, status, stop = new + ending, [*status, ACCEPTED], len(new)
            self._lock_certain(r, written + len(new))
        self.all[r] += new
        return new, status, stop is not None or written + len(new) >= self.max_tokens


@dataclass(frozen=True)
class Judge:
    """How a draft is judged by the causal logits of the call that read it. See `Verified` for the fields."""

    temperature: float = 0.0
    rule: str = "coupled"
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.rule not in ("coupled", "speculative"):
            raise ValueError(f"rule is {self.rule!r}; allowed: coupled, speculative")

    def emit(self, logits: Logits, drafted: Drafted, lock: Tokens, positions: Tensor, draws: Draws) -> Emitted:
        """logits `[B, k + 1, V]` about `positions`, after the seed and each of the k draft tokens; lock `[B, k + 1]`."""
        targets, law = choose(logits, positions, self.temperature, draws, self.banned)
        accepted = self._accept(drafted, targets, law, lock, draws, positions)
        return Emitted(targets, self._emit(drafted, targets, law, lock, accepted, draws, positions))

    def _accept(
        self, drafted: Drafted, targets: Tokens, law: Probs | None, lock: Tokens, draws: Draws, positions: Tensor
    ) -> list[int]:
        """How many draft tokens each row keeps."""
        k = drafted.tokens.shape[1]
        if k == 0:
            return [0] * len(targets)
        if self.rule == "coupled" or law is None:
            same = drafted.tokens == targets[:, :k]
        else:
            p = law[:, :k].gather(-1, drafted.tokens[..., None])[..., 0]
            q = 1.0 if drafted.probs is None else drafted.probs.gather(-1, drafted.tokens[..., None])[..., 0]
            same = draws.uniform("accept", positions[:, :k]) * q < p
        there = torch.arange(k) < drafted.lengths()[:, None]
        return ((same | (lock[:, :k] >= 0)) & there).to(torch.int64).cumprod(-1).sum(-1).tolist()

    def _emit(
        self, drafted: Drafted, targets: Tokens, law: Probs | None, lock: Tokens, accepted: list[int], draws: Draws,
        positions: Tensor,
    ) -> list[list[int]]:  # fmt: skip
        """The kept draft and one token more: the AR model's, or after a speculative rejection one from the residual."""
        emitted = []
        for row, (count, length) in enumerate(zip(accepted, drafted.lengths().tolist(), strict=True)):
            last = int(targets[row, count])
            if self.rule == "speculative" and law is not None and count < length:
                p = law[row, count]
                if drafted.probs is None:
                    residual = p.index_fill(0, drafted.tokens[row, count], 0.0)
                else:
                    residual = (p - drafted.probs[row, count]).clamp(min=0)
                here = draws.rows(torch.tensor([row])).uniform("residual", positions[row : row + 1, count : count + 1])
                last = int(categorical(residual[None, None], here))
            last = int(lock[row, count]) if lock[row, count] >= 0 else last
            emitted.append([*drafted.tokens[row, :count].tolist(), last])
        return emitted


@dataclass(frozen=True)
class Verified:
    """Decode with drafts of `draft_length` tokens; 0 (no drafter) is plain AR.

    rule: "coupled" or "speculative" (see above; the second needs a drafter that gives distributions, and falls back to
    the point-mass case of the same rule where it does not). banned: ids never to be written.
    """

    denoiser: CausalDenoiser
    drafter: Drafter | None = None
    draft_length: int = 0
    temperature: float = 0.0
    rule: str = "coupled"
    stop_ids: frozenset[int] = frozenset()
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        Judge(self.temperature, self.rule, self.banned)
        if self.draft_length < 0:
            raise ValueError(f"draft_length is {self.draft_length}; it must be at least 0")

    def frames(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        draws: Draws,
        forced: Sequence[dict[int, int]] | None = None,
        cache: Any = None,
        guide: Guide | None = None,
    ) -> Iterator[Frame]:
        """Decode all prompts together, one frame a row and call. forced: per row, {offset in the answer: locked id}.

        guide: what the texts must be like; what is certain of them is read in the next call, not waited for. cache: has
        read the beginning of every prompt, equally much of each, and has room for the rest. A row ends after a stop id
        (emitted, so that traces show it) or `max_tokens`. Raises ValueError for empty prompts.
        """
        answers = Answers(prompts, max_tokens, forced, self.stop_ids, guide)
        judge = Judge(self.temperature, self.rule, self.banned)
        if cache is None:
            cache = self.denoiser.new_cache(len(prompts), max(map(len, prompts)) + max_tokens + self.draft_length)
        drafted = Drafted(torch.zeros(len(prompts), 0, dtype=torch.int64))
        # what the next call reads: at first the prompts, then [seed, draft]
        waiting = pad([prompt[int(cache.lengths[0]) :] for prompt in prompts])
        step = 0
        while answers.active:
            ids, counts = waiting
            before = cache.lengths.clone()
            k = drafted.tokens.shape[1]
            logits = self.denoiser.read(ids, counts, cache, every=step > 0).logits  # [B, k + 1, V]
            logits = answers.masked(logits, drafted.tokens)
            positions = positions_after(answers.texts, k + 1)
            here = draws.rows(torch.tensor(answers.active)).at(step=0)
            targets, emitted = judge.emit(logits, drafted, answers.locked(k + 1), positions, here)
            kind = "read" if step == 0 else "decode" if self.draft_length == 0 else "verify"
            lengths, stay = [], []
            for i, r in enumerate(answers.active):
                start = len(answers.all[r])
                new, status, over = answers.add(i, emitted[i])
                tail = (
                    [] if over else targets[i, len(new) : int(counts[i])].tolist()
                )  # said behind the accepted prefix: a draft
                status += [OPEN] * len(tail)
                yield Frame(kind, r, 0, step, start, new + tail, status, len(new), int(step > 0), int(counts[i]))
                lengths.append(min(len(new), int(counts[i])))  # an end that was certain has not been read
                if not over:
                    stay.append(i)
            if step:
                cache.truncate(before + torch.tensor(lengths))
            if self.drafter is not None and k:
                self.drafter.observe(targets, lengths)
            if len(stay) < len(answers.active):
                answers.active = [answers.active[i] for i in stay]
                if not stay:
                    return
                cache = cache.fork(stay)
                if self.drafter is not None:
                    self.drafter.keep(stay)
            step += 1
            drafted = self._draft(answers, draws, step)
            waiting = reading(answers, drafted)

    def _draft(self, answers: Answers, draws: Draws, step: int) -> Drafted:
        """The next draft, locked ids written into it."""
        room = answers.rooms() - 1  # the call itself emits one more
        own = torch.full_like(room, self.draft_length if self.drafter is not None else 0)
        counts = (
            (torch.maximum(own, answers.certain()) if answers.guide is not None else own).clamp(max=room).clamp(min=0)
        )
        k = int(counts.max())
        drafted = Drafted(torch.zeros(len(answers.active), k, dtype=torch.int64), counts=counts)
        if k == 0:
            return drafted
        if self.drafter is not None:
            found = self.drafter.draft(answers.texts, k, draws.rows(torch.tensor(answers.active)).at(step=step))
            if found.counts is not None:  # it has less to offer
                counts = torch.maximum(torch.minimum(counts, found.counts), torch.minimum(counts, answers.certain()))
                k = int(counts.max())
            drafted = Drafted(found.tokens[:, :k], None if found.probs is None else found.probs[:, :k], counts)
        lock = answers.locked(k)
        return drafted._replace(tokens=torch.where(lock >= 0, lock, drafted.tokens))


def reading(answers: Answers, drafted: Drafted) -> tuple[Tokens, Tensor]:
    """What a verifying call reads, [seed, draft] of each running row: tokens `[B, k + 1]` and counts `[B]`."""
    seeds = torch.tensor([[text[-1]] for text in answers.texts])
    return torch.cat((seeds, drafted.tokens), 1), 1 + drafted.lengths()

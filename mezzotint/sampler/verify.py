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
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mezzotint.draws import Draws, categorical
from mezzotint.sampler.canvas import ACCEPTED, GIVEN, OPEN
from mezzotint.sampler.trace import Frame
from mezzotint.shapes import Logits, Probs, Tokens


class CausalDenoiser(Protocol):
    """What lossless decoding asks of a network; `Denoiser` is one."""

    def new_cache(self, rows: int, capacity: int) -> Any: ...
    def read(self, tokens: Tokens, counts: Tensor, cache: Any, every: bool = False) -> Any: ...


class Drafted(NamedTuple):
    """tokens `[B, k]`; probs `[B, k, V]` when they were drawn from a distribution, else None (a point mass)."""

    tokens: Tokens
    probs: Probs | None = None


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


@dataclass
class GivenText:
    """A text the answer is expected to resemble: what followed the last place in it that ends like the text so far.

    The longest match of up to `context` emitted ids wins, the later one on a tie; before any match, its beginning.
    """

    ids: Sequence[int]
    prompt_length: Sequence[int]
    context: int = 4

    def draft(self, texts: Sequence[Sequence[int]], count: int, draws: Draws) -> Drafted:
        rows = []
        for text, prompt in zip(texts, self.prompt_length, strict=True):
            start = self._resume(list(text[prompt:]))
            rest = list(self.ids[start : start + count])
            rows.append(rest + [0] * (count - len(rest)))
        return Drafted(torch.tensor(rows, dtype=torch.int64).reshape(len(rows), count))

    def _resume(self, written: list[int]) -> int:
        for length in range(min(self.context, len(written)), 0, -1):
            tail = written[-length:]
            ends = [e for e in range(length, len(self.ids) + 1) if list(self.ids[e - length : e]) == tail]
            if ends:
                return min(ends, key=lambda e: (abs(e - len(written)), -e))
        return len(written)

    def observe(self, targets: Tokens, emitted: Sequence[int]) -> None:
        pass

    def keep(self, rows: Sequence[int]) -> None:
        self.prompt_length = [self.prompt_length[row] for row in rows]


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
        return logits.argmax(-1), None
    probs = (logits.to(torch.float64) / temperature).softmax(-1)
    return categorical(probs, draws.uniform("token", positions)), probs


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
        if self.rule not in ("coupled", "speculative"):
            raise ValueError(f"rule is {self.rule!r}; allowed: coupled, speculative")
        if self.draft_length < 0:
            raise ValueError(f"draft_length is {self.draft_length}; it must be at least 0")

    def frames(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        draws: Draws,
        forced: Sequence[dict[int, int]] | None = None,
    ) -> Iterator[Frame]:
        """Decode all prompts together, one frame a row and call. forced: per row, {offset in the answer: locked id}.

        A row ends after a stop id (emitted, so that traces show it) or `max_tokens`. Raises ValueError for empty prompts.
        """
        if any(not prompt for prompt in prompts):
            raise ValueError("a prompt has no tokens; give at least one (a chat template always does)")
        locks = list(forced or [{} for _ in prompts])
        texts = [list(prompt) for prompt in prompts]
        goal = [len(prompt) + max_tokens for prompt in prompts]
        active = list(range(len(prompts)))
        cache = self.denoiser.new_cache(len(prompts), max(map(len, prompts)) + max_tokens + self.draft_length)
        drafted = Drafted(torch.zeros(len(prompts), 0, dtype=torch.int64))
        waiting = pad(prompts)  # what the next call reads: at first the prompts, then [seed, draft]
        step = 0
        while active:
            ids, counts = waiting
            before = cache.lengths.clone()
            k = drafted.tokens.shape[1]
            logits = self.denoiser.read(ids, counts, cache, every=step > 0).logits  # [B, k + 1, V]
            rows = [texts[r] for r in active]
            positions = positions_after(rows, k + 1)
            here = draws.rows(torch.tensor(active)).at(step=0)
            targets, law = choose(logits, positions, self.temperature, here, self.banned)
            lock = self._locks(locks, active, texts, prompts, k + 1)
            accepted = self._accept(drafted, targets, law, lock, here, positions)
            emitted = self._emit(drafted, targets, law, lock, accepted, here, positions)
            ended = []
            for i, r in enumerate(active):
                new = emitted[i][: goal[r] - len(texts[r])]
                stop = next((n for n, t in enumerate(new) if t in self.stop_ids and lock[i, n] < 0), None)
                new = new if stop is None else new[: stop + 1]
                kind = "read" if step == 0 else "decode" if self.draft_length == 0 else "verify"
                over = stop is not None or len(texts[r]) + len(new) >= goal[r]
                tail = [] if over else targets[i, len(new) :].tolist()  # said behind the accepted prefix: a draft
                given = [
                    GIVEN if len(texts[r]) - len(prompts[r]) + n in locks[r] else ACCEPTED for n in range(len(new))
                ]
                status = given + [OPEN] * len(tail)
                yield Frame(
                    kind, r, 0, step, len(texts[r]), new + tail, status, len(new), int(step > 0), int(counts[i])
                )  # fmt: skip
                texts[r] += new
                emitted[i] = new
                if over:
                    ended.append(i)
            if step:
                cache.truncate(before + torch.tensor([len(new) for new in emitted]))
            if self.drafter is not None and k:
                self.drafter.observe(targets, [len(new) for new in emitted])
            if ended:
                stay = [i for i in range(len(active)) if i not in ended]
                active = [active[i] for i in stay]
                if not active:
                    return
                cache = cache.fork(stay)
                if self.drafter is not None:
                    self.drafter.keep(stay)
            step += 1
            drafted, waiting = self._next(texts, active, locks, prompts, goal, draws, step)

    def _next(
        self, texts: list[list[int]], active: list[int], locks: list[dict[int, int]], prompts: Sequence[Sequence[int]],
        goal: list[int], draws: Draws, step: int,
    ) -> tuple[Drafted, tuple[Tokens, Tensor]]:  # fmt: skip
        """The next draft (locked ids written into it) and what the verifying call reads."""
        rows = [texts[r] for r in active]
        room = max(goal[r] - len(texts[r]) for r in active) - 1  # the call itself emits one more
        k = min(self.draft_length, max(room, 0)) if self.drafter is not None else 0
        seeds = torch.tensor([[row[-1]] for row in rows])
        if k == 0 or self.drafter is None:
            return Drafted(seeds[:, :0]), (seeds, torch.ones(len(rows), dtype=torch.int64))
        drafted = self.drafter.draft(rows, k, draws.rows(torch.tensor(active)).at(step=step))
        lock = self._locks(locks, active, texts, prompts, k)
        drafted = Drafted(torch.where(lock >= 0, lock, drafted.tokens), drafted.probs)
        ids = torch.cat((seeds, drafted.tokens), 1)
        return drafted, (ids, torch.full((len(rows),), k + 1))

    @staticmethod
    def _locks(
        locks: list[dict[int, int]],
        active: list[int],
        texts: list[list[int]],
        prompts: Sequence[Sequence[int]],
        count: int,
    ) -> Tokens:
        """Locked ids of the next `count` positions, -1 where free: `[B, count]`."""
        table = [[locks[r].get(len(texts[r]) - len(prompts[r]) + n, -1) for n in range(count)] for r in active]
        return torch.tensor(table, dtype=torch.int64).reshape(len(active), count)

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
        return (same | (lock[:, :k] >= 0)).to(torch.int64).cumprod(-1).sum(-1).tolist()

    def _emit(
        self,
        drafted: Drafted,
        targets: Tokens,
        law: Probs | None,
        lock: Tokens,
        accepted: list[int],
        draws: Draws,
        positions: Tensor,
    ) -> list[list[int]]:
        """The kept draft and one token more: the AR model's, or after a speculative rejection one from the residual."""
        k = drafted.tokens.shape[1]
        emitted = []
        for row, count in enumerate(accepted):
            last = int(targets[row, count])
            if self.rule == "speculative" and law is not None and count < k:
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

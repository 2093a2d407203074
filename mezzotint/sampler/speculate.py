"""Self-speculation: the network drafts for itself, and one call checks a draft and makes the next.

    cache  t0 .. t(n-2)             seed t(n-1), draft d1 .. dk at positions n .. n+k-1
    call   clean   [seed d1 .. dk]  causal: a1 .. a(k+1), what AR writes after each of them
           canvas  j = 0:   [? ? ? ..]        starts at n,   reads the clean places up to the seed
                   j = 1:      [? ? ? ..]     starts at n+1, reads d1 too
                   j = k:              [..]   starts at n+k, reads the whole draft
    after  j tokens of the draft are right: emit d1 .. dj a(j+1); canvas j is the next draft; the cache keeps seed d1 .. dj

- A canvas's first position stands for a(j+1), which nobody knows inside the call; the causal logits decide it afterwards,
  so what the canvas says there is ignored. Its other positions are the next draft.
- A canvas reads clean keys and values before its start, those of this very call included, and no other canvas. So canvas j
  is, to rounding, the pass that a separate call would make after committing j draft tokens.
- Weights with a draft head choose a draft from left to right, each token by what the canvas said and the tokens before it,
  the seed first: the seed is known by then, though the canvas did not see it.
- The text is AR's whatever the canvases say (see `verify`): they only decide how many calls it takes. A call always emits a
  token, so there are never more calls than AR makes.

Self-speculation of Nemotron-Labs-Diffusion (arXiv 2607.05722) and S2D2 (arXiv 2603.25702); their round is two calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mezzotint.constraint.guide import Guide
from mezzotint.draws import Draws
from mezzotint.model.visibility import CANVAS, CLEAN, Places, Visibility, context_causal
from mezzotint.noise import NoiseProcess
from mezzotint.sampler.canvas import OPEN
from mezzotint.sampler.trace import Frame
from mezzotint.sampler.verify import Answers, Drafted, Judge, choose, pad, positions_after, reading
from mezzotint.shapes import Logits, Tokens

OUTCOMES = ("all", "last", "none")
MOST_FOR_ALL = 32  # draft tokens: a call with a canvas for every outcome computes (k + 1)(k + 2) positions


class TwoStreamDenoiser(Protocol):
    """A network whose one forward takes clean and canvas places together; `Denoiser` is one."""

    @property
    def shift(self) -> int: ...
    @property
    def drafts_in_order(self) -> bool: ...
    def redraft(self, logits: Logits, hidden: Tensor, before: Tokens) -> Logits: ...
    def new_cache(self, rows: int, capacity: int) -> Any: ...
    def __call__(self, tokens: Tokens, places: Places, visible: Visibility, cache: Any, want: Tensor) -> Any: ...


class Canvases(NamedTuple):
    """H canvases a row, all `[B, H, C]`. accepted int64 `[B, H]`: the outcome each is for; drafts: how many tokens it drafts."""

    tokens: Tokens
    positions: Tensor
    valid: Tensor
    accepted: Tensor  # [B, H]
    drafts: Tensor  # [B, H]


@dataclass(frozen=True)
class SelfSpeculation:
    """Decode losslessly with drafts of at most `draft_length` tokens from the network's own canvas pass.

    outcomes: for which numbers of accepted tokens a verifying call carries a canvas.
      all   every one: one call a round, (k + 1)(k + 2) positions
      last  the whole draft accepted: one call then, two otherwise, 2 (k + 1) positions
      none  two calls a round: one drafts (and emits a token, because it reads the seed), one verifies
    temperature, rule, stop_ids, banned: as for `Verified`. controls: ids that a canvas must not write, never drafted.
    """

    denoiser: TwoStreamDenoiser
    process: NoiseProcess
    draft_length: int = 4
    outcomes: str = "all"
    temperature: float = 0.0
    rule: str = "coupled"
    stop_ids: frozenset[int] = frozenset()
    banned: tuple[int, ...] = ()
    controls: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        Judge(self.temperature, self.rule, self.banned)
        if self.outcomes not in OUTCOMES:
            raise ValueError(f"outcomes is {self.outcomes!r}; allowed: {', '.join(OUTCOMES)}")
        if self.draft_length < 1:
            raise ValueError(f"draft_length is {self.draft_length}; it must be at least 1")
        if self.outcomes == "all" and self.draft_length > MOST_FOR_ALL:
            raise ValueError(
                f"draft_length is {self.draft_length}; a canvas for every outcome allows at most {MOST_FOR_ALL}"
            )

    def frames(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        draws: Draws,
        forced: Sequence[dict[int, int]] | None = None,
        guide: Guide | None = None,
    ) -> Iterator[Frame]:
        """Decode all prompts together, one frame a row and call, as `Verified.frames` does."""
        answers = Answers(prompts, max_tokens, forced, self.stop_ids, guide)
        judge = Judge(self.temperature, self.rule, self.banned)
        most = 1 + (self.draft_length if self.outcomes == "all" else 0)
        scratch = self.draft_length + most * (self.draft_length + 1)
        cache = self.denoiser.new_cache(len(prompts), max(map(len, prompts)) + max_tokens + scratch)
        drafted = Drafted(torch.zeros(len(prompts), 0, dtype=torch.int64), counts=torch.zeros(len(prompts)).long())
        waiting = pad(prompts)  # what the next call reads: at first the prompts, then [seed, draft]
        step = 0
        while answers.active:
            ids, counts = waiting
            here = draws.rows(torch.tensor(answers.active)).at(step=0)
            canvases = self._canvases(answers, drafted.lengths(), here.at(step=step))
            logits, ahead, states = self._call(ids, counts, canvases, cache, every=step > 0)
            logits = answers.masked(logits, drafted.tokens)
            positions = positions_after(answers.texts, logits.shape[1])
            emitted = judge.emit(logits, drafted, answers.locked(logits.shape[1]), positions, here).ids
            starts = [len(text) for text in answers.texts]
            settled = [answers.add(i, new) for i, new in enumerate(emitted)]
            lengths = torch.tensor([len(new) for new, _, _ in settled])
            verified, computed = drafted.lengths().tolist(), (counts + canvases.valid.sum((1, 2))).tolist()
            drafted = self._draft(answers, canvases, ahead, states, lengths - 1, here)
            stay = [i for i, (_, _, over) in enumerate(settled) if not over]
            for i, (r, (new, status, over)) in enumerate(zip(answers.active, settled, strict=True)):
                kind = "read" if step == 0 else "verify" if verified[i] else "decode"
                tail = [] if over else drafted.tokens[i, : int(drafted.lengths()[i])].tolist()
                status += [OPEN] * len(tail)
                yield Frame(kind, r, 0, step, starts[i], new + tail, status, len(new), int(step > 0), computed[i])
            if not stay:
                return
            cache.keep(torch.minimum(lengths, counts) if step else counts)  # an end that was certain has not been read
            if len(stay) < len(answers.active):
                answers.active = [answers.active[i] for i in stay]
                cache = cache.fork(stay)
                drafted = Drafted(*(None if x is None else x[stay] for x in drafted))  # type: ignore[arg-type]
            longest = int(drafted.lengths().max())
            probs = None if drafted.probs is None else drafted.probs[:, :longest]
            drafted = Drafted(drafted.tokens[:, :longest], probs, drafted.counts)
            waiting = reading(answers, drafted)
            step += 1

    def _canvases(self, answers: Answers, read: Tensor, draws: Draws) -> Canvases:
        """The canvases of the coming call, whose rows read `read` `[B]` draft tokens: noise, with locked ids in their place."""
        k, shift = self.draft_length, self.denoiser.shift
        if self.outcomes == "all":
            accepted = torch.arange(int(read.max()) + 1).expand(len(read), -1)
            wanted = accepted <= read[:, None]
        else:
            accepted = read[:, None]
            wanted = (read[:, None] == 0) | (self.outcomes == "last")
        room = answers.rooms()[:, None] - (
            accepted + 1
        )  # after that outcome; the call that verifies emits one more itself
        drafts = torch.where(wanted, (room - 1).clamp(0, k), 0)
        width = torch.where(drafts > 0, drafts + 1 - shift, 0)  # a shifted row i already speaks about i + 1
        places = torch.arange(int(width.max()))
        offset = accepted[..., None] + places
        starts = torch.tensor([len(text) for text in answers.texts])
        positions = starts[:, None, None] + offset
        noise = self.process.prior(positions.flatten(1).shape, draws, positions.flatten(1)).reshape(positions.shape)
        lock = answers.locked(accepted.shape[1] + 2 * k + 1).gather(1, offset.flatten(1)).reshape(positions.shape)
        return Canvases(torch.where(lock >= 0, lock, noise), positions, places < width[..., None], accepted, drafts)

    def _call(
        self, ids: Tokens, counts: Tensor, canvases: Canvases, cache: Any, every: bool
    ) -> tuple[Logits, Logits, Tensor]:
        """One call over [clean | canvases] -> causal logits `[B, k + 1, V]`, the next drafts' `[B, H, K, V]`, and states.

        every: causal logits of all clean places, else of each row's last. The caller keeps what is right in the cache.
        """
        rows, length = ids.shape
        step = torch.arange(length)
        valid = step < counts[:, None]
        position = torch.where(valid, cache.lengths[:, None] + step, 0)
        clean = Places.of(position, torch.full_like(position, CLEAN), valid=valid)
        there = canvases.valid.flatten(1)
        position = torch.where(there, canvases.positions.flatten(1), 0)
        start = canvases.positions[..., :1].expand_as(canvases.positions).flatten(1)
        canvas = Places.of(position, torch.full_like(position, CANVAS), start, valid=there)
        outcomes, width = canvases.positions.shape[1:]
        skip = 1 - self.denoiser.shift  # the row about the canvas's first position is not wanted
        next_drafts = length + (torch.arange(outcomes)[:, None] * width + torch.arange(width)[skip:]).flatten()
        first = step.expand(rows, -1) if every else (counts - 1)[:, None]
        want = torch.cat((first, next_drafts.expand(rows, -1)), 1)
        tokens = torch.cat((ids, canvases.tokens.flatten(1)), 1)
        logits, _, states = self.denoiser(tokens, clean.cat(canvas), context_causal(), cache, want)
        causal, drafts = first.shape[1], (outcomes, max(width - skip, 0))
        return logits[:, :causal], logits[:, causal:].unflatten(1, drafts), states[:, causal:].unflatten(1, drafts)

    def _draft(
        self, answers: Answers, canvases: Canvases, logits: Logits, states: Tensor, accepted: Tensor, draws: Draws
    ) -> Drafted:
        """What the canvas of each row's outcome says about the tokens after the new seed, locked ids written into it.

        The draft is drawn with the uniform number that AR will use at the same position: under the coupled rule it is
        then right as often as its law allows, and no number decides twice, for a draft that is rejected is forgotten.
        """
        if logits.shape[2] == 0:
            return Drafted(torch.zeros(len(accepted), 0, dtype=torch.int64), counts=torch.zeros_like(accepted))
        match = canvases.accepted == accepted[:, None]
        index, row = match.to(torch.int64).argmax(-1), torch.arange(len(accepted))
        counts = torch.where(match.any(-1), canvases.drafts[row, index], 0)
        illegal = {*self.banned, *self.controls, self.process.mask_id}
        said, places = logits[row, index], positions_after(answers.texts, logits.shape[2])
        banned, lock = [i for i in illegal if i is not None], answers.locked(logits.shape[2])
        if self.denoiser.drafts_in_order:
            said = self._in_order(answers, said, states[row, index], places, lock, banned, draws)
        tokens, probs = choose(said, places, self.temperature, draws, banned)
        if answers.guide is not None:
            uniform = draws.uniform("token", places)
            tokens, probs = answers.guide.drafted(
                said, answers.active, lock, self.temperature, uniform, tokens, probs
            )  # fmt: skip
        return Drafted(torch.where(lock >= 0, lock, tokens), probs, counts)

    def _in_order(
        self, answers: Answers, said: Logits, states: Tensor, places: Tensor, lock: Tokens, banned: Sequence[int], draws: Draws
    ) -> Logits:  # fmt: skip
        """What the draft head makes of `said` `[B, K, V]`, each position given the tokens that are chosen before it."""
        before = torch.tensor([(text[-1], text[-2] if len(text) > 1 else text[-1]) for text in answers.texts])
        found = []
        for j in range(said.shape[1]):
            now = self.denoiser.redraft(said[:, j], states[:, j], before)[:, None]
            token, _ = choose(now, places[:, j : j + 1], self.temperature, draws, banned)
            token = torch.where(lock[:, j : j + 1] >= 0, lock[:, j : j + 1], token)
            before = torch.cat((token, before[:, :1]), 1)
            found.append(now)
        return torch.cat(found, 1)

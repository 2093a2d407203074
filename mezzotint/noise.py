"""The forward process: how text dissolves into noise, and the exact arithmetic of going back.

    q_t(. | x) = alpha_t [x] + (1 - alpha_t) pi_t            a cat sat -> a [M] sat -> [M] [M] sat -> [M] [M] [M]

Three processes, one formula: pi_t puts 1 - u on the mask and spreads u evenly over the ids that noise may draw.
Absorbing is u = 0, uniform is u = 1, hybrid lies between, and u may depend on the level (GIDD). With a = (1 - alpha)(1 - u)
the mass on the mask and b = (1 - alpha) u the mass on the uniform part, everything below is O(V) a position:

    transition  q(z_t | z_s) = alpha_ts [z_s] + r,   alpha_ts = alpha_t / alpha_s,   r = (a_t - alpha_ts a_s, b_t - alpha_ts b_s)
    posterior   q(z_s | z_t) = sum_x p(x | z_t) q(z_t | z_s) q_s(z_s | x) / q_t(z_t | x)

Two predictions must not be confused: the full posterior p(x_i | whole canvas), which a network trained by cross-entropy
gives, and the leave-one-out posterior p(x_i | canvas without z_i), for which the uniform and hybrid bounds are tight.
They differ by Bayes' factor q_t(z_i | x_i).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.shapes import Level, Probs, Tokens, Where, per_position

Curve = Callable[[Tensor], Tensor]
Prediction = Literal["full", "leave_one_out"]


@dataclass(frozen=True)
class Schedule:
    """alpha(t), the chance that a token is still clean at level t: 1 at t = 0, 0 at t = 1, decreasing. float64.

    last: alpha(1) of schedules that end a little before pure noise, as those that networks were told the level of.
    """

    name: str
    alpha_of: Curve = field(repr=False)
    dalpha_of: Curve = field(repr=False)
    level_of: Curve | None = field(default=None, repr=False)
    last: float = 0.0

    def __post_init__(self) -> None:
        ends = self.alpha(torch.tensor([0.0, 1.0]))
        if not 0 <= self.last < 0.5 or (ends - torch.tensor([1.0, self.last], dtype=torch.float64)).abs().max() > 1e-9:
            raise ValueError(
                f"schedule {self.name!r} goes from {ends[0]:g} to {ends[1]:g}; alpha must go from 1 to {self.last:g}"
            )
        if bool((self.alpha(torch.linspace(0, 1, 101)).diff() > 0).any()):
            raise ValueError(f"schedule {self.name!r} rises somewhere; alpha must decrease with the level")

    @classmethod
    def linear(cls) -> Schedule:
        """alpha = 1 - t (MDLM's log-linear sigma)."""
        return cls("linear", lambda t: 1 - t, lambda t: -torch.ones_like(t), lambda a: 1 - a)

    @classmethod
    def loglinear(cls, eps: float = 1e-3) -> Schedule:
        """alpha = 1 - (1 - eps) t, sigma = -log alpha: the total noise that SEDD and UDLM tell their networks."""
        span = 1 - eps
        name = f"loglinear {eps:g}"
        return cls(name, lambda t: 1 - span * t, lambda t: torch.full_like(t, -span), lambda a: (1 - a) / span, eps)

    @classmethod
    def geometric(cls, low: float = 1e-4, high: float = 20.0) -> Schedule:
        """sigma = low^(1 - t) high^t, alpha = exp(-sigma), and 1 at t = 0 (SEDD, arXiv 2310.16834)."""
        if not 0 < low < high:
            raise ValueError(f"sigma goes from {low} to {high}; expected 0 < low < high")
        ratio = math.log(high / low)

        def sigma(t: Tensor) -> Tensor:
            return low * (ratio * t).exp()

        return cls(
            f"geometric {low:g} {high:g}", lambda t: torch.where(t <= 0, 1.0, (-sigma(t)).exp()),
            lambda t: -ratio * sigma(t) * (-sigma(t)).exp(), last=math.exp(-high),
        )  # fmt: skip

    @classmethod
    def named(cls, name: str) -> Schedule:
        """By what `name` says: linear, cosine, loglinear EPS, geometric LOW HIGH. Raises ValueError for another."""
        try:
            match [*name.split()[:1], *map(float, name.split()[1:])]:
                case ["linear"]:
                    return cls.linear()
                case ["cosine"]:
                    return cls.cosine()
                case ["loglinear", float(eps)]:
                    return cls.loglinear(eps)
                case ["geometric", float(low), float(high)]:
                    return cls.geometric(low, high)
            raise ValueError
        except ValueError:
            allowed = "linear, cosine, loglinear EPS, geometric LOW HIGH"
            raise ValueError(f"schedule is {name!r}; allowed: {allowed}") from None

    @classmethod
    def cosine(cls) -> Schedule:
        """alpha = cos(pi t / 2) (MaskGIT, arXiv 2202.04200)."""
        half = math.pi / 2
        return cls(
            "cosine", lambda t: torch.where(t >= 1, 0.0, torch.cos(half * t)), lambda t: -half * torch.sin(half * t),
            lambda a: torch.acos(a) / half,
        )  # fmt: skip

    @classmethod
    def of(cls, alpha: Curve, dalpha: Curve, name: str = "custom") -> Schedule:
        """Any decreasing alpha with its derivative; the inverse is found by bisection."""
        return cls(name, alpha, dalpha)

    def alpha(self, t: Level) -> Level:
        return self.alpha_of(t.to(torch.float64))

    def dalpha(self, t: Level) -> Level:
        return self.dalpha_of(t.to(torch.float64))

    def level(self, alpha: Level) -> Level:
        """The t at which a token is clean with probability `alpha`."""
        alpha = alpha.to(torch.float64)
        if self.level_of is not None:
            return self.level_of(alpha)
        low, high = torch.zeros_like(alpha), torch.ones_like(alpha)
        for _ in range(60):
            middle = (low + high) / 2
            above = self.alpha(middle) > alpha
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2

    def grid(self, num_steps: int) -> Level:
        """Levels from 1 down to 0: float64 `[num_steps + 1]`."""
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; it must be at least 1")
        return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


def _constant(value: float) -> Curve:
    return lambda t: torch.full_like(t, value)


@dataclass(frozen=True)
class NoiseProcess:
    """Noise with a mask id, a support, or both. `support`: the ids that uniform noise may draw.

    share: u(t), the uniform part of the noise; dshare: its derivative. Raises ValueError for ids outside the vocabulary.
    """

    vocab_size: int
    mask_id: int | None
    support: tuple[int, ...] = field(repr=False)
    schedule: Schedule = field(default_factory=Schedule.linear)
    share: Curve = field(default=_constant(0.0), repr=False)
    dshare: Curve = field(default=_constant(0.0), repr=False)

    def __post_init__(self) -> None:
        if self.mask_id is not None and not 0 <= self.mask_id < self.vocab_size:
            raise ValueError(f"mask_id {self.mask_id} is outside the vocabulary of {self.vocab_size}")
        if any(not 0 <= v < self.vocab_size for v in self.support) or len(set(self.support)) != len(self.support):
            raise ValueError(f"support must hold distinct ids below {self.vocab_size}")
        if self.mask_id in self.support:
            raise ValueError(f"mask_id {self.mask_id} is in the support; uniform noise must not draw the mask")
        u = self.share(torch.linspace(0, 1, 11, dtype=torch.float64)[1:-1])
        if bool(((u < 0) | (u > 1)).any()):
            raise ValueError(f"the uniform share is {u.tolist()}; it must lie between 0 and 1")
        if (self.mask_id is None and bool((u < 1).any())) or (not self.support and bool((u > 0).any())):
            raise ValueError("a share below 1 needs a mask_id, a share above 0 needs a support")

    # -- the two parts of the noise ---------------------------------------------------------------------------------

    def _masses(self, t: Level) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, a (on the mask), b (on the uniform part): they sum to 1."""
        alpha, u = self.schedule.alpha(t), self.share(t.to(torch.float64))
        return alpha, (1 - alpha) * (1 - u), (1 - alpha) * u

    def _pi(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """The mask and the uniform distribution over the vocabulary, float64 `[V]` each."""
        mask = torch.zeros(self.vocab_size, dtype=torch.float64, device=device)
        even = torch.zeros_like(mask)
        if self.mask_id is not None:
            mask[self.mask_id] = 1
        if self.support:
            even[torch.tensor(self.support, device=device)] = 1 / len(self.support)
        return mask, even

    def marginal(self, clean: Probs, t: Level) -> Probs:
        """q_t(. | x) mixed over `clean` `[B, L, V]` (one-hot, or a distribution): float64 `[B, L, V]`."""
        mask, even = self._pi(clean.device)
        alpha, a, b = (x[..., None] for x in self._masses(per_position(t, clean.shape[1])))
        return alpha * clean.to(torch.float64) + a * mask + b * even

    def transition(self, s: float, t: float) -> Tensor:
        """q(z_t | z_s) as a matrix, float64 `[V, V]`, row z_s. For tests and small vocabularies."""
        levels = torch.tensor([s, t], dtype=torch.float64)
        alpha, a, b = self._masses(levels)
        keep = alpha[1] / alpha[0] if alpha[0] > 0 else torch.ones((), dtype=torch.float64)
        mask, even = self._pi()
        return (
            keep * torch.eye(self.vocab_size, dtype=torch.float64)
            + (a[1] - keep * a[0]) * mask
            + (b[1] - keep * b[0]) * even
        )

    # -- sampling ---------------------------------------------------------------------------------------------------

    def _noise(self, shape: Sequence[int] | torch.Size, t: Level, draws: Draws, positions: Tensor | None) -> Tokens:
        """Tokens drawn from pi_t, int64 `[B, L]`."""
        positions = torch.arange(shape[1]) if positions is None else positions
        u = self.share(per_position(t, shape[1]).to(torch.float64))
        token = torch.full(tuple(shape), -1 if self.mask_id is None else self.mask_id, dtype=torch.int64)
        if not self.support:
            return token
        index = (draws.uniform("noise-token", positions) * len(self.support)).to(torch.int64)
        even = torch.tensor(self.support)[index]
        return torch.where(draws.uniform("noise-kind", positions) < u, even, token)

    def prior(self, shape: Sequence[int] | torch.Size, draws: Draws, positions: Tensor | None = None) -> Tokens:
        """A canvas of nothing but noise: int64 `shape` = (B, C). positions `[B, C]` address the draws."""
        return self._noise(shape, torch.ones(shape[0], dtype=torch.float64), draws, positions)

    def corrupt(
        self, clean: Tokens, t: Level, editable: Where | None, draws: Draws, positions: Tensor | None = None
    ) -> Tokens:
        """x_t given x_0 = `clean` `[B, L]`; only `editable` positions (None: all) may change."""
        where = torch.arange(clean.shape[1]) if positions is None else positions
        gone = draws.uniform("corrupt", where) >= self.schedule.alpha(per_position(t, clean.shape[1]))
        if editable is not None:
            gone = gone & editable
        return torch.where(gone, self._noise(clean.shape, t, draws, positions), clean)

    def renoise(self, tokens: Tokens, where: Where, t: Level, draws: Draws, positions: Tensor | None = None) -> Tokens:
        """Fresh noise of level t at `where`, the rest untouched."""
        return torch.where(where, self._noise(tokens.shape, t, draws, positions), tokens)

    def looks_noisy(self, tokens: Tokens) -> Where | None:
        """Which tokens are noise, where that can be seen: exact for absorbing; None when noise may look like text."""
        half = self.share(torch.tensor([0.5], dtype=torch.float64))
        return None if bool(half > 0) else tokens.eq(self.mask_id if self.mask_id is not None else -1)

    # -- going back -------------------------------------------------------------------------------------------------

    def to_full(self, predicted: Probs, noisy: Tokens, t: Level) -> Probs:
        """Leave-one-out `[B, L, V]` -> full posterior: times q_t(z | v), renormalised."""
        return _normalise(predicted.to(torch.float64) * self._likelihood(noisy, t))

    def to_leave_one_out(self, predicted: Probs, noisy: Tokens, t: Level) -> Probs:
        """Full posterior `[B, L, V]` -> leave-one-out: divided by q_t(z | v), renormalised. Unchanged at masked places."""
        likelihood = self._likelihood(noisy, t)
        return _normalise(torch.where(likelihood > 0, predicted.to(torch.float64) / likelihood, 0.0))

    def _likelihood(self, noisy: Tokens, t: Level) -> Tensor:
        """q_t(z | v) for every clean v: float64 `[B, L, V]`."""
        mask, even = self._pi(noisy.device)
        alpha, a, b = self._masses(per_position(t, noisy.shape[1]))
        other = a * mask[noisy] + b * even[noisy]  # [B, L]
        same = torch.nn.functional.one_hot(noisy, self.vocab_size).to(torch.float64)
        return other[..., None] + alpha[..., None] * same

    def posterior(self, noisy: Tokens, predicted: Probs, s: Level, t: Level) -> Probs:
        """q(x_s | x_t, prediction) for the full posterior `predicted` `[B, C, V]`, s <= t: float64 `[B, C, V]`.

        A visible token under absorbing noise is certain whatever is predicted (carry-over).
        """
        length = noisy.shape[1]
        s, t = per_position(s, length).to(torch.float64), per_position(t, length).to(torch.float64)
        if bool((s > t).any()):
            raise ValueError("posterior goes from t down to s; a level s is above its t")
        mask, even = self._pi(noisy.device)
        alpha_s, a_s, b_s = self._masses(s)
        alpha_t, a_t, b_t = self._masses(t)
        keep = torch.where(alpha_s > 0, alpha_t / alpha_s.clamp(min=1e-300), 1.0)
        jump = (a_t - keep * a_s) * mask[noisy] + (b_t - keep * b_s) * even[noisy]  # r(z_t), [B, C]
        likelihood = self._likelihood(noisy, t)
        weight = torch.where(likelihood > 0, predicted.to(torch.float64) / likelihood.clamp(min=1e-300), 0.0)
        total = weight.sum(-1)
        mixed = alpha_s[..., None] * weight + total[..., None] * (a_s[..., None] * mask + b_s[..., None] * even)
        same = torch.nn.functional.one_hot(noisy, self.vocab_size).to(torch.float64)
        law = (keep[..., None] * same + jump.clamp(min=0)[..., None]) * mixed
        return torch.where((law.sum(-1) > 0)[..., None], _normalise(law), same)

    def nelbo(
        self,
        log_probs: Tensor,
        clean: Tokens,
        noisy: Tokens,
        t: Level,
        s: Level | None = None,
        prediction: Prediction = "full",
    ) -> Tensor:
        """The bound's integrand in nats, float64 `[B, L]`: its mean over t ~ U(0, 1) and x_t bounds -log p a position.

        log_probs `[B, L, V]`: the prediction about x_0. Continuous time (s None): with q_x = q_t(. | x), q_p = q_t(. | p),
        w (KL(q_x || q_p) + r - log r - 1), r = q_x(z) / q_p(z), w = rate of jumping to z / q_x(z) (GIDD, arXiv 2503.04482;
        for absorbing -alpha' / (1 - alpha) times cross-entropy at masks: MDLM, arXiv 2406.07524; for uniform, value by value,
        the integrands of UDLM, arXiv 2412.10193, and Duo, arXiv 2506.10892). With s, the KL of one step t -> s of a grid;
        summed over the grid it is the discrete bound, s = 0 included (reconstruction).
        """
        if prediction not in ("full", "leave_one_out"):
            raise ValueError(f"prediction is {prediction!r}; allowed: full, leave_one_out")
        length = clean.shape[1]
        if s is None and not self.support:  # MDLM's form of the same: nothing the size of the vocabulary
            assert self.mask_id is not None
            alpha, dalpha = (f(per_position(t, length)) for f in (self.schedule.alpha, self.schedule.dalpha))
            cross_entropy = -log_probs.gather(-1, clean[..., None])[..., 0].to(torch.float64)
            return torch.where(noisy.eq(self.mask_id), -dalpha / (1 - alpha).clamp(min=1e-300) * cross_entropy, 0.0)
        probs = log_probs.to(torch.float64).exp()
        one_hot = torch.nn.functional.one_hot(clean, self.vocab_size).to(torch.float64)
        if s is not None:
            full = self.to_full(probs, noisy, t) if prediction == "leave_one_out" else probs
            truth = self.posterior(noisy, one_hot, s, t)
            model = self.posterior(noisy, full, s, t)
            return _kl(truth, model)
        loo = self.to_leave_one_out(probs, noisy, t) if prediction == "full" else probs
        t = per_position(t, length).to(torch.float64)
        q_x, q_p = self.marginal(one_hot, t), self.marginal(loo, t)
        x_z, p_z = (q.gather(-1, noisy[..., None])[..., 0] for q in (q_x, q_p))
        rate = self._rates(t, noisy.device).gather(-1, noisy[..., None])[..., 0]
        inside = _kl(q_x, q_p) + _itakura_saito(x_z, p_z)
        return torch.where(rate > 0, rate / x_z.clamp(min=1e-300) * inside, 0.0)

    def nelbo_own_noise_summed(
        self, log_probs: Tensor, clean: Tokens, noisy: Tokens, t: Level, prediction: Prediction = "full"
    ) -> Tensor:
        """`nelbo` averaged over the position's own noise z ~ q_t(. | x), given all other positions: float64 `[B, L]`.

        sum_z rate(z) (KL(q_x || q_p) + r(z) - log r(z) - 1): Rao-Blackwell, so the same mean and less variance, at the
        same cost. Only for predictions whose leave-one-out form does not change with the position's own token, as an
        exact denoiser's does not; one that peeks gets a number that is no bound. Raises ValueError for noise without a
        uniform part: a visible token then is certain, and its full posterior holds no leave-one-out form.
        """
        if self.looks_noisy(noisy) is not None:
            raise ValueError("summing over a position's own noise needs uniform noise; this process only masks")
        probs = log_probs.to(torch.float64).exp()
        loo = self.to_leave_one_out(probs, noisy, t) if prediction == "full" else probs
        t = per_position(t, clean.shape[1]).to(torch.float64)
        one_hot = torch.nn.functional.one_hot(clean, self.vocab_size).to(torch.float64)
        q_x, q_p = self.marginal(one_hot, t), self.marginal(loo, t)
        rates = self._rates(t, noisy.device)
        inside = _kl(q_x, q_p)[..., None] + _itakura_saito(q_x, q_p)
        return torch.where(rates > 0, rates * inside, 0.0).sum(-1)

    def _rates(self, t: Level, device: torch.device) -> Tensor:
        """Rate at which the forward process jumps to each z: d/dt of r(z) at s = t, float64 `[B, L, V]`, t `[B, L]`."""
        alpha, a, b = self._masses(t)
        dalpha, u, du = self.schedule.dalpha(t), self.share(t), self.dshare(t)
        da = -dalpha * (1 - u) - (1 - alpha) * du
        db = -dalpha * u + (1 - alpha) * du
        mask, even = self._pi(device)
        fall = dalpha / alpha.clamp(min=1e-300)
        return ((da - fall * a)[..., None] * mask + (db - fall * b)[..., None] * even).clamp(min=0)


def _normalise(law: Tensor) -> Tensor:
    return law / law.sum(-1, keepdim=True).clamp(min=1e-300)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) over the last axis; infinite where q gives up what p does not."""
    needed = torch.where(p > 0, q, 1.0)  # no log 0 where p is 0: 0 times its gradient is not a number
    return (torch.xlogy(p, p) - p * needed.log()).sum(-1)


def _itakura_saito(p: Tensor, q: Tensor) -> Tensor:
    """r - log r - 1 for r = p / q."""
    r = p / q.clamp(min=1e-300)
    return r - r.clamp(min=1e-300).log() - 1


def Absorbing(mask_id: int, vocab_size: int, schedule: Schedule | None = None) -> NoiseProcess:
    """Noise is the mask (MDLM, LLaDA): alpha x + (1 - alpha) [M]."""
    return NoiseProcess(vocab_size, mask_id, (), schedule or Schedule.linear())


def Uniform(
    support: Sequence[int] | int, vocab_size: int | None = None, schedule: Schedule | None = None
) -> NoiseProcess:
    """Noise is a random id (UDLM, DiffusionGemma). support: the ids, or a number n for 0..n-1."""
    ids = tuple(range(support)) if isinstance(support, int) else tuple(support)
    size = max(ids) + 1 if vocab_size is None else vocab_size
    return NoiseProcess(size, None, ids, schedule or Schedule.linear(), _constant(1.0))


def Hybrid(
    mask_id: int, support: Sequence[int], vocab_size: int, share: float | Curve, dshare: Curve | None = None,
    schedule: Schedule | None = None,
) -> NoiseProcess:  # fmt: skip
    """Masks, and a share of random ids: a number, or a curve of the level with its derivative."""
    if callable(share) and dshare is None:
        raise ValueError("a share that depends on the level needs its derivative, dshare")
    curve = share if callable(share) else _constant(float(share))
    return NoiseProcess(
        vocab_size, mask_id, tuple(support), schedule or Schedule.linear(), curve, dshare or _constant(0.0)
    )


def gidd(mask_id: int, support: Sequence[int], vocab_size: int, p_uniform: float) -> NoiseProcess:
    """GIDD's hybrid with gamma = 1 (arXiv 2503.04482): p_uniform is the uniform share of the noise's marginal at t = 1/2.

    c = B sqrt(t (1 - t)), B = 2 p / (1 - p); alpha = (1 - t) / (1 + c); u = c / (t + c).
    """
    if not 0 < p_uniform < 1:
        raise ValueError(f"p_uniform is {p_uniform}; it must lie between 0 and 1, ends excluded")
    big = 2 * p_uniform / (1 - p_uniform)
    tiny = 1e-12

    def c(t: Tensor) -> Tensor:
        return big * (t * (1 - t)).clamp(min=0).sqrt()

    def dc(t: Tensor) -> Tensor:
        return big * (1 - 2 * t) / (2 * (t * (1 - t)).clamp(min=tiny).sqrt())

    schedule = Schedule.of(
        lambda t: (1 - t) / (1 + c(t)),
        lambda t: (-(1 + c(t)) - (1 - t) * dc(t)) / (1 + c(t)) ** 2,
        f"gidd({p_uniform:g})",
    )

    def share(t: Tensor) -> Tensor:
        return c(t) / (t + c(t)).clamp(min=tiny)

    def dshare(t: Tensor) -> Tensor:
        return (dc(t) * t - c(t)) / (t + c(t)).clamp(min=tiny) ** 2

    return Hybrid(mask_id, support, vocab_size, share, dshare, schedule)

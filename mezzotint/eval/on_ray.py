"""Answers made by many workers on Ray: each holds the model, and takes a batch at a time.

    items -> batches -> whichever worker is free -> answers in the items' order, into the one store

The store is what it would be without: the same system, so a run may be begun here and ended there. `ray.init()` follows
RAY_ADDRESS; without one Ray uses this machine. Model and adapter must lie where every worker can read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mezzotint.eval.store import Answer
from mezzotint.eval.systems import Local
from mezzotint.eval.task import Item

if TYPE_CHECKING:
    from mezzotint.engine.request import Request


@dataclass(frozen=True)
class Recipe:
    """What a worker makes its system of."""

    model: str
    adapter: str | None
    compute: str
    settings: Request
    batch: int
    given_length: bool = False

    def make(self) -> Local:
        from mezzotint.checkpoints.load import load
        from mezzotint.engine.engine import Engine

        return Local(
            Engine(load(self.model, self.adapter), compute=self.compute), self.settings, self.batch, self.given_length
        )


class Worker:
    """Lives on Ray."""

    def __init__(self, recipe: Recipe) -> None:
        self.local = recipe.make()

    def about(self) -> dict[str, Any]:
        return self.local.about

    def ask(self, items: Sequence[Item], sample: int, max_tokens: int) -> list[Answer]:
        return self.local.ask(items, sample, max_tokens)


class OnRay:
    """A `System` of so many workers; cores: that each may use. Raises ValueError where Ray is not installed."""

    def __init__(self, recipe: Recipe, workers: int, cores: float = 1) -> None:
        if workers < 1:
            raise ValueError(f"--ray is {workers}; it must be at least 1")
        try:
            import ray
            from ray.util import ActorPool
        except ImportError:
            raise ValueError("ray is not installed: pip install 'mezzotint[ray]'") from None
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        actor: Any = ray.remote(num_cpus=cores)(Worker)  # Ray's own types know no remote of a class made so
        actors = [actor.remote(recipe) for _ in range(workers)]
        self.batch, self.size = recipe.batch, recipe.batch * workers
        self._pool, self._about = ActorPool(actors), ray.get(actors[0].about.remote())

    @property
    def about(self) -> dict[str, Any]:
        return dict(self._about)

    def ask(self, items: Sequence[Item], sample: int, max_tokens: int) -> list[Answer]:
        batches = [items[begin : begin + self.batch] for begin in range(0, len(items), self.batch)]
        made = self._pool.map(lambda actor, some: actor.ask.remote(some, sample, max_tokens), batches)
        return [answer for answers in made for answer in answers]

"""Systems that answer: a checkpoint through `Engine`, or an endpoint that speaks OpenAI's API.

    items -> prompts (chat template, or the plain prompt for a model without one) -> Answers, each with calls and seconds

A prompt that leaves no room in the context is not asked: reason "context". One that leaves less room than
`max_tokens` gets what there is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from mezzotint.eval.store import Answer
from mezzotint.eval.task import Item

if TYPE_CHECKING:
    from mezzotint.engine.engine import Engine
    from mezzotint.engine.request import Reply, Request


POSITIONS = 32768  # of the keys and values that one batch may hold: 1.5 GB of a 135M model


class System(Protocol):
    """about: what identifies it, for the store. size: items of one batch."""

    size: int

    @property
    def about(self) -> dict[str, Any]: ...

    def ask(self, items: Sequence[Item], sample: int, max_tokens: int) -> list[Answer]: ...


@dataclass
class Local:
    """A checkpoint. settings: a Request whose prompt, choice and max_tokens are left out of account.

    given_length: holes of infilling have their true length; else it is found. size: rows of one batch.
    """

    engine: Engine
    settings: Request
    size: int = 8
    given_length: bool = False

    @property
    def about(self) -> dict[str, Any]:
        checkpoint, s = self.engine.checkpoint, self.settings
        about = {
            "model": checkpoint.name, "weights_sha256": checkpoint.weights_sha256(), "decode": s.decode, "seed": s.seed,
            "temperature": s.temperature, "batch": self.size,
        }  # fmt: skip
        if self.engine.compute != "float32":
            about["compute"] = self.engine.compute
        if checkpoint.adapter is not None:
            about["adapter"] = checkpoint.adapter.folder.name
        if s.decode == "verified":
            about |= {"draft": s.draft, "draft_length": s.draft_length}
        if s.decode == "diffusion":
            about |= {"policy": repr(s.policy), "trained_canvas": checkpoint.facts.trained_canvas}
        return about | ({"given_length": True} if self.given_length else {})

    @property
    def chats(self) -> bool:
        return self.engine.tokenizer.chat_template is not None

    def ask(self, items: Sequence[Item], sample: int, max_tokens: int) -> list[Answer]:
        fills = self.settings.decode == "diffusion" and self.engine.checkpoint.facts.trained_canvas
        answers: dict[str, Answer] = {}
        requests: dict[str, Request] = {}
        for item in items:
            if fills and item.hole:
                answers[item.id] = self._fill(item, sample)
                continue
            prompt: Any = list(item.chat) if self.chats else item.plain
            request = replace(
                self.settings, prompt=prompt, raw=not self.chats, choice=sample, max_tokens=1
            )  # fmt: skip
            room = self._room(request)
            if room < 1:
                answers[item.id] = Answer(item.id, sample, item.prompt_sha256, "", "context", not self.chats)
            else:
                requests[item.id] = replace(request, max_tokens=min(max_tokens, room))
        by_id = {item.id: item for item in items}
        for names in self._together({name: self._length(request) for name, request in requests.items()}):
            began = time.perf_counter()
            replies = self.engine.generate([requests[name] for name in names])
            seconds = time.perf_counter() - began
            for name, reply in zip(names, replies, strict=True):
                answers[name] = self._answer(by_id[name], sample, reply, seconds, len(names))
        return [answers[item.id] for item in items]

    def _length(self, request: Request) -> int:
        """Positions that an answer may reach."""
        return len(self.engine.prompt_ids(request)) + request.max_tokens

    def _together(self, lengths: Mapping[str, int]) -> Iterator[list[str]]:
        """Names whose rows, padded to the longest of them, fit `POSITIONS`; one alone always does."""
        some: list[str] = []
        for name in sorted(lengths, key=lambda name: lengths[name]):
            if some and (len(some) + 1) * lengths[name] > POSITIONS:
                yield some
                some = []
            some.append(name)
        if some:
            yield some

    def _room(self, request: Request) -> int:
        """Tokens that an answer may have."""
        longest = self.engine.checkpoint.config.max_length
        try:
            return longest - len(self.engine.prompt_ids(request))
        except ValueError as error:
            if "context" in str(error):
                return 0
            raise

    def _answer(self, item: Item, sample: int, reply: Reply, seconds: float, batch: int) -> Answer:
        trace = reply.trace
        return Answer(
            item.id, sample, item.prompt_sha256, reply.text, reply.reason, not self.chats, trace.num_tokens, trace.num_calls,
            trace.num_positions, round(seconds, 4), batch, ids=reply.ids,
        )  # fmt: skip

    def _fill(self, item: Item, sample: int) -> Answer:
        from mezzotint.edit.infill import infill, literal

        assert item.hole is not None
        length = len(self.engine.tokenizer.encode(item.gold["canonical_solution"])) if self.given_length else ""
        text = f"{literal(item.hole[0], True)}[[{length or ' '}]]{literal(item.hole[1])}"
        began = time.perf_counter()
        try:
            filled = infill(self.engine, text, self.settings.policy, seed=self.settings.seed + sample, max_length=32)
        except ValueError as error:
            if "context" in str(error):
                return Answer(item.id, sample, item.prompt_sha256, "", "context", True)
            raise
        hole = filled.holes[0]
        return Answer(
            item.id, sample, item.prompt_sha256, hole.text, "stop", True, hole.length, filled.num_calls,
            filled.trace.num_positions, round(time.perf_counter() - began, 4),
        )  # fmt: skip


def logit_gap(local: Local, item: Item, written: Sequence[int]) -> float:
    """Between the two likeliest next tokens behind an item's prompt and some tokens of an answer, by one causal pass."""
    import torch

    prompt: Any = list(item.chat) if local.chats else item.plain
    request = replace(local.settings, prompt=prompt, raw=not local.chats, max_tokens=1)
    ids = [*local.engine.prompt_ids(request), *written]
    with torch.inference_mode():
        cache = local.engine.denoiser.new_cache(1, len(ids))
        logits = local.engine.denoiser.read(torch.tensor([ids]), torch.tensor([len(ids)]), cache).logits[0, -1]
    first, second = logits.topk(2).values.tolist()
    return float(first - second)


class EndpointGone(RuntimeError):
    """A system has stopped answering, or refuses us; what was answered is kept."""


@dataclass
class Endpoint:
    """An OpenAI-compatible server, through `engine/remote.py`. url: up to and with /v1. key: a bearer token, never shown.

    decode: sent along where it is given, for our own server. size: requests under way at once. seconds: longest silence of
    one. seed: None is 0. provider: mercury for its own API, which has none. longest_wait: seconds before a request is sent again.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    decode: str | None = None
    temperature: float = 0.0
    seed: int | None = 0
    size: int = 8
    seconds: float = 600.0
    tries: int = 4
    provider: str = "openai"
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        from mezzotint.engine.remote import Remote

        self.url = self.url.rstrip("/").removesuffix("/chat/completions")
        self._remote = Remote(
            self.provider, self.model, self.url, self.key, more={"decode": self.decode} if self.decode else {},
            silence=self.seconds, tries=self.tries, longest_wait=self.longest_wait,
        )  # fmt: skip

    @property
    def about(self) -> dict[str, Any]:
        return {
            "model": self.model, "endpoint": self.url, "decode": self.decode or "as the server decides", "seed": self.seed,
            "temperature": self.temperature,
        }  # fmt: skip

    def ask(self, items: Sequence[Item], sample: int, max_tokens: int) -> list[Answer]:
        async def all_of() -> list[Answer]:
            gate = asyncio.Semaphore(self.size)

            async def one(item: Item) -> Answer:
                async with gate:
                    return await self._one(item, sample, max_tokens)

            return list(await asyncio.gather(*map(one, items)))

        return asyncio.run(all_of())

    async def _one(self, item: Item, sample: int, max_tokens: int) -> Answer:
        from mezzotint.engine.remote import RemoteError
        from mezzotint.engine.request import Request

        request = Request(
            list(item.chat), max_tokens=max_tokens, temperature=self.temperature, seed=self.seed or 0, choice=sample
        )
        try:
            reply = await self._remote.answer(request)
        except RemoteError as error:
            if error.status == 400 and "context" in str(error).lower():
                return Answer(item.id, sample, item.prompt_sha256, "", "context")
            return Answer(item.id, sample, item.prompt_sha256, "", "error", note=str(error)[:200])
        reason = {"content_filter": "refused", "length": "length"}.get(reply.reason, "stop")
        usage = reply.usage
        return Answer(
            item.id, sample, item.prompt_sha256, reply.text, reason, tokens=usage.completion or 0, calls=usage.calls,
            positions=usage.positions, seconds=round(reply.seconds, 4),
        )  # fmt: skip

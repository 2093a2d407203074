"""Systems that answer: a checkpoint through `Engine`, or an endpoint that speaks OpenAI's API.

    items -> prompts (chat template, or the plain prompt for a model without one) -> Answers, each with calls and seconds

A prompt that leaves no room in the context is not asked: reason "context". One that leaves less room than
`max_tokens` gets what there is.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from mezzotint.eval.store import Answer
from mezzotint.eval.task import Item

if TYPE_CHECKING:
    from mezzotint.engine.engine import Engine
    from mezzotint.engine.request import Reply, Request


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
        began = time.perf_counter()
        replies = self.engine.generate(list(requests.values())) if requests else []
        seconds = time.perf_counter() - began
        for (name, _), reply in zip(requests.items(), replies, strict=True):
            item = next(item for item in items if item.id == name)
            answers[name] = self._answer(item, sample, reply, seconds, len(requests))
        return [answers[item.id] for item in items]

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


RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}


@dataclass
class Endpoint:
    """An OpenAI-compatible server. url: up to and with /v1. key: sent as a bearer token, never stored or shown.

    decode: sent along where it is given, for our own server. size: requests under way at once. seconds: longest wait for one.
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
    pause: float = 1.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"the endpoint is {self.url!r}; it must begin with http:// or https://")
        self.url = self.url.rstrip("/").removesuffix("/chat/completions")

    @property
    def about(self) -> dict[str, Any]:
        return {
            "model": self.model, "endpoint": self.url, "decode": self.decode or "as the server decides", "seed": self.seed,
            "temperature": self.temperature,
        }  # fmt: skip

    def ask(self, items: Sequence[Item], sample: int, max_tokens: int) -> list[Answer]:
        with ThreadPoolExecutor(self.size) as pool:
            answers = list(pool.map(lambda item: self._one(item, sample, max_tokens), items))
        return answers

    def _one(self, item: Item, sample: int, max_tokens: int) -> Answer:
        body: dict[str, Any] = {
            "model": self.model, "messages": [dict(message) for message in item.chat], "max_tokens": max_tokens,
            "temperature": self.temperature,
        }  # fmt: skip
        if self.seed is not None:
            body["seed"] = self.seed + sample
        if self.decode:
            body["decode"] = self.decode
        began, failed = time.perf_counter(), ""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                told = self._post(body)
                return self._read(told, item, sample, time.perf_counter() - began)
            except urllib.error.HTTPError as error:
                message = _message(error)
                if error.code == 400 and "context" in message.lower():
                    return Answer(item.id, sample, item.prompt_sha256, "", "context")
                failed = f"{error.code}: {message}"
                if error.code not in RETRIED:
                    break
            except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
                failed = f"{type(error).__name__}: {error}"
        return Answer(item.id, sample, item.prompt_sha256, "", "error", note=failed[:200])

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"content-type": "application/json", "user-agent": "mezzotint-eval"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.seconds) as response:
            told = json.loads(response.read())
        if not isinstance(told, dict):
            raise ValueError("the answer is no JSON object")
        return told

    def _read(self, told: Mapping[str, Any], item: Item, sample: int, seconds: float) -> Answer:
        choice = told["choices"][0]
        message, usage = choice["message"], told.get("usage") or {}
        ended = choice.get("finish_reason")
        refused = message.get("refusal") or ended == "content_filter"
        reason = "refused" if refused else "length" if ended == "length" else "stop"
        diffusion = usage.get("diffusion") or {}
        return Answer(
            item.id, sample, item.prompt_sha256, message.get("content") or message.get("refusal") or "", reason,
            tokens=int(usage.get("completion_tokens") or 0), calls=diffusion.get("calls"), positions=diffusion.get("positions"),
            seconds=round(seconds, 4),
        )  # fmt: skip


def _message(error: urllib.error.HTTPError) -> str:
    text = error.read(4096).decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return text[:200]

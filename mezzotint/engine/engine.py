"""Engine: a checkpoint's weights in memory, and requests decoded on them.

request -> prompt ids -> frames of the sampler -> committed ids -> pieces of text (never half a character)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from mezzotint.checkpoints.load import Checkpoint
from mezzotint.draws import Draws
from mezzotint.engine.request import Event, Finished, Reply, Request, Text
from mezzotint.model.denoiser import Denoiser
from mezzotint.sampler.blocks import block_frames
from mezzotint.sampler.decoding import POLICIES, Decoding
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.pipeline import Pipeline, pipeline_frames
from mezzotint.sampler.speculate import SelfSpeculation
from mezzotint.sampler.trace import Frame, Trace
from mezzotint.sampler.verify import Drafter, GivenText, PreviousIterate, RandomTokens, Verified

OUTCOMES_OF = {"self": "all", "self-last": "last", "self-two-call": "none"}  # draft -> SelfSpeculation.outcomes


class Engine:
    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, threads: int | None = None) -> None:
        """Loads the weights. threads: CPU threads torch may use; None leaves torch's own choice."""
        if threads is not None:
            torch.set_num_threads(threads)
        self.checkpoint = checkpoint
        self.tokenizer = checkpoint.tokenizer
        self.denoiser: Denoiser = checkpoint.denoiser(dtype=dtype)

    def prompt_ids(self, request: Request) -> list[int]:
        """The ids that the model reads. Raises ValueError when they and the answer exceed the context."""
        if isinstance(request.prompt, str) and request.raw:
            ids = self.tokenizer.encode(request.prompt)
        else:
            messages = (
                [{"role": "user", "content": request.prompt}] if isinstance(request.prompt, str) else request.prompt
            )
            ids = self.tokenizer.chat([dict(message) for message in messages])
        room = self.denoiser.config.max_length - len(ids) - request.max_tokens
        if room < 0:
            raise ValueError(
                f"the prompt has {len(ids)} tokens and the answer may have {request.max_tokens}: together more than the "
                f"{self.denoiser.config.max_length} of this model's context; shorten one of them"
            )
        return ids

    def stream(self, request: Request) -> Iterator[Event]:
        """Frames of every call, committed text as it settles, and how it ended."""
        return self._events([request])

    def generate(self, requests: Request | Sequence[Request]) -> list[Reply]:
        """Replies in order. Requests that differ only in prompt, seed, locks and draft text share their forwards."""
        todo = [requests] if isinstance(requests, Request) else list(requests)
        replies: list[Reply | None] = [None] * len(todo)
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, request in enumerate(todo):
            own = index if request.draft == "text" else None  # a given text belongs to its own row
            shared = (request.decode, request.max_tokens, request.temperature, request.draft, request.draft_length)
            groups.setdefault((*shared, repr(request.policy), request.blocks_in_flight, own), []).append(index)
        for members in groups.values():
            for index, reply in zip(members, self._replies([todo[i] for i in members]), strict=True):
                replies[index] = reply
        return [reply for reply in replies if reply is not None]

    def _replies(self, requests: Sequence[Request]) -> list[Reply]:
        traces = [Trace(self.header(request)) for request in requests]
        texts = ["" for _ in requests]
        reasons = ["length" for _ in requests]
        for event in self._events(requests):
            if isinstance(event, Frame):
                traces[event.row].add(event)
            elif isinstance(event, Text):
                texts[event.row] += event.piece
            else:
                reasons[event.row] = event.reason
        stop_ids = self.stop_ids
        replies = []
        for text, reason, trace in zip(texts, reasons, traces, strict=True):
            ids = trace.replay()
            ids = ids[:-1] if reason == "stop" and ids and ids[-1] in stop_ids else ids
            replies.append(Reply(text, ids, "stop" if reason == "stop" else "length", trace))
        return replies

    def header(self, request: Request) -> dict[str, object]:
        """What a trace of this request says of its origin."""
        policy = request.policy if isinstance(request.policy, str) else repr(request.policy)
        return {
            "model": self.checkpoint.name, "prompt": request.prompt, "decode": request.decode, "seed": request.seed,
            "temperature": request.temperature, "policy": policy if request.decode == "diffusion" else None,
        }  # fmt: skip

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.eos_ids)

    def _events(self, requests: Sequence[Request]) -> Iterator[Event]:
        began = time.perf_counter()
        decoders = [self.tokenizer.stream_decoder() for _ in requests]
        written = [0] * len(requests)
        with torch.inference_mode():
            for frame in self._frames(requests):
                frame = replace(frame, seconds=round(time.perf_counter() - began, 4))
                yield frame
                if not frame.committed:
                    continue
                new = frame.tokens[: frame.committed]
                written[frame.row] += len(new)
                locked = frame.status[len(new) - 1] == 0
                stopped = new[-1] in self.stop_ids and not locked
                piece = decoders[frame.row].push(new[:-1] if stopped else new)
                over = stopped or written[frame.row] >= requests[frame.row].max_tokens
                piece += decoders[frame.row].finish() if over else ""
                if piece:
                    yield Text(frame.row, piece)
                if over:
                    yield Finished(frame.row, "stop" if stopped else "length")

    def _frames(self, requests: Sequence[Request]) -> Iterator[Frame]:
        first = requests[0]
        prompts = [self.prompt_ids(request) for request in requests]
        draws = Draws.of([request.seed for request in requests])
        locks = [self._locks(request) for request in requests]
        if first.decode == "diffusion":
            policy = POLICIES[first.policy]() if isinstance(first.policy, str) else first.policy
            assert isinstance(policy, Decoding)
            if first.temperature:
                policy = replace(policy, temperature=first.temperature)
            sampler = Sampler(self.denoiser, self.checkpoint.process, policy, self.banned)
            ask = (sampler, self.denoiser, prompts, first.max_tokens, draws, locks, self.stop_ids)
            if first.blocks_in_flight > 1:
                return pipeline_frames(*ask, Pipeline(first.blocks_in_flight))
            return block_frames(*ask)
        if first.decode == "verified" and first.draft in OUTCOMES_OF:
            speculation = SelfSpeculation(
                self.denoiser, self.checkpoint.process, first.draft_length, OUTCOMES_OF[first.draft], first.temperature,
                stop_ids=self.stop_ids, controls=self.banned,
            )  # fmt: skip
            return speculation.frames(prompts, first.max_tokens, draws, locks)
        drafter = None if first.decode == "ar" else self._drafter(first, prompts)
        length = 0 if drafter is None else first.draft_length
        verified = Verified(self.denoiser, drafter, length, first.temperature, stop_ids=self.stop_ids)
        return verified.frames(prompts, first.max_tokens, draws, locks)

    def _drafter(self, request: Request, prompts: Sequence[Sequence[int]]) -> Drafter:
        if request.draft == "text":
            return GivenText(self.tokenizer.encode(request.draft_text), [len(prompt) for prompt in prompts])
        kind = PreviousIterate if request.draft == "fixed-point" else RandomTokens
        return kind(self.denoiser.config.vocab_size)

    @property
    def banned(self) -> tuple[int, ...]:
        """Control ids, which a canvas may not write outside an edit."""
        return tuple(self.checkpoint.facts.control_ids.values())

    def _locks(self, request: Request) -> dict[int, int]:
        table: dict[int, int] = {}
        for offset, text in sorted(request.locks.items()):
            for index, token in enumerate(self.tokenizer.encode(text), offset):
                if table.get(index, token) != token:
                    raise ValueError(f"two locks claim token {index} of the answer")
                if index >= request.max_tokens:
                    raise ValueError(
                        f"a lock reaches token {index} of the answer, beyond max_tokens {request.max_tokens}"
                    )
                table[index] = token
        return table

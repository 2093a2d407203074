"""Engine: a checkpoint's weights in memory, and requests decoded on them.

request -> prompt ids -> frames of the sampler -> committed ids -> pieces of text (never half a character)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mezzotint.checkpoints.load import Checkpoint
from mezzotint.constraint.formats import Format
from mezzotint.constraint.guide import Guide
from mezzotint.constraint.lattice import Lattice
from mezzotint.constraint.tokens import TokenAutomaton
from mezzotint.draws import Draws
from mezzotint.engine.overtime import Overtime
from mezzotint.engine.request import Event, Finished, Reply, Request, Scores, Text
from mezzotint.model.condition import NULL
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.parallel import is_split
from mezzotint.runtime import captured, chosen, fast_denoiser
from mezzotint.sampler.blocks import BlockDenoiser, block_frames
from mezzotint.sampler.decoding import POLICIES, Decoding, the_rest
from mezzotint.sampler.guidance import Branches
from mezzotint.sampler.lens import BranchLens, Lens, Note, Scored
from mezzotint.sampler.loop import Sampler
from mezzotint.sampler.pipeline import Pipeline, pipeline_frames
from mezzotint.sampler.speculate import SelfSpeculation
from mezzotint.sampler.trace import Frame, Trace
from mezzotint.sampler.verify import Drafter, EarlierText, GivenText, PreviousIterate, RandomTokens, Verified

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

MOST_FORMATS = 32  # whose automata are kept
LOOKUP_LENGTH = 8  # of the same from earlier in the text, at most
OWN_LENGTH = 2  # of drafts that nobody asked for: what takes the least time of all lengths in float32 on two cores
NARROW = 256  # width below which int8 is slower than float32: its calls are short, and it has more to set up
OUTCOMES_OF = {"self": "all", "self-last": "last", "self-two-call": "none"}  # draft -> SelfSpeculation.outcomes


class Engine:
    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, threads: int | None = None,
        compute: str = "float32", mesh: DeviceMesh | None = None,
    ) -> None:  # fmt: skip
        """Loads the weights. threads: CPU threads that may be used; None leaves torch's own choice.

        compute: float32 (torch, exact, in `dtype`), int8 (packed weights and int8 activations, for decoding on a CPU; needs
        `mezzotint[fast]`), int8-weights, fp8-weights, int4-weights (torch in `dtype`, weights rounded as they are read: any
        family, less memory), cuda and cuda-float32 (a GPU, in bfloat16 or float32, passes captured as CUDA graphs), or auto:
        int8 where it is possible and faster. mesh: of ranks that share the network, on the CPU; each is given the same
        requests. Raises ValueError for another, and for int8 or a GPU where there is none.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.checkpoint = checkpoint
        self.tokenizer = checkpoint.tokenizer
        self._lattices: dict[Format, Lattice] = {}
        self.compute = "float32" if compute == "auto" and checkpoint.config.width < NARROW else chosen(compute)
        if self.compute == "int8":
            try:
                self.denoiser: Denoiser = fast_denoiser(checkpoint, threads)
                torch.set_num_threads(1)  # more would spin between their products, in the way of the runtime's threads
                return
            except ValueError:
                if compute != "auto":
                    raise
            self.compute = "float32"
        if self.compute.startswith("cuda"):
            if mesh is not None:
                raise ValueError(f"compute {compute!r} is one GPU's; ranks share a network on the CPU")
            self.denoiser = captured(checkpoint, torch.float32 if compute == "cuda-float32" else torch.bfloat16)
            return
        quantize = self.compute.removesuffix("-weights") if self.compute.endswith("-weights") else None
        self.denoiser = checkpoint.denoiser(dtype=dtype, quantize=quantize, mesh=mesh)

    def lattice(self, asked: Format) -> Lattice:
        """A format in this checkpoint's tokens; kept for the next request. Raises ValueError where they cannot spell it."""
        found = self._lattices.get(asked)
        if found is None:
            tokenizer = self.tokenizer
            spellings = tokenizer.spellings(self.banned)
            found = Lattice(TokenAutomaton.of(asked.automaton, spellings, tokenizer.encode, tokenizer.eos_ids))
            for oldest in list(self._lattices)[: max(0, len(self._lattices) - MOST_FORMATS + 1)]:
                self._lattices.pop(oldest, None)
            self._lattices[asked] = found
        return found

    def _guide(self, requests: Sequence[Request]) -> Guide | None:
        formats = [request.format for request in requests]
        if all(asked is None for asked in formats):
            return None
        if self.checkpoint.facts.whole:
            raise ValueError(f"{self.checkpoint.name} writes whole canvases and knows no end, so it follows no format")
        return Guide([None if asked is None else self.lattice(asked) for asked in formats], requests[0].max_tokens)

    @property
    def canvas_leads(self) -> bool:
        """Do these weights write best on the canvas? Not under an adapter of it, whose base still writes as it always did."""
        adapter = self.denoiser.adapter
        return self.checkpoint.facts.trained_canvas and (adapter is None or adapter.config.gate != "canvas")

    def must_read(self) -> None:
        """Raises ValueError for a checkpoint that only writes whole canvases: it cannot edit."""
        if self.checkpoint.facts.whole:
            raise ValueError(f"{self.checkpoint.name} writes whole canvases and reads no text, so it cannot edit any")

    def prompt_ids(self, request: Request) -> list[int]:
        """The ids that the model reads, behind the places of its condition.

        Raises ValueError when they and the answer exceed the context, and for a kind of condition that the model lacks.
        """
        condition, told = request.condition, self.denoiser.config.condition
        for name in ("class_label", "embedding"):
            if condition is not None and told is None and getattr(condition, name) is not None:
                raise ValueError(f"{self.checkpoint.name} follows no {name}; its weights know no such condition")
        before = None if condition is None else condition.prompt
        return self._checked(self._ids(request, request.prompt, before), request)

    def null_ids(self, request: Request) -> list[int]:
        """What the null branch of guidance reads: the prompt without the condition's, or nothing where that is all."""
        condition = request.condition
        if condition is not None:
            return self._checked(self._ids(request, request.prompt, None), request)
        nothing = (
            "" if isinstance(request.prompt, str) else [*request.prompt[:-1], {**request.prompt[-1], "content": ""}]
        )
        return self._checked(self._ids(request, nothing, None), request)

    def _ids(self, request: Request, prompt: str | Sequence[Mapping[str, str]], before: str | None) -> list[int]:
        text = (before or "") + prompt if isinstance(prompt, str) else ""
        if isinstance(prompt, str) and (request.raw or not (request.prompt or before)):
            ids = self.tokenizer.prompt(text)
            if text and not ids:
                raise ValueError(f"{self.checkpoint.name} has no token for anything in the prompt; leave it out")
        else:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            system = [{"role": "system", "content": before}] if before else []
            ids = self.tokenizer.chat([*system, *(dict(message) for message in messages)])
        ids = [0] * self.denoiser.config.prefix + ids
        return ids or list(self.tokenizer.eos_ids[:1])  # nothing to read: a text begins where another ended

    def _checked(self, ids: list[int], request: Request) -> list[int]:
        longest = self._longest(request)
        if len(ids) + longest > self.denoiser.config.max_length:
            raise ValueError(
                f"the prompt has {len(ids)} tokens and the answer may have {longest}: together more than the "
                f"{self.denoiser.config.max_length} of this model's context; shorten one of them"
            )
        return ids

    def _longest(self, request: Request) -> int:
        """Most tokens of the answer."""
        facts = self.checkpoint.facts
        return facts.canvas_length if facts.whole else request.max_tokens

    def stream(self, requests: Request | Sequence[Request]) -> Iterator[Event]:
        """Frames of every call, committed text as it settles, and how it ended. Closing the iterator ends the work.

        Several requests are rows of the same forwards. Raises ValueError for some that cannot be, and for none.
        """
        rows = [requests] if isinstance(requests, Request) else list(requests)
        if len({_way(request) for request in rows}) != 1 or (len(rows) > 1 and rows[0].draft == "text"):
            raise ValueError(f"{len(rows)} requests were given; rows of one stream are decoded in one way")
        return self._events(rows)

    def generate(self, requests: Request | Sequence[Request]) -> list[Reply]:
        """Replies in order. Requests that differ in prompt, condition, seed, choice, locks, format and draft share forwards."""
        todo = [requests] if isinstance(requests, Request) else list(requests)
        replies: list[Reply | None] = [None] * len(todo)
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, request in enumerate(todo):
            own = index if request.draft == "text" else None  # a given text belongs to its own row
            groups.setdefault((*_way(request), own), []).append(index)
        for members in groups.values():
            for index, reply in zip(members, self._replies([todo[i] for i in members]), strict=True):
                replies[index] = reply
        return [reply for reply in replies if reply is not None]

    def _replies(self, requests: Sequence[Request]) -> list[Reply]:
        traces = [Trace(self.header(request)) for request in requests]
        texts = ["" for _ in requests]
        reasons = ["length" for _ in requests]
        scores: list[list[Scored]] = [[] for _ in requests]
        for event in self._events(requests):
            if isinstance(event, Frame):
                traces[event.row].add(event)
            elif isinstance(event, Text):
                texts[event.row] += event.piece
            elif isinstance(event, Scores):
                scores[event.row] += event.scores
            else:
                reasons[event.row] = event.reason
        stop_ids = self.stop_ids
        replies = []
        for text, reason, trace, worth in zip(texts, reasons, traces, scores, strict=True):
            ids = trace.replay()
            ids = ids[:-1] if reason == "stop" and ids and ids[-1] in stop_ids else ids
            replies.append(Reply(text, ids, "stop" if reason == "stop" else "length", trace, worth))
        return replies

    def header(self, request: Request) -> dict[str, object]:
        """What a trace of this request says of its origin."""
        policy = request.policy if isinstance(request.policy, str) else repr(request.policy)
        told: dict[str, object] = {}
        if request.condition is not None:
            told["condition"] = {key: value for key, value in vars(request.condition).items() if value is not None}
        if request.guidance != 1:
            told["guidance"] = request.guidance
        if request.choice:
            told["choice"] = request.choice
        if request.format is not None:
            told["format"] = {"kind": type(request.format).__name__, "source": request.format.key}
        return {
            "model": self.checkpoint.name, "prompt": request.prompt, "decode": request.decode, "seed": request.seed,
            "temperature": request.temperature, "policy": policy if request.decode == "diffusion" else None,
            **told,
        }  # fmt: skip

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.eos_ids)

    def _events(self, requests: Sequence[Request]) -> Iterator[Event]:
        began = time.perf_counter()
        decoders = [self.tokenizer.stream_decoder() for _ in requests]
        written = [0] * len(requests)
        finished = set[int]()
        overtime = None if requests[0].deadline is None else Overtime(requests[0].deadline)
        note = None if requests[0].logprobs is None else Note(requests[0].logprobs, requests[0].top_logprobs)
        # DTensor works out every new shape by tracing where there is no autograd to take products apart: seconds a call
        with torch.no_grad() if is_split(self.denoiser.embedding.weight) else torch.inference_mode():
            for frame in self._frames(requests, overtime, note):
                scores = [] if note is None else note.take(frame)
                frame = replace(frame, seconds=round(time.perf_counter() - began, 4))
                if frame.row in finished:
                    continue  # it ran out of time, others did not yet
                yield frame
                if not frame.committed:
                    continue
                new = frame.tokens[: frame.committed]
                written[frame.row] += len(new)
                locked = frame.status[len(new) - 1] == 0
                stopped = new[-1] in self.stop_ids and not locked
                piece = decoders[frame.row].push(new[:-1] if stopped else new)
                full = written[frame.row] >= self._longest(requests[frame.row])
                late = overtime is not None and overtime.over()
                piece += decoders[frame.row].finish() if stopped or full or late else ""
                if note is not None:
                    yield Scores(frame.row, scores[:-1] if stopped else scores, *note.cost())
                if piece:
                    yield Text(frame.row, piece)
                if stopped or full or late:
                    yield Finished(frame.row, "stop" if stopped else "length" if full else "deadline")
                    finished.add(frame.row)
                    if len(finished) == len(requests):
                        return

    def _frames(
        self, requests: Sequence[Request], overtime: Overtime | None = None, note: Note | None = None
    ) -> Iterator[Frame]:
        first = requests[0]
        prompts = [self.prompt_ids(request) for request in requests]
        draws = Draws.of([request.seed for request in requests])
        draws = replace(draws, choice=torch.tensor([request.choice for request in requests]))
        locks = [self._locks(request) for request in requests]
        guide = self._guide(requests)
        conditions = [request.condition or NULL for request in requests] if self.denoiser.config.condition else None
        denoiser = self.denoiser if conditions is None else self.denoiser.following(conditions)
        if self.checkpoint.facts.whole and first.decode != "diffusion":
            raise ValueError(f"{self.checkpoint.name} writes whole canvases, not left to right; use decode 'diffusion'")
        if first.decode != "diffusion" and denoiser.reader is not None:
            raise ValueError(
                f"{self.checkpoint.name} reads no text causally; use decode 'diffusion', not {first.decode!r}"
            )
        if first.decode == "diffusion":
            network: BlockDenoiser = self._lens(denoiser, requests, prompts, note)
            policy = self._policy(first)
            if overtime is not None:
                policy = replace(policy, stop=policy.stop | overtime.rule, settle=policy.settle | the_rest())
            if policy.guidance != 1:
                branches = Branches(self.denoiser, conditions, [self.null_ids(request) for request in requests])
                network = self._lens(branches, requests, prompts, note)
            sampler = Sampler(network, self.checkpoint.process, policy, self.banned)
            ask = (sampler, network, prompts, self._longest(first), draws, locks, self.stop_ids)
            if first.blocks_in_flight > 1:
                return pipeline_frames(*ask, Pipeline(first.blocks_in_flight))
            return block_frames(*ask, guide)
        drafting = self._drafts_of(requests, note)
        if first.decode == "verified" and drafting in OUTCOMES_OF:
            length = min(first.draft_length, OWN_LENGTH) if first.draft == "auto" else first.draft_length
            speculation = SelfSpeculation(
                denoiser, self.checkpoint.process, length, OUTCOMES_OF[drafting], first.temperature,
                stop_ids=self.stop_ids, controls=self.banned,
            )  # fmt: skip
            return speculation.frames(prompts, first.max_tokens, draws, locks, guide)
        drafter = None if first.decode == "ar" or not drafting else self._drafter(drafting, first, prompts)
        most = LOOKUP_LENGTH if first.draft == "auto" and drafting == "lookup" else first.draft_length
        length = 0 if drafter is None else most
        seen = self._lens(denoiser, requests, prompts, note)
        verified = Verified(seen, drafter, length, first.temperature, stop_ids=self.stop_ids)
        return verified.frames(prompts, first.max_tokens, draws, locks, guide=guide)

    def _drafts_of(self, requests: Sequence[Request], note: Note | None) -> str:
        """Where drafts come from: for `auto` the own canvas, if the weights have learnt to draft and it may say what it says.

        Where a wide call costs more than that can give, from earlier in the text, whose drafts are rarer and better; nowhere
        ("") for several texts, since the others would be as wide for the sake of one.
        """
        asked = requests[0].draft
        if asked != "auto":
            return asked
        plain = note is None and not any(request.tilt for request in requests)
        network = self.denoiser
        if not network.wide_calls_pay:
            return "lookup" if len(requests) == 1 else ""
        return "self" if network.drafts_in_order and plain else "fixed-point"

    def _lens(
        self, network: Any, requests: Sequence[Request], prompts: Sequence[Sequence[int]], note: Note | None
    ) -> Any:
        """The network as these requests see it: itself, unless one tilts it or log-probabilities are asked for."""
        tilts = [replace(request.tilt, temperature=request.temperature) for request in requests]
        if note is None and not any(tilts):
            return network
        kind = BranchLens if isinstance(network, Branches) else Lens
        return kind(network, tilts, [len(prompt) for prompt in prompts], note)

    def _policy(self, request: Request) -> Decoding:
        policy = POLICIES[request.policy]() if isinstance(request.policy, str) else request.policy
        facts = self.checkpoint.facts
        return replace(
            policy,
            temperature=request.temperature or policy.temperature,
            guidance=request.guidance if request.guidance != 1 else policy.guidance,
            canvas_length=facts.canvas_length if facts.whole or facts.policy else policy.canvas_length,
        )

    def _drafter(self, kind: str, request: Request, prompts: Sequence[Sequence[int]]) -> Drafter:
        if kind == "lookup":
            return EarlierText()
        if kind == "text":
            given = self.tokenizer.encode(request.draft_text)
            return GivenText(given, [len(p) for p in prompts], careful=not self.denoiser.wide_calls_pay)
        untaught = RandomTokens if kind == "random" else PreviousIterate
        return untaught(self.denoiser.config.vocab_size)

    @property
    def banned(self) -> tuple[int, ...]:
        """Control ids, which a canvas may not write outside an edit."""
        return tuple(self.checkpoint.facts.control_ids.values())

    def _locks(self, request: Request) -> dict[int, int]:
        table: dict[int, int] = {}
        for offset, text in sorted(request.locks.items(), key=lambda lock: lock[0]):
            for index, token in enumerate(self.tokenizer.encode(text) if isinstance(text, str) else text, offset):
                if table.get(index, token) != token:
                    raise ValueError(f"two locks claim token {index} of the answer")
                if index >= (longest := self._longest(request)):
                    raise ValueError(f"a lock reaches token {index} of the answer, beyond max_tokens {longest}")
                table[index] = token
        return table


def _way(request: Request) -> tuple[object, ...]:
    """What requests that share forwards have in common."""
    shared = (request.decode, request.max_tokens, request.temperature, request.draft, request.draft_length)
    heard = (request.logprobs, request.top_logprobs, request.deadline)
    return (*shared, repr(request.policy), request.blocks_in_flight, request.guidance, *heard)

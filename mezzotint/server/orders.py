"""Orders: what a body asks of the engine, made before it waits in the queue, so that a wrong one is refused at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mezzotint.constraint.formats import Format, ToolCall
from mezzotint.edit.ask import Ask, Report
from mezzotint.edit.checks import problems
from mezzotint.edit.editor import Where, edit
from mezzotint.edit.hunks import Edit
from mezzotint.edit.infill import Infilled, infill, literal
from mezzotint.edit.presets import preset
from mezzotint.edit.router import choose
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Request
from mezzotint.model.condition import Condition
from mezzotint.sampler.decoding import POLICIES, Decoding
from mezzotint.sampler.lens import Tilt
from mezzotint.sampler.quality import QUALITY
from mezzotint.server import chance
from mezzotint.server.errors import ApiError, bad
from mezzotint.server.settings import LATE, LONGEST_HOLE, MOST_PROMPTS
from mezzotint.server.tools import as_text, format_of, told
from mezzotint.server.wire import Chat, Completion, ConditionBody, InstantEdit, Sampling

TOO_LONG = "context_length_exceeded"
SHORT = 16  # tokens of a completion that says nothing of its length
Prompt = str | Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Order:
    """Rows to decode, every choice of every prompt. num_read: tokens of the prompts; notes: what a client should know."""

    requests: list[Request]
    num_read: int
    seed: int
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it may take by its own deadline, waiting included."""
        deadline = self.requests[0].deadline if self.requests else None
        return math.inf if deadline is None else max(0.0, deadline - time.monotonic()) + LATE


def seed_of(given: int | None) -> int:
    """A seed of our own where none is given: the answer names it, so that it can be asked for again."""
    return chance.seed() if given is None else given


def chat_order(engine: Engine, body: Chat, most: int) -> Order:
    """most: tokens of an answer. Raises ApiError."""
    body.refuse_unsupported()
    messages = [{"role": message.role, "content": as_text(message.model_dump())} for message in body.messages]
    most = min(body.max_completion_tokens or body.max_tokens or most, most)
    if body.diffusing and body.tools and body.tool_choice != "none":
        raise bad("diffusing shows text as it changes, and a call is none; leave one of them out", "diffusing")
    try:
        asked = format_of(body.response_format, body.tools, body.tool_choice)
        if isinstance(asked, ToolCall) and not asked.required and engine.tokenizer.chat_template is None:
            raise bad(f"{engine.checkpoint.name} has no chat template to tell it of them", "tools")
        return _chat(engine, body, told(messages, asked, body.tools), most, asked)
    except ApiError as error:
        if not body.tools or body.tool_choice not in (None, "auto"):
            raise
        asked = format_of(body.response_format, [], None)  # tools are an offer: an answer in text takes it up, too
        order = _chat(engine, body, messages, most, asked)
        order.notes.append(f"the tools were left out: {error}")
        return order


def _chat(engine: Engine, body: Chat, messages: list[dict[str, str]], most: int, asked: Format | None) -> Order:
    if engine.tokenizer.chat_template is not None:
        return _order(engine, body, [messages], "messages", most, form=asked)
    text = "\n".join(message["content"] for message in messages)
    note = f"{engine.checkpoint.name} has no chat template; it continues the text of the messages"
    return _order(engine, body, [text], "messages", most, note, form=asked)


def completion_order(engine: Engine, body: Completion, most: int) -> Order:
    """As above."""
    body.refuse_unsupported()
    if len(body.prompt) * body.n > MOST_PROMPTS:
        raise bad(f"n {body.n} for {len(body.prompt)} prompts makes more than {MOST_PROMPTS} answers", "n")
    return _order(engine, body, body.prompt, "prompt", min(body.max_tokens or SHORT, most))


def _order(
    engine: Engine, body: Sampling, prompts: Sequence[Prompt], param: str, most: int, *notes: str,
    form: Format | None = None,
) -> Order:  # fmt: skip
    """Every answer may have `most` tokens, or as many as the context has room for. form: what it must be like."""
    began = time.monotonic()
    decode = body.decode or ("diffusion" if body.quality or body.policy or body.guidance != 1 else "verified")
    if body.guidance != 1 and decode != "diffusion":
        raise bad(f"guidance changes diffusion only; decode is {decode!r}", "guidance")
    policy, seed = _policy(body, decode), seed_of(body.seed)
    shared = Request(
        "-", False, decode, 1, body.temperature, seed, policy=policy, condition=_condition(engine, body.condition),
        guidance=body.guidance,
        tilt=_tilt(engine, body), logprobs=None if body.scored is None else body.logprobs_at,
        top_logprobs=body.scored or 0,
        deadline=None if body.deadline_ms is None else began + body.deadline_ms / 1000,
    )  # fmt: skip
    asked = []
    for prompt in prompts:
        if not prompt:
            raise bad("the prompt is empty; give some text", param)
        fits(engine, prompt, param)
        asked.append(replace(shared, prompt=prompt, raw=isinstance(prompt, str)))
    try:
        lengths = [len(engine.prompt_ids(request)) for request in asked]
    except ValueError as error:
        raise bad(str(error), param, TOO_LONG if "context" in str(error) else None) from None
    room = engine.denoiser.config.max_length - max(lengths)
    least = 0 if form is None else int(engine.lattice(form).automaton.distance[0])
    if least > (longest := min(most, room)):
        raise bad(f"the shortest answer of this format has {least} tokens, and {longest} are allowed", "max_tokens")
    try:
        rows = [replace(request, max_tokens=longest, choice=n, format=form) for request in asked for n in range(body.n)]
    except ValueError as error:
        raise bad(str(error), "response_format") from None
    return Order(rows, sum(lengths), seed, list(notes))


def _condition(engine: Engine, body: ConditionBody | None) -> Condition | None:
    """Raises ApiError for one that the weights do not know."""
    if body is None:
        return None
    given = body.model_dump(exclude_none=True)
    told = engine.denoiser.config.condition
    known = {
        "class_label": range(told.classes if told else 0), "embedding": [told.embedding] if told and told.embedding else [],
    }  # fmt: skip
    if "class_label" in given and given["class_label"] not in known["class_label"]:
        raise bad(
            f"condition: class_label is {given['class_label']}; this model has {len(known['class_label'])} classes",
            "condition",
        )
    if "embedding" in given:
        if len(given["embedding"]) not in known["embedding"]:
            raise bad(f"condition: this model follows no embedding of {len(given['embedding'])} numbers", "condition")
        given["embedding"] = tuple(given["embedding"])
    try:
        return Condition(**given)
    except ValueError as error:
        raise bad(str(error), "condition") from None


def _tilt(engine: Engine, body: Sampling) -> Tilt:
    """Raises ApiError for a bias of what is no id."""
    bias, size = dict[int, float](), engine.tokenizer.vocab_size
    for name, nats in body.logit_bias.items():
        if not (name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < size):
            raise bad(f"logit_bias names id {name[:20]!r}; ids are 0 to {size - 1}", "logit_bias")
        bias[int(name)] = nats
    return Tilt(
        bias, body.presence_penalty, body.frequency_penalty, body.repetition_penalty, max(body.top_k, 0), body.top_p,
        body.min_p,
    )  # fmt: skip


def _policy(body: Sampling, decode: str) -> str | Decoding:
    if body.policy is not None and body.policy not in POLICIES:
        raise bad(f"unknown policy {body.policy[:40]!r}; known: {', '.join(POLICIES)}", "policy")
    if decode != "diffusion" and (body.policy or body.quality):
        raise bad(f"policy and quality change diffusion only; decode is {decode!r}", "decode")
    if body.policy is None:
        return QUALITY[body.quality]() if body.quality else "threshold"
    return body.policy


def fits(engine: Engine, prompt: Prompt, param: str) -> None:
    """Refuses what no tokenisation makes short enough, before time is spent on one."""
    text = prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt)
    context = engine.denoiser.config.max_length
    if len(text.encode()) > context * engine.tokenizer.longest_token:
        raise bad(f"the text has {len(text)} characters, more than {context} tokens can spell", param, TOO_LONG)


def suffix_order(engine: Engine, body: Completion, most: int, seed: int) -> Callable[[Engine, Report], Infilled]:
    """What fills the place between prompt and suffix. Penalties have nothing to count there. Raises ApiError."""
    body.refuse_unsupported()
    for name, neutral in (("logit_bias", {}), ("logprobs", None), ("condition", None), ("guidance", 1)):
        if getattr(body, name) != neutral:
            raise bad(f"{name} is not supported where a place before a suffix is filled; leave it out", name)
    if not engine.checkpoint.facts.trained_canvas:
        raise bad(f"{engine.checkpoint.name} has not learnt to denoise, so it fills nothing in", "suffix")
    if len(body.prompt) != 1 or body.n != 1:
        raise bad("with a suffix there is one prompt and one answer", "n" if body.n != 1 else "prompt")
    policy, prompt, suffix = _policy(body, body.decode or "diffusion"), body.prompt[0], body.suffix or ""
    if body.decode not in (None, "diffusion"):
        raise bad(f"decode is {body.decode!r}; a place before a suffix is filled by diffusion", "decode")
    fits(engine, prompt + suffix, "prompt")
    text = literal(prompt, before_hole=True) + "[[ ]]" + literal(suffix)
    length = min(body.max_tokens or SHORT, most, LONGEST_HOLE)

    def run(engine: Engine, report: Report) -> Infilled:
        return infill(
            engine, text, policy, seed=seed, temperature=body.temperature, max_length=length, report=report
        )  # fmt: skip

    return run


@dataclass(frozen=True)
class Edited:
    """problems: what the preset's checks found."""

    edit: Edit
    problems: list[str]


def edit_order(engine: Engine, body: InstantEdit, seed: int) -> Callable[[Engine, Report], Edited]:
    """Raises ApiError, and ValueError for locks, lines and ways that there are not."""
    given = {"budget": body.budget, "strength": body.strength}
    more: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values = dict(body.values) | ({} if body.instruction is None else {"instruction": body.instruction})
    locks = [(start, end) for start, end in body.locks]
    where = Where(locks, body.lines, only_doubtful=body.only_doubtful)
    checks: Sequence[str] = ()
    if body.preset is None:
        ask = Ask(body.instruction if body.instruction is not None else Ask.instruction, seed=seed, **more)
    else:
        chosen = preset(body.preset)
        if missing := [name for name in chosen.needs if not values.get(name, "").strip()]:
            raise bad(
                f"preset {chosen.name!r} needs {missing[0]}", missing[0] if missing[0] == "instruction" else "values"
            )
        ask, checks = chosen.ask(values, seed=seed, **more), chosen.checks
        where = replace(where, keep_layout=chosen.keep_layout)
    if not body.document.strip("\ufeff \t\r\n"):
        raise bad("the document is empty; give some text", "document")
    choose(engine, ask, body.way)
    where.of(body.document)

    def run(engine: Engine, report: Report) -> Edited:
        done = edit(engine, body.document, ask, where, body.way, report)
        return Edited(done, problems(done, checks, values))

    return run

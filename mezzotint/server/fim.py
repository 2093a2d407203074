"""Fill in the middle, as editors ask for it: raw sentinels in a prompt, Mercury's /fim/completions, llama.cpp's /infill.

    <fim_prefix>def f(x):\\n    return <fim_suffix>\\n\\nprint(f(2))<fim_middle>     StarCoder's and six other dialects
    prefix "def f(x):\\n    return ", suffix "\\n\\nprint(f(2))"                     what all of them mean

A sentinel is none of this vocabulary's: a prompt that is one dialect from its first character to its last is taken apart.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mezzotint.server.errors import bad
from mezzotint.server.orders import completion_order
from mezzotint.server.service import Service
from mezzotint.server.settings import MOST_STOPS
from mezzotint.server.sse import STREAMED, EventStream
from mezzotint.server.wire import Body, Completion, Stop, default, listed

BLANK_LINE = "\n\n"
DIALECTS = [
    re.compile(form, re.DOTALL)
    for form in (
        r"<PRE> (?P<prefix>.*) <SUF>(?P<suffix>.*) <MID>",  # CodeLlama
        r"<fim_prefix>(?P<prefix>.*)<fim_suffix>(?P<suffix>.*)<fim_middle>",  # StarCoder
        r"<fim_suffix>(?P<suffix>.*)<fim_prefix>(?P<prefix>.*)<fim_middle>",  # the same, suffix first
        r"<\|fim_prefix\|>(?P<prefix>.*)<\|fim_suffix\|>(?P<suffix>.*)<\|fim_middle\|>",  # Qwen, CodeGemma
        r"<\|fim_suffix\|>(?P<suffix>.*)<\|fim_prefix\|>(?P<prefix>.*)<\|fim_middle\|>",
        r"<｜fim▁begin｜>(?P<prefix>.*)<｜fim▁hole｜>(?P<suffix>.*)<｜fim▁end｜>",  # noqa: RUF001  # DeepSeek
        r"\[SUFFIX\](?P<suffix>.*)\[PREFIX\](?P<prefix>.*)",  # Codestral
        r"<\|code_prefix\|>(?P<prefix>.*)<\|code_suffix\|>(?P<suffix>.*)<\|code_middle\|>",  # GLM
    )
]


def split(prompt: str) -> tuple[str, str] | None:
    """Prefix and suffix of a prompt with sentinels; None for any other."""
    for dialect in DIALECTS:
        if (found := dialect.fullmatch(prompt)) is not None:
            return found["prefix"], found["suffix"]
    return None


def unwrapped(body: Completion) -> Completion:
    """The same with its sentinels understood."""
    if body.suffix is None and len(body.prompt) == 1 and (found := split(body.prompt[0])) is not None:
        return body.model_copy(update={"prompt": [found[0]], "suffix": found[1]})
    return body


class Fim(Completion):
    """Mercury's: a completion that ends at a blank line, unless `stop` says otherwise."""

    prompt: Annotated[list[str], BeforeValidator(listed), Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, default(512), Field(ge=1)] = 512
    stop: Annotated[
        list[Stop], BeforeValidator(lambda stop: [BLANK_LINE] if stop is None else listed(stop)), Field(max_length=MOST_STOPS)
    ] = Field(default_factory=lambda: [BLANK_LINE])  # fmt: skip


class Extra(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    filename: str = ""
    text: str = ""


class Infill(Body):
    """llama.cpp's: what stands between two texts. input_extra: other files, read before them. n_predict: -1 as many as may be."""

    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[Extra], default([]), Field(max_length=64)] = Field(default_factory=list)
    prompt: Annotated[str, default("")] = ""
    n_predict: Annotated[int, default(-1), Field(ge=-1)] = -1
    temperature: Annotated[float, default(0.0), Field(ge=0, le=2)] = 0.0
    stop: Annotated[list[Stop], BeforeValidator(listed), Field(max_length=MOST_STOPS)] = Field(default_factory=list)
    stream: Annotated[bool, default(False)] = False

    def completion(self) -> Completion:
        """The same question. `prompt` is what the answer begins with."""
        before = "".join(f"{extra.filename}\n{extra.text}\n" for extra in self.input_extra)
        length = None if self.n_predict < 1 else self.n_predict
        return Completion(
            model=self.model, seed=self.seed, prompt=[before + self.input_prefix + self.prompt], suffix=self.input_suffix,
            max_tokens=512 if length is None else length, temperature=self.temperature, stop=self.stop,
        )  # fmt: skip


def add(app: FastAPI, service: Service) -> None:
    most = service.settings.max_tokens

    async def completed(body: Completion, request: Request) -> Response:
        body = unwrapped(body)
        if body.suffix:
            return await service.fill(request, body)
        order = await service.ordered(completion_order, body, most)
        return await service.decode(request, body, service.answer("text", order, body))

    @app.post("/v1/completions", responses=STREAMED)
    async def completions(body: Completion, request: Request) -> Response:
        """A text continued, or filled up to its suffix."""
        return await completed(body, request)

    @app.post("/v1/fim/completions", responses=STREAMED)
    async def fim(body: Fim, request: Request) -> Response:
        """What stands between `prompt` and `suffix`."""
        return await completed(body, request)

    @app.post("/infill", include_in_schema=False)
    @app.post("/v1/infill", responses=STREAMED)
    async def infill(body: Infill, request: Request) -> Response:
        """What stands between two texts, in the form of llama.cpp's server."""
        if body.n_predict == 0:
            return JSONResponse(_told(service.name, "", body, {}))
        asked = body.completion()
        if asked.suffix:
            answer, text, stream = await service.filled(request, asked)
        elif asked.prompt[0]:
            order = await service.ordered(completion_order, asked, most)
            answer = service.answer("text", order, asked)
            stream = service.queued(answer)
            whole = await service.whole(request, answer, stream)
            text = whole["choices"][0]["text"]
        else:
            raise bad("input_prefix and input_suffix are empty; give some text", "input_prefix")
        told = _told(service.name, text, body, answer.usage())
        if not body.stream:
            return JSONResponse(told)

        async def events() -> Any:
            yield told

        return EventStream(events(), stream, service.settings.patience, service.failed(request), ending=b"")


def _told(name: str, text: str, body: Infill, usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "content": text, "stop": True, "stop_type": "eos", "model": name, "prompt": body.input_prefix,
        "tokens_predicted": usage.get("completion_tokens", 0), "tokens_evaluated": usage.get("prompt_tokens", 0),
        "truncated": False, "diffusion": usage.get("diffusion"),
    }  # fmt: skip

"""Transcription over HTTP: a recording in OpenAI's form, and a microphone's sound on a WebSocket.

POST /v1/audio/transcriptions   a WAV as multipart `file` -> json, text, srt, vtt or verbose_json
WS   /v1/audio/live             bytes are int16 PCM, text is JSON; an answer for what is heard, as soon as it is

    -> {"rate": 16000, "translate_to": "French"}     settings, before a stream's first sound
    -> bytes ...                                     <- {"utterance": 1, "text": "the press", "final": false, ...}
    -> {"end": true}                                 <- {"utterance": 1, "text": "the best of times", "final": true, ...}
                                                     <- {"object": "transcription.end", "seconds": 3.2}
"""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.websockets import WebSocketDisconnect

from mezzotint.engine.engine import Engine
from mezzotint.live.mend import mender
from mezzotint.live.sound import RATE, Converter, Form, pcm, seconds
from mezzotint.live.subtitles import srt, vtt
from mezzotint.live.transcribe import Caption, Captioner, Hypothesis, Make, Transcriber, maker, newest
from mezzotint.live.translate import Live, Writer
from mezzotint.server.errors import ApiError, bad, busy
from mezzotint.server.service import Service
from mezzotint.server.talk import Talk, accept, refuse
from mezzotint.server.wire import param
from mezzotint.server.worker import Cancelled

MOST_SPEAKERS = 4  # sounds heard at once; each transcriber has its own memory
LONGEST = 600.0  # seconds of a recording
PIECE = 2.0  # seconds of it between two looks whether its client is still there
MOST_BEHIND = 30.0  # seconds of sound that a connection may wait to be heard
FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
WHISPER = "whisper-1"  # what OpenAI's clients say by default


class Wanted(BaseModel):
    """What is made of what is heard. repair: `readings` or `denoise` (`live/mend.py`)."""

    model_config = ConfigDict(extra="allow")
    model: str | None = None
    repair: Literal["readings", "denoise"] | None = None
    translate_to: Annotated[str | None, Field(min_length=1)] = None
    language: str | None = None

    def live(self) -> Live | None:
        """Raises ValueError."""
        return None if self.translate_to is None else Live("English", self.translate_to)

    @property
    def asks_the_model(self) -> bool:
        return self.repair is not None or self.translate_to is not None


class Recording(Wanted):
    """A form's fields. timestamps: `timestamp_granularities[]` of OpenAI's."""

    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = "json"
    timestamps: list[Literal["word", "segment"]] = []
    stream: bool = False


class Microphone(Wanted):
    """A message. rate, channels: of the sound that follows; end: the stream is over."""

    model_config = ConfigDict(strict=True, extra="allow")
    rate: int = RATE
    channels: int = 1
    end: bool = False


class Transcribers:
    """Transcribers that are free, made when they are first needed. Raises ApiError when too many hear, or none can be made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._free: list[Transcriber] = []
        self._busy = 0
        self._make: Make | None = None

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Transcriber]:
        if self._busy >= MOST_SPEAKERS:
            raise busy(429, f"{MOST_SPEAKERS} sounds are being heard, which is the most", "queue_full", 5)
        self._busy += 1
        try:
            found = self._free.pop() if self._free else await asyncio.to_thread(self._new)
            yield found
            self._free.append(found)  # not one that was left in the middle of a stream
        finally:
            self._busy -= 1

    def _new(self) -> Transcriber:
        try:
            self._make = self._make or maker(self.name)
            return self._make()
        except ValueError as error:
            raise ApiError(501, str(error), "transcriber_missing") from None

    def check(self, wanted: Wanted, service: Service) -> None:
        """Raises ApiError for a model or a language that is not there."""
        if wanted.model not in (None, self.name, WHISPER):
            service.check_name(wanted.model or "")
        languages = getattr(self._make, "languages", None)
        if wanted.language and languages and wanted.language.split("-")[0].lower() not in languages:
            raise bad(f"language is {wanted.language!r}; {self.name} hears {', '.join(languages)}", "language")


def add(app: FastAPI, service: Service) -> None:
    transcribers = Transcribers(service.settings.transcriber)

    @app.post(
        "/v1/audio/transcriptions",
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
            "type": "object", "required": ["file"],
            "properties": {"file": {"type": "string", "format": "binary"}, **Recording.model_json_schema()["properties"]},
        }}}}},
    )  # fmt: skip
    async def transcriptions(request: Request) -> Response:
        """What is said in a WAV, in OpenAI's form. `repair` and `translate_to` are ours."""
        data, wanted = await _form(request)
        async with transcribers.one() as transcriber:
            transcribers.check(wanted, service)
            try:
                async with asyncio.timeout(service.settings.deadline):
                    heard, length = await _heard(request, transcriber, data)
            except TimeoutError:
                raise ApiError(
                    504, f"the request took longer than the {service.settings.deadline:g} s it may", "deadline_exceeded"
                ) from None
        captioner = Captioner(live=wanted.live())
        if wanted.asks_the_model:
            work = service.worker.call(
                lambda engine, report: [_caption(engine, captioner, wanted, one) for one in heard],
                service.settings.deadline,
            )
            captions = await service.first(request, work)
        else:
            captions = [captioner.take(one) for one in heard]
        request.state.log |= {"sound_s": round(length, 2), "utterances": len(captions)}
        return _answer(wanted, captions, length)

    @app.get("/v1/audio/live", responses={101: {"description": "a WebSocket, for one that asks for it"}})
    async def plain() -> Response:
        """A WebSocket: bytes are sound, int16 of `rate` and `channels`; an answer `{"utterance", "text", "final", ...}` for what
        is heard. `{"end": true}` ends a stream, and another may begin. A key: as at /v1/translate/live."""
        raise bad("this address is a WebSocket's; ask for an upgrade to one")

    @app.websocket("/v1/audio/live")
    async def live(socket: WebSocket) -> None:
        try:
            service.worker.ready()
            async with transcribers.one() as transcriber:
                await accept(socket)
                await _Ear(service, transcribers, transcriber, socket).run()
        except ApiError as error:
            await refuse(service, socket, error)


# -- a recording ----------------------------------------------------------------------------------------------------


async def _form(request: Request) -> tuple[bytes, Recording]:
    """Raises ApiError for what is no such form."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise bad("the body is no form; send multipart/form-data with a WAV as file", "file")
    async with request.form(max_files=1, max_fields=32) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise bad("file is missing; send a WAV as the form's file", "file")
        data = await file.read()
        fields: dict[str, Any] = {name: value for name, value in form.multi_items() if name != "file"}
        times = [value for name, value in form.multi_items() if name.startswith("timestamp_granularities")]
    fields = {name: value for name, value in fields.items() if not name.startswith("timestamp_granularities")}
    try:
        wanted = Recording.model_validate(fields | {"timestamps": times})
        wanted.live()
    except ValidationError as error:
        first = error.errors()[0]
        name = param(("body", *first["loc"]))
        raise bad(f"{name}: {first['msg']}", name) from None
    if wanted.stream:
        raise bad("stream is not supported here; the WebSocket /v1/audio/live answers while it hears", "stream")
    return data, wanted


async def _heard(request: Request, transcriber: Transcriber, data: bytes) -> tuple[list[Hypothesis], float]:
    """Final hypotheses of a WAV, and its length in seconds. Raises ApiError."""
    found: list[Hypothesis] = []
    sound = await asyncio.to_thread(_whole, data)
    size = round(PIECE * RATE) * 2
    for at in range(0, len(sound), size):
        found += await asyncio.to_thread(transcriber.hear, sound[at : at + size])
        if await request.is_disconnected():
            raise Cancelled
    found += await asyncio.to_thread(transcriber.end)
    return [one for one in found if one.final and one.text], seconds(sound)


def _whole(data: bytes) -> bytes:
    """A WAV as PCM. Raises ApiError for one that is none or too long."""
    sound = bytearray()
    try:
        for chunk in pcm(io.BytesIO(data), "file"):
            sound += chunk
            if seconds(sound) > LONGEST:
                raise bad(f"the recording is longer than the {LONGEST:g} s it may be; send it in parts", "file")
    except ValueError as error:
        raise bad(str(error), "file", "invalid_audio") from None
    return bytes(sound)


def _caption(engine: Engine, captioner: Captioner, wanted: Wanted, one: Hypothesis) -> Caption:
    mend = mender(engine, wanted.repair) if wanted.repair else None
    return captioner.take(one, mend, Writer(engine) if wanted.translate_to else None)


def _answer(wanted: Recording, captions: list[Caption], length: float) -> Response:
    text = " ".join(caption.text for caption in captions)
    ignored = [name[:40] for name in (wanted.model_extra or {})]
    headers = (
        {"x-mezzotint-warning": f"ignored: {', '.join(ignored)}".encode("ascii", "replace").decode()} if ignored else {}
    )
    if wanted.response_format == "text":
        return PlainTextResponse(f"{text}\n", headers=headers)
    if wanted.response_format in ("srt", "vtt"):
        return PlainTextResponse((srt if wanted.response_format == "srt" else vtt)(captions), headers=headers)
    told: dict[str, Any] = {"text": text}
    if wanted.translate_to is not None:
        told["translation"] = " ".join(c.translation.committed for c in captions if c.translation is not None)
    if wanted.response_format == "verbose_json":
        told |= {
            "task": "transcribe", "language": "english", "duration": round(length, 3),
            "segments": [{"id": n, **_segment(caption)} for n, caption in enumerate(captions)],
        }  # fmt: skip
        if "word" in wanted.timestamps:
            told["words"] = [
                {"word": w.text, "start": round(w.start, 2), "end": round(w.end, 2)} for c in captions for w in c.words
            ]
    return JSONResponse(told | {"usage": {"type": "duration", "seconds": math.ceil(length)}}, headers=headers)


def _segment(caption: Caption) -> dict[str, Any]:
    chances = [math.log(max(word.p, 1e-9)) for word in caption.words]
    told = {"start": round(caption.start, 2), "end": round(caption.end, 2), "text": caption.text}
    return told | ({"avg_logprob": round(sum(chances) / len(chances), 4)} if chances else {})


# -- a microphone ---------------------------------------------------------------------------------------------------


class _Ear(Talk):
    """Sound comes in while what came before is heard, and drafts that were overtaken are passed over."""

    def __init__(
        self, service: Service, transcribers: Transcribers, transcriber: Transcriber, socket: WebSocket
    ) -> None:  # fmt: skip
        super().__init__(service, socket)
        self.transcribers, self.transcriber = transcribers, transcriber
        self.behind = 0  # bytes that wait
        self._reset(Microphone())

    def _reset(self, told: Microphone) -> None:
        """For a stream by these settings. Raises ValueError for values out of range."""
        self.converter = Converter(Form(told.rate, told.channels))
        self.captioner = Captioner(live=told.live())
        self.told, self.begun, self.length = told, False, 0.0

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            await asyncio.to_thread(self.transcriber.end)

    async def take(self, message: dict[str, Any]) -> None:
        self.waiting.append(self._message(message))
        if self.behind > MOST_BEHIND * self.told.rate * self.told.channels * 2:
            await self.close(1013, f"more than {MOST_BEHIND:g} s of sound wait to be heard")

    def _message(self, message: dict[str, Any]) -> bytes | Microphone | ApiError:
        if (data := message.get("bytes")) is not None:
            self.behind += len(data)
            return bytes(data)
        try:
            return Microphone.model_validate_json(message.get("text") or "")
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "json_invalid":
                return bad("a message is not JSON")
            name = param(("body", *first["loc"]))
            return bad(f"{name}: {first['msg']}" if name else f"a message is wrong: {first['msg']}", name)

    async def next(self) -> None:
        """What waits longest; sound that follows sound together."""
        item = self.waiting.popleft()
        try:
            if isinstance(item, bytes):
                sound = bytearray(item)
                while self.waiting and isinstance(self.waiting[0], bytes):
                    sound += self.waiting.popleft()
                self.behind -= len(sound)
                self.begun = True
                await self._show(await asyncio.to_thread(self._hear, bytes(sound)))
            elif isinstance(item, ApiError):
                raise item
            elif item.end:
                await self._show(await asyncio.to_thread(self._end))
                await self.send({"object": "transcription.end", "seconds": round(self.length, 2)})
                self._reset(self.told)
            elif self.begun:
                raise bad("a stream has begun; settings come before its first sound, or after its end")
            else:
                self.transcribers.check(item, self.service)
                self._reset(item)
        except (Cancelled, WebSocketDisconnect, OSError):
            raise
        except Exception as error:
            await self.failed(error)

    def _hear(self, sound: bytes) -> list[Hypothesis]:
        data = self.converter.feed(sound)
        self.length += seconds(data)
        return newest(self.transcriber.hear(data))

    def _end(self) -> list[Hypothesis]:
        data = self.converter.end()
        self.length += seconds(data)
        return [*newest(self.transcriber.hear(data)), *self.transcriber.end()]

    async def _show(self, found: Iterable[Hypothesis]) -> None:
        for one in found:
            caption = await self._caption(one)
            await self.send({"object": "transcription.update", **caption.to_json()})

    async def _caption(self, one: Hypothesis) -> Caption:
        told, captioner = self.told, self.captioner
        if not told.asks_the_model or not one.text:
            writer = None if told.translate_to is None else Writer(self.service.worker.ready())
            return captioner.take(one, writer=writer)
        work = self.service.worker.call(
            lambda engine, report: _caption(engine, captioner, told, one), self.service.settings.deadline
        )
        caption = await anext(work)
        self.service.metrics.succeeded(["stop"], work.age, work.waited)
        return caption

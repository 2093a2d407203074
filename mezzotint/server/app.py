"""The application: routes, and nothing of how text is made.

POST /v1/chat/completions  /v1/instant-edit
     /v1/completions  /v1/fim/completions  /v1/infill       fim.py
     /v1/edit/completions  /v1/apply/completions             codes.py
     /v1/responses                                           responses.py
     /v1/decisions                                           decisions.py
     /v1/embeddings  /tokenize  /detokenize                  tokens.py
     /v1/translate/stream, and a WebSocket /v1/translate/live   translate.py
     /v1/audio/transcriptions, and a WebSocket /v1/audio/live   speech.py
GET  /v1/models  /v1/models/{id}  /v1/traces/{id}  /health  /ready  /version  /metrics  /openapi.json
     /playground/                                            playground.py
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

import mezzotint
from mezzotint.server import chance, codes, decisions, fim, playground, remotes, responses, speech, tokens, translate
from mezzotint.server.errors import ApiError, bad, of
from mezzotint.server.guard import Guard
from mezzotint.server.metrics import Metrics
from mezzotint.server.orders import chat_order, edit_order, seed_of
from mezzotint.server.preview import Preview, Split
from mezzotint.server.service import Service, ignored
from mezzotint.server.settings import MOST_PROMPTS, Settings
from mezzotint.server.sse import STREAMED
from mezzotint.server.wire import Chat, EditAnswer, InstantEdit, param
from mezzotint.server.worker import Cancelled, Worker

STATUSES = (400, 401, 403, 404, 408, 413, 421, 429, 500, 501, 503, 504)
REFUSALS = {404: "there is nothing at this address", 405: "this address does not take that method"}
ERROR = {"description": "what was wrong", "content": {"application/json": {"schema": {"type": "object"}}}}


class Lines(Response):
    media_type = "application/x-ndjson"


def build(worker: Worker, settings: Settings, preview: Preview) -> Split:
    """The whole application behind its guard, and the preview's pages beside it."""
    service = Service(worker, settings)
    app = routes(service)
    playground.add(app, service, preview)
    _described(app)
    return Split(Guard(app, settings, service.metrics), preview)


def routes(service: Service) -> FastAPI:
    """All that clients ask: neither the playground nor what guards it."""
    app = FastAPI(
        title="Mezzotint", version=mezzotint.__version__, docs_url=None, redoc_url=None,
        responses=dict.fromkeys(STATUSES, ERROR),
    )  # fmt: skip
    _errors(app, service.metrics)
    _text_routes(app, service)
    for part in (fim, codes, responses, decisions, tokens, translate, speech, remotes):
        part.add(app, service)
    _other_routes(app, service)
    _described(app)
    return app


def _described(app: FastAPI) -> None:
    """The OpenAPI file, of what there is now."""
    app.openapi_schema = None
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # the framework's own refusals leave as 400


def _text_routes(app: FastAPI, service: Service) -> None:
    most = service.settings.max_tokens

    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat(body: Chat, request: Request) -> Response:
        """An answer to a conversation."""
        if body.diffusing and body.n != 1:
            raise bad("diffusing shows one answer; leave n out", "n")
        order = await service.ordered(chat_order, body, most)
        return await service.decode(request, body, service.answer("chat", order, body), body.diffusing)

    @app.post("/v1/instant-edit", response_model_exclude_none=True)
    async def instant_edit(body: InstantEdit, request: Request) -> EditAnswer:
        """A document changed where it stands, hunk by hunk."""
        engine, seed = service.engine_for(body), seed_of(body.seed)
        work = await asyncio.to_thread(edit_order, engine, body, seed)
        done = await service.first(request, service.worker.call(work, service.settings.deadline))
        service.metrics.worked(0, 0, done.edit.num_calls, 0)
        request.state.log["calls"] = done.edit.num_calls
        return EditAnswer(
            id=f"edit-{chance.digits()}", created=chance.created(), model=service.name, seed=seed,
            problems=done.problems, warning="; ".join(ignored(body)) or None, **done.edit.to_json(),
        )  # fmt: skip


def _other_routes(app: FastAPI, service: Service) -> None:
    worker = service.worker

    def card() -> dict[str, Any]:
        engine = worker.ready()
        facts = engine.checkpoint.facts
        length = engine.denoiser.config.max_length
        return {
            "id": service.name, "object": "model", "created": service.began, "owned_by": "mezzotint",
            "max_model_len": length, "context_length": length,
            "diffusion": {"block_length": facts.canvas_length, "noise": facts.noise, "trained": facts.trained_canvas},
        }  # fmt: skip

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_name(name)
        return card()

    @app.get("/v1/traces/{id}", response_class=Lines)
    async def trace(id: str, choice: Annotated[int, Query(ge=0, le=MOST_PROMPTS)] = 0) -> Response:
        """Every call of an answer that was asked for with `trace`, as JSON lines that `mezzotint replay` reads."""
        return Lines(service.traces.lines(id, choice))

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": mezzotint.__version__}

    @app.get("/health")
    @app.get("/v1/health", include_in_schema=False)
    async def health() -> dict[str, str]:
        """Does the engine live? 503 before the model is loaded."""
        if worker.engine is None or not worker.alive:
            worker.ready()
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """May requests come? 503 at the end, too."""
        worker.ready()
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        text = service.metrics.text(worker.num_running, worker.num_waiting)
        return Response(text, media_type="text/plain; version=0.0.4")


def _errors(app: FastAPI, metrics: Metrics) -> None:
    """OpenAI's envelope for whatever a route or the framework refuses."""

    def envelope(error: ApiError) -> JSONResponse:
        return JSONResponse(error.to_json(), error.status, error.headers)

    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> JSONResponse:
        return envelope(error)

    @app.exception_handler(ValueError)
    async def value(request: Request, error: ValueError) -> JSONResponse:
        return envelope(of(error))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return envelope(of(error))

    @app.exception_handler(Cancelled)
    async def cancelled(request: Request, error: Cancelled) -> JSONResponse:
        metrics.cancelled()
        return envelope(ApiError(499, "the client left"))

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return envelope(bad("the body is not JSON"))
        if tuple(first["loc"]) == ("body",) and first["type"] != "value_error":
            return envelope(bad("the body is not a JSON object, sent as content-type application/json"))
        name, said = param(first["loc"]), first["msg"].removeprefix("Value error, ")
        return envelope(bad(f"{name}: {said}" if name else f"the body is wrong: {said}", name))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        message = REFUSALS.get(error.status_code, str(error.detail))
        return envelope(ApiError(error.status_code, message, headers=dict(error.headers or {})))

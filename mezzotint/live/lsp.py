"""The language server: completion, edits and doubt in any editor that speaks LSP. Needs `mezzotint[lsp]`.

    textDocument/inlineCompletion      grey text at the cursor              complete.py
    textDocument/codeAction            the presets, for a selection         actions.py
    workspace/executeCommand           mezzotint.edit .instruct .nextEdit .doubt .clearDoubt

* Messages are handled on one thread, the engine works on another (`work.py`), one thing at a time.
* A result is for the version of the document that it was asked of; when that has changed, it is dropped (ContentModified).
* What a user can cause is told by window/showMessage, in a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lsprotocol import types
from pygls.exceptions import JsonRpcContentModified, JsonRpcException, JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.protocol import LanguageServerProtocol
from pygls.protocol.language_server import lsp_method

import mezzotint
from mezzotint.edit.presets import Preset, presets
from mezzotint.live import actions
from mezzotint.live.document import Change, Document, History, Position, around
from mezzotint.live.work import Progress, Superseded, Work

if TYPE_CHECKING:
    from mezzotint.engine.engine import Engine
    from mezzotint.live.complete import Completer, Suggestion

T = TypeVar("T")
KIND = "refactor.rewrite.mezzotint"
DOUBT = "source.mezzotint.doubt"
INPUT = "mezzotint/input"  # the request by which an editor is asked for a value: {name, title} -> text, or null
PACE = 0.1  # seconds between two reports of progress
PATIENCE = 5.0  # seconds that an editor may take to accept a progress token


class _Protocol(LanguageServerProtocol):
    """What pygls leaves out: a request that cannot be read is answered, and a command ends when its request is cancelled."""

    def structure_message(self, data: dict[str, Any]) -> Any:
        try:
            return super().structure_message(data)
        except JsonRpcException as error:
            if "id" in data and "method" in data:
                told = types.ResponseError(error.code, f"{data['method']}: {_sentence(error)}")
                self._send_response(data["id"], error=told)
            raise

    @lsp_method(types.WORKSPACE_EXECUTE_COMMAND)
    async def lsp_workspace__execute_command(self, params: types.ExecuteCommandParams) -> Any:  # type: ignore[override]  # pygls has a generator here, run by its own rules
        command = self.fm.commands.get(params.command)
        if command is None:
            raise JsonRpcInvalidParams(
                f"there is no command {params.command!r}; known: {', '.join(sorted(self.fm.commands))}"
            )
        return await command(_plain(params.arguments or []))


class _Server(LanguageServer):
    def report_server_error(self, error: Exception, source: Any) -> None:
        """What pygls could not read or do: a sentence, and no traceback."""
        self.tell(f"a message could not be handled: {_sentence(error)}")

    def tell(self, message: str, kind: types.MessageType = types.MessageType.Error) -> None:
        self.window_show_message(types.ShowMessageParams(kind, f"mezzotint: {message}"))

    def note(self, message: str) -> None:
        self.window_log_message(types.LogMessageParams(types.MessageType.Info, f"mezzotint: {message}"))


class Live:
    """The server's state: open documents, what was changed in them, what was suggested."""

    def __init__(self, load: Callable[[], Engine], known: Mapping[str, Preset], menu: bool = False) -> None:
        """menu: offer completions as ordinary items too, for editors that show no grey text."""
        self.server = _Server(
            "mezzotint", mezzotint.__version__, protocol_cls=_Protocol, max_workers=2,
            text_document_sync_kind=types.TextDocumentSyncKind.Incremental,
        )  # fmt: skip
        self.work, self.known, self.settings = Work(load), known, actions.Settings()
        self.documents: dict[str, Document] = {}
        self.histories: dict[str, History] = {}
        self.suggested: dict[str, tuple[int, str]] = {}
        self.doubted = set[str]()
        self.told = set[str]()
        self.leaving = False
        self._completer: Completer | None = None
        self._tasks = set[asyncio.Task[None]]()
        self._register(menu)

    def _register(self, menu: bool) -> None:
        feature = self.server.feature
        feature(types.INITIALIZE)(_free(self.initialize))
        feature(types.INITIALIZED)(_free(self.initialized))
        feature(types.SHUTDOWN)(_free(self.shutdown))
        feature(types.TEXT_DOCUMENT_DID_OPEN)(_free(self.opened))
        feature(types.TEXT_DOCUMENT_DID_CHANGE)(_free(self.changed))
        feature(types.TEXT_DOCUMENT_DID_CLOSE)(_free(self.closed))
        feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())(_free(self.inline))
        if menu:
            feature(types.TEXT_DOCUMENT_COMPLETION, types.CompletionOptions())(_free(self.menu))
        kinds = [KIND, DOUBT]
        feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions(code_action_kinds=kinds))(
            _free(self.code_actions)
        )
        for name, command in (
            ("edit", self.edit), ("instruct", self.instruct), ("nextEdit", self.next_edit), ("doubt", self.doubt),
            ("clearDoubt", self.clear_doubt),
        ):  # fmt: skip
            self.server.command(f"mezzotint.{name}")(_free(command))

    # -- life ------------------------------------------------------------------------------------------------------

    def initialize(self, params: types.InitializeParams) -> None:
        try:
            self.settings = actions.Settings.of(_plain(params.initialization_options))
        except ValueError as error:
            self.server.tell(f"{error}; the defaults are used", types.MessageType.Warning)

    def initialized(self, params: types.InitializedParams) -> None:
        async def load() -> None:
            try:
                async with self._progress("loading the model"):
                    self.server.note(f"{await self.work.start()} is loaded")
            except Exception as error:
                self._once(f"the model could not be loaded: {_sentence(error)}")

        task = asyncio.get_running_loop().create_task(load())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def shutdown(self, params: Any = None) -> None:
        self.leaving = True
        self.work.stop()

    def _once(self, message: str) -> None:
        """Told once: the same failure at every key would be in the way."""
        if message not in self.told:
            self.told.add(message)
            self.server.tell(message)

    # -- documents -------------------------------------------------------------------------------------------------

    def opened(self, params: types.DidOpenTextDocumentParams) -> None:
        item, encoding = params.text_document, self.server.workspace.position_encoding
        self.documents[item.uri] = Document(
            item.uri, item.text, item.version, str(getattr(encoding, "value", encoding))
        )
        self.histories[item.uri] = History()

    def changed(self, params: types.DidChangeTextDocumentParams) -> None:
        uri = params.text_document.uri
        document = self._document(uri)
        for change in params.content_changes:
            if isinstance(change, types.TextDocumentContentChangePartial):
                told = Change(_position(change.range.start), _position(change.range.end), change.text)
            else:
                told = Change(None, None, change.text)
            self.histories[uri].add(*document.apply(told))
        document.version = params.text_document.version
        self.work.drop(f"complete {uri}")
        self.work.drop(f"edit {uri}")
        self._clear(uri)

    def closed(self, params: types.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        self._clear(uri)
        for table in (self.documents, self.histories, self.suggested):
            table.pop(uri, None)
        self.work.drop(f"complete {uri}")
        self.work.drop(f"edit {uri}")

    def _document(self, uri: Any) -> Document:
        if not isinstance(uri, str) or uri not in self.documents:
            raise ValueError(f"the document {uri!r:.80} is not open")
        return self.documents[uri]

    def _must_be(self, document: Document, version: int | None) -> None:
        """Raises ContentModified where a document is not what it was."""
        if self.documents.get(document.uri) is not document or document.version != version:
            raise JsonRpcContentModified("the document has changed since")

    # -- completion ------------------------------------------------------------------------------------------------

    async def inline(self, params: types.InlineCompletionParams) -> types.InlineCompletionList:
        one_line = params.context.trigger_kind == types.InlineCompletionTriggerKind.Automatic
        made = await self._suggest(params.text_document.uri, params.position, one_line)
        at = types.Range(params.position, params.position)
        return types.InlineCompletionList([types.InlineCompletionItem(text, range=at) for text in made])

    async def menu(self, params: types.CompletionParams) -> types.CompletionList:
        """The same as an item of a menu."""
        made = await self._suggest(params.text_document.uri, params.position, True)
        at = types.Range(params.position, params.position)
        items = [
            types.CompletionItem(
                label=text.strip().partition("\n")[0][:60], detail="mezzotint", filter_text=text,
                text_edit=types.TextEdit(at, text), insert_text_format=types.InsertTextFormat.PlainText,
            )
            for text in made
        ]  # fmt: skip
        return types.CompletionList(is_incomplete=True, items=items)

    async def _suggest(self, uri: str, position: types.Position, one_line: bool) -> list[str]:
        async def suggest() -> list[str]:
            document = self._document(uri)
            version, offset = document.version, document.offset(_position(position))
            place, draft = around(document.text, offset), self._rest(document, offset)

            def complete(engine: Engine, report: Any) -> Suggestion | None:
                from mezzotint.live.complete import Completer

                if self._completer is None or self._completer.engine is not engine:
                    self._completer = Completer(engine)
                return self._completer.complete(place, draft=draft, one_line=one_line, report=report)

            try:
                made = await self.work.run(complete, newest=f"complete {uri}")
            except Superseded:
                self._must_be(document, version)
                return []
            self._must_be(document, version)
            if made is None:
                return []
            self.suggested[uri] = offset, made.text
            return [made.text.replace("\n", document.ending)]

        return await self._told(suggest(), quiet=True)

    def _rest(self, document: Document, offset: int) -> str:
        """What is left of the latest suggestion, where the user has typed the beginning of it."""
        start, text = self.suggested.get(document.uri, (0, ""))
        typed = document.text[start:offset] if start <= offset <= start + len(text) else None
        return text[len(typed) :] if typed is not None and text.startswith(typed) else ""

    # -- edits -----------------------------------------------------------------------------------------------------

    async def code_actions(self, params: types.CodeActionParams) -> list[types.CodeAction]:
        document = await self._told(self._open(params.text_document.uri))
        only = [str(getattr(kind, "value", kind)) for kind in params.context.only or []]
        where = {"uri": document.uri, "version": document.version, "range": _range_json(params.range)}
        found: list[types.CodeAction] = []

        def add(title: str, kind: str, command: str, told: dict[str, Any], disabled: str | None = None) -> None:
            if only and not any(kind == asked or kind.startswith(f"{asked}.") or not asked for asked in only):
                return
            action = types.CodeAction(title, kind=kind)
            if disabled is None:
                action.command = types.Command(title, f"mezzotint.{command}", arguments=[where | told])
            elif self._can("text_document.code_action.disabled_support"):
                action.disabled = types.CodeActionDisabled(disabled)
            else:
                return
            found.append(action)

        for offer in actions.offers(self.known, self.settings):
            told = {"preset": offer.preset, "values": dict(offer.values)}
            add(offer.title, f"{KIND}.{offer.preset}", "edit", told, offer.disabled)
        if self.histories[document.uri].hunks(document):
            add("Change a similar place too", f"{KIND}.next", "nextEdit", {})
        add("Show what the model doubts", DOUBT, "doubt", {})
        return found

    async def _open(self, uri: str) -> Document:
        return self._document(uri)

    async def edit(self, arguments: list[Any]) -> dict[str, Any]:
        """{uri, range, version?, preset, values?} -> {applied, changes, calls, way}."""
        return await self._told(self._edit(_given(arguments, "preset")))

    async def instruct(self, arguments: list[Any]) -> dict[str, Any]:
        """{uri, range, version?, instruction?}: the preset `free`."""
        told = _given(arguments)
        values = {"instruction": told["instruction"]} if "instruction" in told else {}
        return await self._told(self._edit({**told, "preset": "free", "values": values}))

    async def _edit(self, told: dict[str, Any]) -> dict[str, Any]:
        document, version = self._asked(told)
        name, values = told["preset"], told.get("values") or {}
        if name not in self.known:
            raise ValueError(f"unknown preset {name!r:.40}; known: {', '.join(self.known)}")
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            raise ValueError(f"values are {values!r:.60}; expected text by name")
        preset = self.known[name]
        start, end = actions.selected(document, *self._span(document, told.get("range")))
        for need in preset.needs:
            if not values.get(need, "").strip():
                answer = await self._input(preset, need)
                if answer is None:
                    return {"applied": False, "changes": 0}
                values = {**values, need: answer}
        preset.ask(values)
        text = document.text[start:end]
        done, wrong = await self._worked(
            preset.title or name, document, version, lambda engine, report: actions.edited(engine, text, preset, values, report)
        )  # fmt: skip
        for note in done.notes:
            self.server.note(note)
        if wrong:
            self.server.tell(f"nothing was changed: {'; '.join(wrong)}", types.MessageType.Warning)
            return {"applied": False, "changes": len(done.hunks), "problems": wrong}
        applied = await self._apply(document, version, actions.moved(done.hunks, start), preset.title or name)
        return {"applied": applied, "changes": len(done.hunks), "calls": done.num_calls, "way": done.way}

    async def next_edit(self, arguments: list[Any]) -> dict[str, Any]:
        """{uri, version?, range?}: what was changed last is offered for the most similar place."""

        async def work() -> dict[str, Any]:
            document, version = self._asked(told)
            line = document.line_of(self._span(document, told.get("range") or _NOWHERE)[0])
            place = await asyncio.to_thread(actions.next_place, document, self.histories[document.uri], line)
            self._must_be(document, version)
            if place is None:
                self.server.tell("there is no place like the latest changes", types.MessageType.Info)
                return {"applied": False, "changes": 0}
            text = document.text
            done = await self._worked(
                "the next edit",
                document,
                version,
                lambda engine, report: actions.next_edit(engine, text, place, report),
            )
            for note in done.notes:
                self.server.note(note)
            applied = await self._apply(document, version, actions.moved(done.hunks, place.window[0]), "next edit")
            line = document.line_of(place.free[0])
            return {"applied": applied, "changes": len(done.hunks), "line": line, "way": done.way}

        told = _given(arguments)
        return await self._told(work())

    def _asked(self, told: dict[str, Any]) -> tuple[Document, int | None]:
        document = self._document(told.get("uri"))
        version = told.get("version", document.version)
        self._must_be(document, version)
        return document, version

    def _span(self, document: Document, told: Any) -> tuple[int, int]:
        try:
            ends = [Position(told[name]["line"], told[name]["character"]) for name in ("start", "end")]
            if not all(type(part) is int for end in ends for part in end):
                raise TypeError
        except (TypeError, KeyError):
            raise ValueError(f"range is {told!r:.60}; expected start and end, with line and character each") from None
        return document.offset(ends[0]), document.offset(ends[1])

    async def _input(self, preset: Preset, need: str) -> str | None:
        """Ask the user. None: they want none. Raises ValueError for an editor that cannot ask."""
        if not self.settings.prompts:
            raise ValueError(f"preset {preset.name!r} needs {need}; give it in values")
        answer = await self.server.protocol.send_request_async(INPUT, {"name": need, "title": preset.title})
        answer = _plain(answer)
        return answer if isinstance(answer, str) and answer.strip() else None

    async def _apply(
        self, document: Document, version: int | None, changes: list[tuple[tuple[int, int], str]], label: str
    ) -> bool:
        self._must_be(document, version)
        if not changes:
            self.server.tell(f"{label}: no change", types.MessageType.Info)
            return False
        if not self._can("workspace.apply_edit"):
            raise ValueError("this editor applies no edits (workspace/applyEdit)")
        edits = [types.TextEdit(self._range(document, span), after) for span, after in changes]
        if self._can("workspace.workspace_edit.document_changes"):
            named = types.OptionalVersionedTextDocumentIdentifier(uri=document.uri, version=version)
            change = types.WorkspaceEdit(document_changes=[types.TextDocumentEdit(named, list(edits))])
        else:
            change = types.WorkspaceEdit(changes={document.uri: edits})
        answer = await self.server.workspace_apply_edit_async(types.ApplyWorkspaceEditParams(change, label=label))
        if not answer.applied:
            self.server.tell(f"{label}: the editor did not apply it: {answer.failure_reason or 'no reason given'}")
        return answer.applied

    # -- doubt -----------------------------------------------------------------------------------------------------

    async def doubt(self, arguments: list[Any]) -> dict[str, Any]:
        """{uri, version?, range?}: words in doubt become diagnostics, until the document changes."""
        told = _given(arguments)

        async def work() -> dict[str, Any]:
            document, version = self._asked(told)
            start, end = self._span(document, told["range"]) if told.get("range") else (0, 0)
            if end <= start:
                start, end = max(0, start - actions.DOUBTED // 2), start + actions.DOUBTED // 2
            text = document.text[start : min(end, start + actions.DOUBTED)]
            if not text.strip():
                raise ValueError("there is no text to doubt")
            found = await self._worked(
                "doubt", document, version, lambda engine, report: actions.doubts(engine, text, report)
            )
            self.doubted.add(document.uri)
            self._publish(document.uri, version, [
                types.Diagnostic(
                    self._range(document, (start + a, start + b)), f"in doubt: p = {p:.2g}", code="doubt",
                    severity=types.DiagnosticSeverity.Information, source="mezzotint",
                )
                for (a, b), p in found
            ])  # fmt: skip
            return {"words": len(found)}

        return await self._told(work())

    async def clear_doubt(self, arguments: list[Any]) -> None:
        """{uri}."""

        async def work() -> None:
            self._clear(self._document(_given(arguments).get("uri")).uri)

        await self._told(work())

    def _clear(self, uri: str) -> None:
        if uri in self.doubted:
            self.doubted.discard(uri)
            self._publish(uri, None, [])

    def _publish(self, uri: str, version: int | None, found: list[types.Diagnostic]) -> None:
        self.server.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, found, version))

    # -- between editor and engine ---------------------------------------------------------------------------------

    async def _worked(
        self, title: str, document: Document, version: int | None, function: Callable[[Engine, Any], T]
    ) -> T:
        """Work on the engine, with progress. Raises ContentModified when the document changes before it is done."""
        try:
            async with self._progress(title) as progress:
                done = await self.work.run(function, newest=f"edit {document.uri}", progress=progress)
        except Superseded:
            self._must_be(document, version)
            raise JsonRpcException("a newer edit took its place", types.LSPErrorCodes.RequestCancelled) from None
        self._must_be(document, version)
        return done

    @contextlib.asynccontextmanager
    async def _progress(self, title: str) -> AsyncIterator[Progress]:
        """$/progress around some work, where the editor shows it. Its cancel button ends the work."""
        shown, token = self._can("window.work_done_progress"), f"mezzotint-{uuid.uuid4().hex}"
        bar, loop, last = self.server.work_done_progress, asyncio.get_running_loop(), 0.0
        if shown:
            try:
                await asyncio.wait_for(bar.create_async(token), PATIENCE)
            except (JsonRpcException, TimeoutError):
                shown = False
        if shown:
            bar.begin(token, types.WorkDoneProgressBegin(f"mezzotint: {title}", cancellable=True, percentage=0))
            task = asyncio.current_task()
            button = bar.tokens[token]
            button.add_done_callback(lambda future: task.cancel() if task and future.cancelled() else None)

        def show(what: str, done: int, total: int) -> None:
            nonlocal last
            if shown and (now := time.monotonic()) - last >= PACE:
                last = now
                share = min(100, 100 * done // max(total, 1))
                loop.call_soon_threadsafe(
                    bar.report, token, types.WorkDoneProgressReport(message=what, percentage=share)
                )

        try:
            yield show
        finally:
            if shown:
                bar.end(token, types.WorkDoneProgressEnd())
                bar.tokens.pop(token, None)

    async def _told(self, work: Awaitable[T], quiet: bool = False) -> T:
        """What goes wrong, told in a sentence. quiet: the same sentence only once."""
        try:
            return await work
        except (JsonRpcException, asyncio.CancelledError):
            raise
        except Exception as error:
            if os.environ.get("MEZZOTINT_DEBUG"):
                logging.getLogger("mezzotint").exception("in the language server")
            message = _sentence(error)
            (self._once if quiet else self.server.tell)(message)
            raise JsonRpcException(message, types.LSPErrorCodes.RequestFailed) from None

    def _range(self, document: Document, span: tuple[int, int]) -> types.Range:
        start, end = (types.Position(*document.position(offset)) for offset in span)
        return types.Range(start, end)

    def _can(self, path: str) -> bool:
        """Has the editor this capability?"""
        found: Any = self.server.client_capabilities
        for name in path.split("."):
            found = getattr(found, name, None)
        return bool(found)


def _free(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """As a function: pygls writes on what it is given, and a method takes no notes."""
    if not asyncio.iscoroutinefunction(method):
        return lambda params: method(params)

    async def handler(params: Any) -> Any:
        return await method(params)

    return handler


_NOWHERE = {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 0}}


def _given(arguments: list[Any], *needed: str) -> dict[str, Any]:
    """The one object that a command takes. Raises InvalidParams."""
    if len(arguments) != 1 or not isinstance(arguments[0], dict):
        raise JsonRpcInvalidParams(f"the command takes one object, such as {{uri, range}}; given: {arguments!r:.80}")
    for name in ("uri", *needed):
        if not isinstance(arguments[0].get(name), str):
            raise JsonRpcInvalidParams(f"{name} is {arguments[0].get(name)!r:.40}; it must be text")
    return arguments[0]


def _plain(value: Any) -> Any:
    """What JSON held, where pygls has made objects of it."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_plain(one) for one in value]
    if hasattr(value, "_asdict"):
        return {key: _plain(one) for key, one in value._asdict().items()}
    return value


def _position(position: types.Position) -> Position:
    return Position(position.line, position.character)


def _range_json(found: types.Range) -> dict[str, dict[str, int]]:
    ends = (("start", found.start), ("end", found.end))
    return {name: {"line": at.line, "character": at.character} for name, at in ends}


def _sentence(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def address(told: str) -> tuple[str, int]:
    """PORT or HOST:PORT. Raises ValueError."""
    host, colon, port = told.rpartition(":")
    if not port.isdigit() or not 1 <= int(port) <= 65535 or (colon and not host):
        raise ValueError(f"the address is {told!r}; expected PORT or HOST:PORT, a port from 1 to 65535")
    return host or "127.0.0.1", int(port)


def serve(
    load: Callable[[], Engine], tcp: str | None = None, presets_file: str | Path | None = None, menu: bool = False
) -> bool:
    """Serve one editor on standard input and output, or the first that connects at `tcp`; -> did it take its leave?

    Raises ValueError for an address or presets that cannot be, OSError where nothing can listen.
    """
    known, where = presets(presets_file), None if tcp is None else address(tcp)
    if not os.environ.get("MEZZOTINT_DEBUG"):
        logging.getLogger("pygls").setLevel(logging.CRITICAL + 1)
    live = Live(load, known, menu)
    try:
        if where is None:
            out, sys.stdout = sys.stdout, sys.stderr  # nothing but messages may go there
            try:
                live.server.start_io(stdout=os.fdopen(os.dup(out.fileno()), "wb"))  # pygls closes it
            finally:
                sys.stdout = out
        else:
            print(f"listening on {where[0]}:{where[1]}", file=sys.stderr, flush=True)
            live.server.start_tcp(*where)
    finally:
        live.work.stop()
    return live.leaving

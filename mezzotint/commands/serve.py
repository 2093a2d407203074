"""What stays up and answers over HTTP: the server with `serve`, the playground with `demo`."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mezzotint.commands.loading import load_engine
from mezzotint.commands.shared import AdapterFolder, BadInput, ModelName, read_text, reporting

if TYPE_CHECKING:
    from mezzotint.checkpoints.load import Checkpoint
    from mezzotint.engine.engine import Engine
    from mezzotint.server.settings import Settings, Size

Remotes = Annotated[
    list[str] | None,
    typer.Option(
        "--remote", "--rival", help="openai:NAME or mercury:NAME, that the playground may ask too; repeatable."
    ),
]


@reporting
def serve(
    model: ModelName = "default",
    adapter: AdapterFolder = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model; as --model if left out.")] = None,
    api_keys: Annotated[
        str | None, typer.Option(help="A file of keys, one a line; MEZZOTINT_API_KEY holds another.")
    ] = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait; more are told to come back.")] = 64,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 4096,
    deadline: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 300.0,
    interval_ms: Annotated[
        float, typer.Option(help="Milliseconds between two pieces of a stream at least; 0 sends each as it is made.")
    ] = 50.0,
    remote: Remotes = None,
    transcriber: Annotated[
        str, typer.Option(help="What hears speech: pocketsphinx, or a plug-in as for transcribe.")
    ] = "pocketsphinx",
    replicas: Annotated[
        int | None, typer.Option(help="Processes with a model each, on Ray Serve (RAY_ADDRESS); no playground then.")
    ] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="Up to so many while queues are long; needs --replicas.")
    ] = None,
    tensor_parallel: Annotated[
        int, typer.Option(help="Processes over which each replica's network is split; needs --replicas.")
    ] = 1,
) -> None:
    """Answer OpenAI's clients over HTTP: chat, completions, edits. Ctrl-C or SIGTERM ends it when the answers are out.

    Logs are JSON lines on stderr; they hold no prompts and no keys. SIGTERM exits with 0. The process that serves is
    started again when it is killed.
    """
    _must_serve()
    from mezzotint.engine.remote import Remote
    from mezzotint.server.settings import Settings

    for one in remote or []:
        Remote.of(one)
    if api_keys == "-":
        raise BadInput(
            "keys are read from a file, so that a server that is started again finds them; standard input is none"
        )
    keys = [line.strip() for line in read_text(api_keys).splitlines() if line.strip()] if api_keys else []
    if api_keys and not keys:
        raise BadInput(f"{api_keys} holds no key; write one a line")
    if given := os.environ.get("MEZZOTINT_API_KEY"):
        keys.append(given)
    settings = Settings(
        host,
        port,
        tuple(keys),
        name or Path(model).name.removesuffix(".gguf"),
        queue=queue,
        max_tokens=max_tokens,
        deadline=deadline,
        interval=interval_ms / 1000,
        remotes=tuple(remote or ()),
        transcriber=transcriber,
    )

    _serve(settings, model, adapter, size=_size(replicas, max_replicas, tensor_parallel, remote))


def _size(replicas: int | None, most: int | None, ranks: int, remotes: list[str] | None) -> Size | None:
    """How many processes. Raises ValueError for numbers that make no sense, and where Ray Serve is not installed."""
    if replicas is None:
        if most is not None or ranks != 1:
            raise BadInput("--max-replicas and --tensor-parallel need --replicas, the number to begin with")
        return None
    from mezzotint.server.settings import Size

    size = Size(replicas, replicas if most is None else most, ranks)
    if remotes:
        raise BadInput("--remote is for the playground, which replicas do not have; leave one of the two out")
    if not importlib.util.find_spec("ray") or not importlib.util.find_spec("ray.serve"):
        raise BadInput("--replicas needs Ray Serve; install it with pip install 'mezzotint[ray]'")
    return size


@reporting
def demo(
    model: ModelName = "tiny",
    adapter: AdapterFolder = None,
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    remote: Remotes = None,
) -> None:
    """The playground, on a free port of this machine, in the browser. Ctrl-C ends it.

    The model `tiny` comes with the package; nothing is fetched. Requests are not logged.
    """
    _must_serve()
    from mezzotint.engine.remote import Remote
    from mezzotint.server import logs
    from mezzotint.server.settings import Settings

    for one in remote or []:
        Remote.of(one)
    logs.muted |= {"request", "listening", "server_started", "shutting_down"}
    settings = Settings(port=port, name=Path(model).name.removesuffix(".gguf"), remotes=tuple(remote or ()))
    _serve(settings, model, adapter, lambda url: _show(url.removesuffix("/v1"), open_browser))


def _show(base: str, open_browser: bool) -> None:
    """Print where the playground is; when it answers, open it."""
    import threading
    import webbrowser

    address = f"{base}/playground/"
    print(f"The playground is at {address}; the model is being loaded. Ctrl-C ends it.", flush=True)

    def wait() -> None:
        if _answers(f"{base}/ready"):
            opened = open_browser and webbrowser.open(address)
            print("Ready." if opened or not open_browser else "Ready. No browser could be opened here.", flush=True)

    threading.Thread(target=wait, daemon=True).start()


def _answers(url: str, seconds: float = 600.0) -> bool:
    """Does the address answer 200 within so long? A proxy is not asked: the address is this machine's own."""
    import urllib.request

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError), direct.open(url, timeout=5):
            return True
        time.sleep(0.3)
    return False


def _must_serve() -> None:
    """Raises BadInput where what a server needs is not installed."""
    lacking = [
        needed
        for needed in ("fastapi", "uvicorn", "websockets", "prometheus_client")
        if not importlib.util.find_spec(needed)
    ]
    if lacking:
        raise BadInput(f"serving needs {', '.join(lacking)}; install it with pip install 'mezzotint[server]'")


def _serve(
    settings: Settings, model: str, adapter: str | None, listening: Callable[[str], None] = lambda url: None,
    size: Size | None = None,
) -> None:  # fmt: skip
    """Until a signal: in this process where a keeper started it, else as the keeper of one that does."""
    from mezzotint.server.keeper import inherited, keep

    link = inherited()
    if link is None:
        sys.exit(keep(settings, listening=listening))
    if size is not None:
        from mezzotint.checkpoints.load import load as opened
        from mezzotint.server.cluster import serve as run_cluster

        checkpoint = opened(model, adapter)  # here it can still be said in a sentence
        _must_continue(checkpoint)
        if size.ranks > 1:
            from mezzotint.model.parallel import Share

            Share(checkpoint.config, 0, size.ranks)
        run_cluster(model, adapter, settings, size, link)
        return
    from mezzotint.server.run import serve as run

    def load() -> Engine:
        engine, _ = load_engine(model, adapter)
        _must_continue(engine.checkpoint)
        return engine

    run(load, settings, link)


def _must_continue(checkpoint: Checkpoint) -> None:
    if checkpoint.facts.whole:
        raise BadInput(f"{checkpoint.name} writes whole canvases; a server needs a model that continues text")

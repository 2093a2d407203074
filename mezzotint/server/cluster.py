"""Cluster: the model as a Ray Serve deployment, replicas of it in processes of their own, and one front before them.

    keeper's socket -> uvicorn, `Guard`, `Front` -> handle -> `BeginningRouter` -> Replica: the application, Worker, engine
                                                 <- ASGI messages, as they are made <-

- Ray starts replicas, notices those that die, starts them anew, and makes more where queues are long.
- Ray's own HTTP proxy is not used: it cannot ask a second replica for a stream that has begun, and only what stands before the
  replicas can guard keys, limits and logs once for all of them.
- A replica answers what one server answers, the playground and WebSockets excepted.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch.distributed
from starlette.types import Message

from mezzotint.checkpoints.load import load
from mezzotint.engine.engine import Engine
from mezzotint.engine.ranks import Leading, follow
from mezzotint.model.denoiser import Denoiser
from mezzotint.server import chance
from mezzotint.server.app import routes
from mezzotint.server.call import Call
from mezzotint.server.errors import ApiError
from mezzotint.server.front import Front, Lost
from mezzotint.server.guard import Guard
from mezzotint.server.keeper import Link
from mezzotint.server.logs import log, where
from mezzotint.server.metrics import Metrics
from mezzotint.server.run import Server, configured
from mezzotint.server.service import Service
from mezzotint.server.settings import LOOPBACK, Settings, Size
from mezzotint.server.worker import Worker, client

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

DISTRIBUTED: Any = torch.distributed  # its stores are not among what it exports by name
NAME = "mezzotint"
LOOK = 0.5  # seconds between two looks at how many replicas there are, and at whether each is alive
BUSY = 8  # calls in work or waiting, a replica, above which there should be one more


class Replica:
    """The application in a process of Ray's."""

    def __init__(self, model: str, adapter: str | None, settings: Settings, ranks: int, cores: int) -> None:
        """ranks: processes that hold the network together, this one the first; each has so many cores."""
        from ray import serve

        loaded = threading.Event()
        self._followers: list[Any] = []

        def make() -> Engine:
            engine = Engine(load(model, adapter)) if ranks == 1 else self._split(model, adapter, ranks, cores)
            loaded.set()
            return engine

        self._worker = Worker(make, settings.queue, loaded.set)
        self._worker.start()
        loaded.wait()
        if self._worker.failure is not None:
            raise self._worker.failure
        self._app = routes(Service(self._worker, settings))
        self._tasks: set[asyncio.Task[None]] = set()
        self._name = str(serve.get_replica_context().replica_id.unique_id)

    def _split(self, model: str, adapter: str | None, ranks: int, cores: int) -> Engine:
        """The engine of the first rank, the others started. They end with this process."""
        import ray

        about: Any = ray.util
        host = str(about.get_node_ip_address())
        store = DISTRIBUTED.TCPStore(host, 0, ranks, is_master=True, wait_for_workers=False)
        rank: Any = ray.remote(num_cpus=cores)(Rank)  # Ray's own types know no remote of a class made so
        self._ranks = [rank.remote() for _ in range(1, ranks)]
        self._followers = [
            one.follow.remote(model, adapter, number, ranks, (host, store.port))
            for number, one in enumerate(self._ranks, 1)
        ]
        engine = Engine(load(model, adapter), mesh=_mesh(store, 0, ranks))
        engine.denoiser = cast(Denoiser, Leading(engine.denoiser))
        return engine

    def check_health(self) -> None:
        if not self._worker.alive:
            raise RuntimeError("the engine's thread has ended")
        if self._followers:
            import ray

            if ray.wait(self._followers, timeout=0)[0]:
                os._exit(1)  # without one of its ranks it can make no pass: Ray starts all anew

    async def answer(self, call: Call) -> AsyncGenerator[Message]:
        """`taken`, what the application sends, `over`. Cancelled or closed, it is as if the client had left."""
        yield {"type": "taken", "replica": self._name}
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        left, scope = asyncio.Event(), call.scope()
        bodies = iter([call.body])

        async def receive() -> Message:
            for body in bodies:
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app(scope, receive, messages.put)
            except Exception as error:  # it has been answered by now; this is for the log
                scope["state"]["log"]["error"] = where(error)
            finally:
                messages.put_nowait(None)

        context = contextvars.copy_context()
        context.run(chance.given.set, chance.Chance(call.secret, call.created))
        context.run(client.set, call.client)
        task = asyncio.get_running_loop().create_task(run(), context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while (message := await messages.get()) is not None:
                yield message
            route = getattr(scope.get("route"), "path", None)
            yield {"type": "over", "route": route, "log": scope["state"]["log"]}
        finally:
            left.set()


class Rank:
    """A process of Ray's that holds a part of a replica's network."""

    def follow(self, model: str, adapter: str | None, rank: int, ranks: int, first: tuple[str, int]) -> None:
        """Until the first rank, whose store is at this host and port, is gone."""
        store = DISTRIBUTED.TCPStore(*first, ranks, is_master=False)
        follow(Engine(load(model, adapter), mesh=_mesh(store, rank, ranks)).denoiser)


def _mesh(store: Any, rank: int, ranks: int) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    forever = timedelta(days=3650)  # a replica may have nothing to do for long
    DISTRIBUTED.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=forever)
    return init_device_mesh("cpu", (ranks,))


class Cluster:
    """Ray with the deployment on it: a cluster of its own on this machine, or the one that RAY_ADDRESS names.

    Use it as a context manager. Raises ValueError where Ray is not installed or no replica can be made.
    """

    def __init__(self, model: str, adapter: str | None, settings: Settings, size: Size) -> None:
        try:
            import ray
            from ray import serve
        except ImportError:
            raise ValueError("Ray Serve is not installed: pip install 'mezzotint[ray]'") from None
        self._ray: Any = ray  # what Ray says of its own types is not what it takes
        self._serve: Any = serve
        self._size = size
        self._own = "RAY_ADDRESS" not in os.environ
        self._model, self._adapter = model, adapter
        self._settings = replace(
            settings, host=LOOPBACK[0], keys=(), remotes=()
        )  # what the front alone needs stays there

    def __enter__(self) -> Cluster:
        processes = self._size.most * self._size.ranks
        cores = max(1, (os.cpu_count() or 1) // processes)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: streams would wait for whatever else runs
        own: dict[str, Any] = {"address": "local", "num_cpus": cores * processes, "include_dashboard": False}
        self._ray.init(**(own if self._own else {}), log_to_driver=False, logging_level=logging.ERROR)
        try:
            self._deploy(cores if self._own else 1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _deploy(self, cores: int) -> None:
        from ray.serve.config import RequestRouterConfig
        from ray.serve.schema import LoggingConfig

        from mezzotint.server.router import BeginningRouter

        config: Any = RequestRouterConfig
        quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # its lines are not JSON
        self._serve.start(proxy_location="Disabled", logging_config=quiet)
        size = self._size
        count: dict[str, Any] = {"num_replicas": size.replicas}
        if size.most > size.replicas:
            count = {"autoscaling_config": {
                "min_replicas": size.replicas, "max_replicas": size.most, "target_ongoing_requests": BUSY,
                "upscale_delay_s": 2, "look_back_period_s": 5, "downscale_delay_s": 60, "metrics_interval_s": 1,
            }}  # fmt: skip
        if size.ranks > 1:
            count["placement_group_bundles"] = [{"CPU": cores}] * size.ranks
        deployment = self._serve.deployment(
            Replica, name=NAME, ray_actor_options={"num_cpus": cores}, logging_config=quiet,
            max_ongoing_requests=self._settings.queue + 64,  # its worker refuses before that, and says when to come back
            health_check_period_s=LOOK, health_check_timeout_s=30, graceful_shutdown_timeout_s=2,
            graceful_shutdown_wait_loop_s=0.1, max_constructor_retry_count=1,
            request_router_config=config(request_router_class=BeginningRouter), **count,
        )  # fmt: skip
        bound = deployment.bind(self._model, self._adapter, self._settings, size.ranks, cores)
        try:
            handle = self._serve.run(bound, name=NAME, route_prefix=None, logging_config=quiet)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1].strip()
            raise ValueError(f"no replica could be started: {last}") from None
        self._handle = handle.options(stream=True)

    def num_ready(self) -> int:
        """Replicas that answer."""
        found = self._serve.status().applications.get(NAME)
        states = [one.replica_states for one in found.deployments.values()] if found else []
        return sum(int(state.get("RUNNING", 0)) for state in states)

    async def ask(self, call: Call) -> AsyncGenerator[Message]:
        """See `Front`."""
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        messages = self._handle.answer.remote(call)
        done = False
        try:
            async for message in messages:
                yield message
            done = True
        except RayTaskError:
            raise ApiError(500, "the server failed at this request", "internal_error") from None
        except (RayError, RayServeException) as error:
            raise Lost(type(error).__name__) from None
        finally:
            if not done:
                messages.cancel()

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):  # what it is to end may have ended
            if not self._own:
                self._serve.delete(NAME)
        self._ray.shutdown()


async def _watch(front: Front, cluster: Cluster) -> None:
    """Keep count of the replicas."""
    while True:
        with suppress(Exception):  # the controller is being started anew; the last count holds
            ready = await asyncio.to_thread(cluster.num_ready)
            if ready != front.ready_count:
                front.ready_count = ready
                log("replicas", ready=ready)
        await asyncio.sleep(LOOK)


class ClusterServer(Server[Front]):
    """uvicorn before a cluster."""

    def __init__(self, front: Front, cluster: Cluster, settings: Settings, link: Link) -> None:
        config = configured(Guard(front, settings, front.metrics), settings)
        super().__init__(config, front, settings.grace, link.serving)
        self._front, self._cluster = front, cluster

    async def startup(self, sockets: list[Any] | None = None) -> None:
        self._front.ready_count = self._cluster.num_ready()
        log("replicas", ready=self._front.ready_count)
        self._watching = asyncio.create_task(_watch(self._front, self._cluster))
        await super().startup(sockets)


def serve(model: str, adapter: str | None, settings: Settings, size: Size, link: Link) -> None:
    """On the keeper's socket, until a signal. Raises ValueError where no replica can be made."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it would quote what clients send
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with link.bound as bound, Cluster(model, adapter, settings, size) as cluster:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn takes it, and hands it on when all is done
        ClusterServer(Front(cluster.ask, settings, Metrics(settings.name)), cluster, settings, link).run(
            sockets=[bound]
        )

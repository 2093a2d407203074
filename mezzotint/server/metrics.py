"""Metrics for Prometheus: the suffixes that operators chart already, and what only diffusion has.

A call is one forward of the network for one row. Tokens come many at a time, so there is no time between tokens but one
between commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
RATIOS = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32)


class Metrics:
    """One registry a server. Every series is labelled with the model's name."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self.model = model

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"mezzotint:{name}", what, ("model_name", *labels), registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"mezzotint:{name}", what, ("model_name",), buckets=buckets, registry=self.registry)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"mezzotint:{name}", what, ("model_name",), registry=self.registry)

        self._running = gauge("num_requests_running", "requests being worked on")
        self._waiting = gauge("num_requests_waiting", "requests in the queue")
        self._success = counter("request_success", "requests answered, by how they ended", "finished_reason")
        self._failure = counter("request_failure", "requests refused or failed, by status", "status")
        self._cancelled = counter("request_cancelled", "requests whose client left")
        self._prompt = counter("prompt_tokens", "tokens read")
        self._generated = counter("generation_tokens", "tokens committed")
        self._calls = counter("calls", "calls of the network, prefill excluded")
        self._positions = counter("positions", "positions that those calls computed")
        self._per_call = histogram("tokens_per_call", "tokens committed a call, by request", RATIOS)
        self._queue = histogram("request_queue_time_seconds", "from arrival to the first step")
        self._first = histogram("time_to_first_token_seconds", "from arrival to the first committed text")
        self._between = histogram("inter_commit_latency_seconds", "between commits of one request")
        self._whole = histogram("e2e_request_latency_seconds", "from arrival to the end")

    def succeeded(self, reasons: list[str], seconds: float, queued: float) -> None:
        for reason in reasons:
            self._success.labels(self.model, reason).inc()
        self._whole.labels(self.model).observe(seconds)
        self._queue.labels(self.model).observe(queued)

    def failed(self, status: int) -> None:
        self._failure.labels(self.model, str(status)).inc()

    def cancelled(self) -> None:
        self._cancelled.labels(self.model).inc()

    def worked(self, prompt: int, tokens: int, calls: int, positions: int) -> None:
        """What a request took, finished or not."""
        self._prompt.labels(self.model).inc(prompt)
        self._generated.labels(self.model).inc(tokens)
        self._calls.labels(self.model).inc(calls)
        self._positions.labels(self.model).inc(positions)
        if calls and tokens:
            self._per_call.labels(self.model).observe(tokens / calls)

    def committed(self, seconds: float, first: bool) -> None:
        (self._first if first else self._between).labels(self.model).observe(seconds)

    def text(self, running: int, waiting: int) -> bytes:
        self._running.labels(self.model).set(running)
        self._waiting.labels(self.model).set(waiting)
        return generate_latest(self.registry)


def joined(texts: Mapping[str, bytes]) -> str:
    """What several servers say, as one text. Each series is labelled with its server's name: `replica`."""
    families: dict[str, Metric] = {}
    for name, text in texts.items():
        for found in text_string_to_metric_families(text.decode()):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            for one in found.samples:
                family.add_sample(one.name, {**one.labels, "replica": name}, one.value)
    return generate_latest(_Kept(list(families.values()))).decode()


class _Kept(CollectorRegistry):
    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)

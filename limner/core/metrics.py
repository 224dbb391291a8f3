"""Metrics: one registry per process, Prometheus text format, base units, no ids in labels."""

import asyncio
import platform

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

LAG_INTERVAL_S = 0.1
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """All instruments of a process; names as published, without the prefix ``limner_``."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, version: str = "") -> None:
        self.registry = CollectorRegistry()
        self._durations: dict[str, Histogram] = {}
        self._fates: dict[tuple[str, str], Counter] = {}
        self._published: dict[tuple[str, str], Counter] = {}
        self.http_requests = self._counter(
            "http_requests", "HTTP requests", "method", "route", "status"
        )
        self.http_request_duration = self._histogram(
            "http_request_duration_seconds", "Seconds per HTTP request", "route"
        )
        self.messages_published = self._counter(
            "messages_published", "Messages confirmed by the broker", "exchange", "key"
        )
        self.jobs_finished = self._counter(
            "jobs_finished", "Messages and jobs that reached their fate", "actor", "outcome"
        )
        self.job_duration = self._histogram("job_duration_seconds", "Seconds per job", "actor")
        self.job_wait = self._histogram(
            "job_wait_seconds", "Seconds between asking and starting", "actor"
        )
        self.queue_depth = self._gauge("queue_depth", "Messages ready in a queue", "queue")
        self.queue_oldest_age = self._gauge(
            "queue_oldest_age_seconds", "Age of the oldest message of a queue", "queue"
        )
        self.engine_up = self._gauge(
            "engine_up", "Whether an engine answered when it was last looked at, 1 or 0", "engine"
        )
        self.actor_restarts = self._counter("actor_restarts", "Restarted actor loops", "actor")
        self.event_loop_lag = Histogram(
            "limner_event_loop_lag_seconds",
            "How late the event loop ran a timer",
            registry=self.registry,
            buckets=LAG_BUCKETS,
        )
        self.preview_latency = self._histogram(
            "preview_latency_seconds", "Seconds from request to first preview"
        )
        self.provider_requests = self._counter(
            "provider_requests", "Calls to providers", "provider", "outcome"
        )
        self.mails = self._counter("mails", "Mails by outcome", "outcome")
        self.posts = self._counter("posts", "Posts by platform and outcome", "platform", "outcome")
        self.credits = self._counter("credits", "Credits moved", "operation")
        self.sse_connections = self._gauge("sse_connections", "Open event streams")
        self.schedule_missed = self._counter("schedule_missed", "Fire times that were missed")
        self.outbox_rows = self._gauge("outbox_rows", "Rows waiting in the outbox")
        self.llm_requests = self._counter("llm_requests", "Language model calls", "outcome")
        info = self._gauge("build_info", "What runs here", "version", "python")
        info.labels(version, platform.python_version()).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"limner_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"limner_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"limner_{name}", text, labels, registry=self.registry)

    def observe_job(self, actor: str, seconds: float) -> None:
        """Count one handled message of an actor, which is done for every message."""
        child = self._durations.get(actor)
        if child is None:
            child = self._durations[actor] = self.job_duration.labels(actor)
        child.observe(seconds)

    def count_job(self, actor: str, outcome: str) -> None:
        """Count one message's fate."""
        self._count(self._fates, self.jobs_finished, actor, outcome)

    def count_published(self, exchange: str, key: str) -> None:
        """Count one confirmed message."""
        self._count(self._published, self.messages_published, exchange, key)

    @staticmethod
    def _count(
        known: dict[tuple[str, str], Counter], counter: Counter, first: str, second: str
    ) -> None:
        """Count without building the labels anew each time."""
        child = known.get((first, second))
        if child is None:
            child = known[first, second] = counter.labels(first, second)
        child.inc()

    def render(self) -> bytes:
        """Give the text exposition format."""
        return generate_latest(self.registry)

    async def watch_loop(self, stop: asyncio.Event) -> None:
        """Measure how late timers fire, until ``stop`` is set."""
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            due = loop.time() + LAG_INTERVAL_S
            try:
                await asyncio.wait_for(stop.wait(), LAG_INTERVAL_S)
            except TimeoutError:
                self.event_loop_lag.observe(max(0.0, loop.time() - due))

"""Metrics: the names of the interface, base units, and no ids in labels."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from limner.core import metrics as metrics_module
from limner.core.metrics import Metrics
from tests.contracts.engines import eventually

PUBLISHED = {
    "limner_http_requests": {"method", "route", "status"},
    "limner_http_request_duration_seconds": {"route"},
    "limner_messages_published": {"exchange", "key"},
    "limner_jobs_finished": {"actor", "outcome"},
    "limner_job_duration_seconds": {"actor"},
    "limner_job_wait_seconds": {"actor"},
    "limner_queue_depth": {"queue"},
    "limner_queue_oldest_age_seconds": {"queue"},
    "limner_actor_restarts": {"actor"},
    "limner_event_loop_lag_seconds": set(),
    "limner_preview_latency_seconds": set(),
    "limner_provider_requests": {"provider", "outcome"},
    "limner_mails": {"outcome"},
    "limner_posts": {"platform", "outcome"},
    "limner_credits": {"operation"},
    "limner_sse_connections": set(),
    "limner_schedule_missed": set(),
    "limner_outbox_rows": set(),
    "limner_llm_requests": {"outcome"},
    "limner_build_info": {"version", "python"},
}


def test_the_instruments_are_those_of_the_interface(metrics: Metrics) -> None:
    labels = {
        collector._name: set(collector._labelnames)
        for collector in metrics.registry._collector_to_names
        if hasattr(collector, "_labelnames") and hasattr(collector, "_name")
    }
    assert PUBLISHED.items() <= labels.items()
    assert all(name.startswith("limner_") for name in labels)
    assert not any(label.endswith("id") for names in labels.values() for label in names)


def test_they_are_rendered_as_prometheus_reads_them(metrics: Metrics) -> None:
    metrics.jobs_finished.labels("mailer", "done").inc()
    metrics.queue_depth.labels("mailer").set(3)
    text = metrics.render().decode()
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["limner_jobs_finished_total", (("actor", "mailer"), ("outcome", "done"))] == 1
    assert samples["limner_queue_depth", (("queue", "mailer"),)] == 3
    assert 'limner_build_info{python="3' in text
    assert 'version="test"' in text
    assert metrics.content_type.startswith("text/plain")


def test_processes_in_one_interpreter_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.mails.labels("sent").inc()
    assert two.registry.get_sample_value("limner_mails_total", {"outcome": "sent"}) is None


async def test_the_lag_of_the_loop_is_measured_until_told_to_stop(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "LAG_INTERVAL_S", 0.005)
    stop = asyncio.Event()
    watching = asyncio.create_task(metrics.watch_loop(stop))

    async def seen() -> bool:
        name = "limner_event_loop_lag_seconds_count"
        return (metrics.registry.get_sample_value(name) or 0) >= 3

    await eventually(seen)
    stop.set()
    await asyncio.wait_for(watching, 10)
    total_s = metrics.registry.get_sample_value("limner_event_loop_lag_seconds_sum")
    assert total_s is not None
    assert total_s >= 0

"""Producers that are not ours: what is right is handled once, what is wrong is a row."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange

from limner.core.message import BODY_LIMIT_BYTES
from limner.storage.sql.comments import Comment
from tests.contracts.engines import eventually
from tests.core.brokers.service import Service, open_service
from tests.core.brokers.vhost import UNREADABLE, Vhost, Written, fresh_vhost

pytestmark = pytest.mark.real


@pytest.fixture
async def vhost(request: pytest.FixtureRequest) -> AsyncIterator[Vhost]:
    async with fresh_vhost(request) as opened:
        yield opened


@pytest.fixture
async def service(vhost: Vhost, tmp_path: Path, migrated_file: Path) -> AsyncIterator[Service]:
    async with open_service(vhost, tmp_path, migrated_file) as opened:
        yield opened


def by_kombu(url: str, ident: str, text: str) -> None:
    connect: Any = Connection  # kombu has no types
    topic: Any = Exchange
    with connect(url) as connection, connection.Producer() as producer:
        exchange = topic("limner.commands", type="topic", durable=True, passive=True)
        producer.publish(
            {"text": text}, exchange=exchange, routing_key="echo.say", message_id=ident,
            serializer="json",
        )  # fmt: skip


def by_amqp_publish(url: str, ident: str, text: str) -> None:
    subprocess.run(
        [
            "amqp-publish", f"--url={url}", "-e", "limner.commands", "-r", "echo.say",
            "-C", "application/json", "-H", f"message_id: {ident}", "-p",
            "-b", json.dumps({"text": text}),
        ],
        check=True,
        timeout=20,
    )  # fmt: skip


async def test_pika_kombu_and_amqp_publish_get_through_once_per_message_id(
    service: Service,
) -> None:
    url = service.vhost.url
    assert shutil.which("amqp-publish"), "apt-get install amqp-tools"
    async with service.running():
        for _ in range(2):
            await service.vhost.write(
                Written(b'{"text": "pika"}', properties={"message_id": "from-pika"})
            )
            await asyncio.to_thread(by_kombu, url, "from-kombu", "kombu")
            await asyncio.to_thread(by_amqp_publish, url, "from-tools", "tools")
        other = {"message_id": "from-pika", "app_id": "another"}
        await service.vhost.write(Written(b'{"text": "last"}', properties=other))

        async def last_is_heard() -> bool:
            return any(one.text == "last" for one in service.echo.heard)

        await eventually(last_is_heard)
    # A repeat that comes together with the first may reach the handler; only one unit commits.
    assert {one.text for one in service.echo.heard} == {"kombu", "last", "pika", "tools"}
    assert await Comment.all().count() == 4
    done = service.ports.metrics.registry.get_sample_value(
        "limner_jobs_finished_total", {"actor": "echo", "outcome": "done"}
    )
    assert done == 4
    assert await service.letters() == []


DEEP = b'{"text": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
BAD_BODIES: dict[str, bytes] = {
    "no JSON": b'{"text": ',
    "nothing at all": b"",
    "no UTF-8": b'{"text": "\xff\xfe"}',
    "half a surrogate": b'{"text": "\\ud800"}',
    "NaN": b'{"text": "a", "n": NaN}',
    "a depth bomb": DEEP,
    "keys missing": b"{}",
    "an unknown key": b'{"text": "a", "more": 1}',
    "a wrong type": b'{"text": {"a": 1}}',
    "too long a text": b'{"text": "%s"}' % (b"x" * 21),
    "no object": b"[]",
    "a number of 10,000 digits": b'{"text": "a", "n": %s}' % (b"9" * 10_000),
    "zeros": bytes(100),
}


def corpus() -> list[tuple[str, Written]]:
    """Give bad messages with the reason of the row that each becomes."""

    def bad(reason: str, name: str, body: bytes = b"{}", **given: Any) -> tuple[str, Written]:
        key = given.pop("routing_key", "echo.say")
        return reason, Written(body, key, {"message_id": name, **given})

    too_large = [BODY_LIMIT_BYTES + 1, 10 * BODY_LIMIT_BYTES]
    return [
        *(bad("invalid_message", name, body) for name, body in BAD_BODIES.items()),
        *(("unreadable_properties", Written(raw=raw)) for raw in UNREADABLE.values()),
        *(bad("message_too_large", f"{size}", b"x" * size) for size in too_large),
        bad("unknown_message", "a", routing_key="echo.nothing"),
        bad("unknown_message", "b", routing_key="echo"),
        bad("unknown_message", "c", type="order.created"),
        bad("unroutable", "d", routing_key="nobody.hears"),
        bad("unroutable", "e", routing_key="x" * 255),
        bad("unroutable", "f", routing_key=""),
        bad("unroutable", "g", routing_key="界.\u0000'\"; DROP TABLE"),
        bad("invalid_header", "h", headers={"attempt": "many"}),
        bad("invalid_header", "i", headers={"attempt": -1}),
        bad("invalid_header", "j", headers={"attempt": {"a": [1, {"b": 2}]}}),
        bad("invalid_header", "k", headers={"outbox_id": 7}),
        bad("unsupported_encoding", "l", content_encoding="gzip"),
        ("no_message_id", Written()),
        ("no_message_id", Written(properties={"headers": {"message_id": 7}})),
        ("no_message_id", Written(routing_key="nobody.hears")),
    ]


async def test_each_bad_message_is_one_row_and_the_good_one_behind_is_handled(
    service: Service,
) -> None:
    good = Written(b'{"text": "good"}', properties={"message_id": "good"})
    bad = corpus()
    async with service.running():
        await service.vhost.write(*(message for _, message in bad), good)
        await service.settled(heard=1, letters=len(bad))
    assert [one.text for one in service.echo.heard] == ["good"]
    letters = await service.letters()
    assert sorted(letter.reason for letter in letters) == sorted(reason for reason, _ in bad)
    assert all(letter.detail for letter in letters)
    by_id = {letter.message_id: letter for letter in letters}
    assert len(by_id) == len(bad)
    large = by_id[str(10 * BODY_LIMIT_BYTES)]
    assert len(large.body) == BODY_LIMIT_BYTES
    assert str(10 * BODY_LIMIT_BYTES) in large.detail
    assert bytes(by_id["no UTF-8"].body) == BAD_BODIES["no UTF-8"]
    assert by_id["c"].detail == "echo takes echo.say, not order.created"


async def test_bad_messages_end_no_connection(service: Service) -> None:
    link = service.broker._consuming

    async def is_open() -> bool:
        return link.is_open

    async with service.running():
        await eventually(is_open)
        consuming = link._opened
        bad = [message for _, message in corpus()]
        await service.vhost.write(*bad)
        await service.settled(heard=0, letters=len(bad))
        assert link._opened is consuming
        assert consuming is not None
        assert consuming.is_open


async def test_a_repeated_bad_message_is_one_row(service: Service) -> None:
    bad = Written(b"no JSON", properties={"message_id": "m1"})
    async with service.running():
        await service.vhost.write(bad, bad, bad, Written(properties={"message_id": "m2"}))
        await service.settled(heard=1, letters=1)
    assert [letter.message_id for letter in await service.letters()] == ["m1"]

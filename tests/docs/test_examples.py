"""The examples of the pages do what the pages say: mappings, mail URLs, backups."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from limner.actors.generator.messages import Generate
from limner.actors.mailer.messages import Send
from limner.actors.mailer.server import Server
from limner.actors.poller.connector import Fetched
from limner.actors.poller.http import HttpOptions
from limner.actors.poller.rules import validate
from limner.actors.registry import messages
from limner.actors.submitter.rules import validate_config
from limner.core.errors import Invalid
from limner.core.failpoints import parse
from limner.core.jsonpath import fill
from limner.core.message import Message
from limner.core.provider import Order
from limner.core.providers.mapping import extract
from limner.storage.cache.redis_connections import read_address as redis_address
from limner.storage.objects.s3_address import read_address as s3_address
from limner.storage.sql.accounts import OWNER_ID
from limner.storage.sql.address import mysql_address
from limner.storage.sql.database import Database
from limner.storage.sql.schema import pending
from tests.docs.pages import ROOT, blocks, pages

GUIDES = ROOT / "docs" / "guides"
PRODUCERS = "foreign-producers.md"
# In code, and with a host: what is not a form with its parts in capitals.
ENGINE_URLS = {
    "mysql": r"\bmysql://[^\s`'\"A-Z…]+(?![^\s`'\"])",
    "redis": r"\brediss?://[^\s`'\"A-Z…]+(?![^\s`'\"])",
    "s3": r"\bs3://[^\s`'\"A-Z…]+(?![^\s`'\"])",
}


def example(guide: str, name: str) -> Any:
    """Give the JSON of a guide's file."""
    (text,) = [block.text for block in blocks(GUIDES / guide) if block.path == name]
    return json.loads(text)


async def test_the_source_of_the_guide_reads_the_answer_of_the_guide() -> None:
    source, answer = (example("real-feed.md", name) for name in ("source.json", "answer.json"))
    validate(source["connector"], source["options"])
    feed = HttpOptions.read(source["options"])
    assert await feed.comments_of(await feed.items_of(answer)) == [
        Fetched("9001", "Ada", "Please draw a red circle, ada@example.com"),
        Fetched("9002", "Ben", "What a lovely day"),
    ]
    onward = await feed.cursor_of(answer)
    assert (onward, await feed.more_of(answer, onward)) == ("MTAw", True)


def test_the_xiaohongshu_source_of_the_guide_is_valid() -> None:
    source = example("real-feed.md", "xiaohongshu.json")
    validate(source["connector"], source["options"])
    with pytest.raises(Invalid):
        validate(source["connector"], source["options"] | {"note": "42"})


async def test_the_provider_of_the_guide_reads_the_answer_of_the_guide() -> None:
    provider, answer = (
        example("real-provider.md", name) for name in ("provider.json", "answer.json")
    )
    config = {name: value for name, value in provider.items() if name not in {"name", "kind"}}
    mapping = validate_config(config)
    extracted = await extract(mapping, answer)
    assert (extracted.job_id, extracted.status, extracted.state) == (
        "job-7731",
        "queued",
        "pending",
    )
    body = await fill(mapping.request, Order(id="t.1", prompt="a cat").values())
    assert body == {"input": {"prompt": "a cat", "type": "image", "size": "512x512"}}


def test_the_fields_of_an_order_in_the_guide_are_those_of_an_order() -> None:
    text = (GUIDES / "real-provider.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"what they point to in `\{([a-z_, ]+)\}`", text)
    assert set(told.split(", ")) == set(Order(id="", prompt="").values())


def test_the_owner_in_the_guide_to_other_producers_is_the_owner() -> None:
    (script,) = [one for one in blocks(GUIDES / PRODUCERS) if one.path == "make_picture.py"]
    assert f'OWNER = "{OWNER_ID}"' in script.text


@pytest.mark.parametrize("command", [Send, Generate])
def test_the_guide_to_other_producers_names_every_field(command: type[Message]) -> None:
    text = (GUIDES / PRODUCERS).read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{command.topic}`")]
    assert all(f"`{name}`" in row for name in command.model_fields)


def test_the_public_commands_of_the_guide_are_all_that_there_are() -> None:
    public = {message.topic for message in messages() if message.public}
    assert public == {Send.topic, Generate.topic}


def test_the_urls_of_engines_in_the_pages_are_valid() -> None:
    """Each kind of URL is read by what reads it at a start; RabbitMQ's driver takes any."""
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    found = {
        scheme: sorted({url for text in texts for url in re.findall(form, text)})
        for scheme, form in ENGINE_URLS.items()
    }
    assert all(found.values()), found
    for url in found["mysql"]:
        assert mysql_address(url).name
    for url in found["redis"]:
        assert redis_address(url).host
    for url in found["s3"]:
        assert s3_address(url, "", "").bucket


def test_the_mail_urls_of_the_pages_are_valid() -> None:
    texts = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")]
    urls = [url for text in texts for url in re.findall(r"smtps?://\w[^\s'`]+", text)]
    assert urls
    for url in urls:
        assert Server.parse(url, production=True).tls != "none"


def test_the_failpoint_of_the_page_is_one() -> None:
    text = (ROOT / "docs" / "failpoints.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"LIMNER_FAILPOINT=(\S+)", text)
    armed = parse(told)
    assert f"| `{armed.point.rpartition('.')[0]}` |" in text


def test_a_backup_as_the_page_makes_it_has_what_was_committed_last(tmp_path: Path) -> None:
    (script,) = [
        block.text
        for block in blocks(ROOT / "docs" / "operating.md")
        if "backup/limner.db" in block.text
    ]
    home = tmp_path / "var"
    (home / "objects" / "data").mkdir(parents=True)
    (home / "objects" / "data" / "picture").write_bytes(b"pixels")
    (home / "secret_key").write_text("key")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    with closing(sqlite3.connect(home / "limner.db", isolation_level=None)) as running:
        running.execute("PRAGMA journal_mode = WAL")
        running.execute("CREATE TABLE tasks (id TEXT)")
        running.execute("INSERT INTO tasks VALUES ('task_1')")
        subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True, timeout=30)
    with closing(sqlite3.connect(tmp_path / "backup" / "limner.db")) as restored:
        assert restored.execute("SELECT id FROM tasks").fetchall() == [("task_1",)]
        assert restored.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert (tmp_path / "backup" / "objects" / "data" / "picture").read_bytes() == b"pixels"
    assert (tmp_path / "backup" / "secret_key").read_text() == "key"


def test_the_commands_that_mend_a_lost_queue_are_commands() -> None:
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    section = text.partition("## A broker that lost its data\n")[2].partition("\n## ")[0]
    rows = re.findall(r"\| `([a-z.]+)` \| `(\{.*?\})`", section)
    kinds = {message.topic: message for message in messages()}
    assert len(rows) == 4
    for topic, body in rows:
        assert kinds[topic].from_bytes(body.encode()).topic == topic
    (typed,) = re.findall(r"-r ([a-z.]+)", section)
    assert typed in dict(rows)


async def test_the_version_before_starts_on_tables_of_the_next(database: Database) -> None:
    rows = await database.read().query("SELECT app, applied_at FROM tortoise_migrations LIMIT 1")
    await database.write().execute(
        "INSERT INTO tortoise_migrations (app, name, applied_at) VALUES (?, ?, ?)",
        [rows[0]["app"], "9999_of_the_next_version", rows[0]["applied_at"]],
    )
    assert await pending(database) == []

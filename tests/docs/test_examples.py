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

from limner.actors.mailer.server import Server
from limner.actors.poller.connector import Fetched
from limner.actors.poller.http import HttpOptions
from limner.actors.poller.rules import validate
from limner.actors.submitter.rules import validate_config
from limner.core.errors import Invalid
from limner.core.failpoints import parse
from limner.core.jsonpath import fill
from limner.core.provider import Order
from limner.core.providers.mapping import extract
from tests.docs.pages import ROOT, blocks

GUIDES = ROOT / "docs" / "guides"


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

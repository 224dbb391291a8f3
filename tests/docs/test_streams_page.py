"""The page on event streams: its commands follow a picture, its script runs in a browser."""

import re
from pathlib import Path

import pytest

from limner.core.clock import HeldClock
from limner.http.channels import KINDS
from limner.http.seats import STREAMS_PER_ACCOUNT
from limner.http.sse import HUB
from limner.storage.sql import lines
from tests.docs.pages import ROOT, blocks
from tests.docs.tree import URL, Tree
from tests.fakes.chromium import chromium
from tests.fakes.front import staged, until

PAGE = "docs/streams.md"


def told(text: str) -> list[str]:
    return re.findall(r"^event: (\w+)$", text, re.MULTILINE)


@pytest.mark.journey
@pytest.mark.timeout(180)
def test_the_commands_of_the_page_follow_a_picture_and_replay_it(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "limner", PAGE)
    typed = "\n".join(block.text for block in tree.blocks if block.language == "sh")
    with tree.serving() as (url, _):
        live = told(tree.shell(typed.replace(URL, url)))
    assert (live[0], live[-1]) == ("snapshot", "done")
    again = (tree.root / "again.txt").read_text()
    assert set(told(again)) == {"status", "done"}
    assert re.findall(r"^id: (\d+)$", again, re.MULTILINE) == ["1", "2", "3", "4"]
    everything = (tree.root / "all.txt").read_text()
    assert told(everything) == told(again)
    assert everything.count('"object":{"kind":"job","id":"job_') == 4


@pytest.mark.browser
@pytest.mark.timeout(120)
async def test_the_script_of_the_page_hears_of_everything_once(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    [script] = [block.text for block in blocks(ROOT / PAGE) if block.language == "js"]
    said: list[str] = []
    async with (
        staged(migrated_file, tmp_path, clock) as stage,
        chromium() as browser,
    ):
        page = await browser.new_page()
        # Beside what the script says, the browser complains of the connection that breaks below.
        page.on("console", lambda one: said.append(one.text) if one.type == "log" else None)
        base = stage.front.settings.base_url
        await page.goto(f"{base}/sign-in/{await stage.link()}")
        await page.evaluate(script)
        hub = stage.server.app[HUB]
        await until(lambda: any(one.live for one in hub._accounts.values()))
        task = await stage.move(await stage.task(), "extracted")
        wanted = [f"task {task.id} 1 pending", f"task {task.id} 2 extracted"]
        await until(lambda: len(said) >= 2)
        # The connection breaks; the browser comes back with its cursor, and nothing comes twice.
        for account in hub._accounts.values():
            for reader in account.live:
                reader.stream.cut()
        await stage.move(task, "cancelled")
        wanted += [f"task {task.id} 3 cancelled", f"task {task.id} 4 cancelled"]
        await until(lambda: len(said) >= 4)
        assert said == wanted


def test_the_page_tells_the_bounds_and_kinds_that_hold() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert f"{STREAMS_PER_ACCOUNT:,} streams" in text
    assert f"{lines.HISTORY_LINES:,} events" in text
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| `([\w:]+)` \|", text, re.MULTILINE))
    for kind, what in KINDS.items():
        if kind != "user":
            assert rows[kind] == what.scope

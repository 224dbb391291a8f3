"""The intent actor: what becomes of comments, by the rules alone and with a language model."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limner.actors.intent.actor import Reader, build
from limner.actors.intent.messages import Read
from limner.actors.ports import Ports
from limner.core.actor import ActorLoop
from limner.core.clock import HeldClock
from limner.core.llm import ChatModel
from limner.core.unit import Commit
from limner.storage.sql.comments import Comment
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import lines_after
from tests.actors.intent.reading import WISH, answer, comment, read, submitted
from tests.contracts.engines import eventually
from tests.fakes.llm import FakeLlm
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
async def llm() -> AsyncIterator[FakeLlm]:
    async with FakeLlm() as server:
        yield server


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def asking(ports: Ports, llm: FakeLlm, slept: list[float]) -> Ports:
    """The same ports with a model to ask."""

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    model = ChatModel(llm.url, "key", "small", ports.outgoing, sleep=sleep)
    return replace(ports, llm=model)


async def test_the_rules_alone_make_a_task_of_which_they_are_sure(ports: Ports) -> None:
    row, task = await read(ports)
    assert task is not None
    assert (row.state, row.task_id) == ("task", task.id)
    assert (task.state, task.confidence) == ("extracted", 1.0)
    assert (task.email, task.prompt) == ("fox@example.com", "a red fox in the snow")
    assert (task.media, task.language) == ("image", "en")
    assert (task.user_id, task.source_id) == ("user_1", "source_1")
    assert (task.comment_text, task.author) == (WISH, "a reader")
    assert await submitted(Stage(ports)) == [task.id]


async def test_a_task_has_the_trace_of_its_comment_from_its_first_line_on(ports: Ports) -> None:
    row, task = await read(ports)
    assert task is not None
    assert task.trace_id == row.trace_id != ""
    lines = await lines_after(task.id, 0)
    assert [(line.n, line.state) for line in lines] == [(1, "pending"), (2, "extracted")]
    assert lines[1].detail == "decided by rules"


async def test_a_chinese_wish_for_a_video_is_one(ports: Ports) -> None:
    _, task = await read(ports, "帮我做视频 一只红狐狸在雪地里，发到 fox@qq.com 谢谢")
    assert task is not None
    assert (task.state, task.media, task.language) == ("extracted", "video", "zh")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("draw a red fox: a@example.com, b@example.com", "several addresses"),
        ("draw please, fox@example.com", "empty prompt"),
        ("how do you draw a red fox? fox@example.com", "unclear wish"),
    ],
)
async def test_an_unclear_wish_waits_for_a_person(ports: Ports, text: str, reason: str) -> None:
    row, task = await read(ports, text)
    assert task is not None
    assert (row.state, task.state, task.confidence) == ("task", "needs_review", 0.0)
    (*_, line) = await lines_after(task.id, 0)
    assert line.detail == reason
    assert await submitted(Stage(ports)) == []


@pytest.mark.parametrize(
    ("text", "state", "reason"),
    [
        ("draw a red fox, fox@example.com, follow back", "ignored", "deny word"),
        ("what a nice post! fox@example.com", "ignored", "no keyword"),
        ("draw a red fox in the snow", "no_address", "no address"),
    ],
)
async def test_no_task_comes_of_what_is_no_wish_or_has_no_address(
    ports: Ports, text: str, state: str, reason: str
) -> None:
    row, task = await read(ports, text)
    assert task is None
    assert (row.state, row.reason, row.task_id) == (state, reason, None)


async def test_a_wish_that_is_too_long_to_keep_whole_waits_for_a_person(ports: Ports) -> None:
    text = "draw " + "a red fox and " * 280 + "a hare, fox@example.com"
    assert 3900 < len(text) <= 4000
    _, task = await read(ports, text)
    assert task is not None
    (*_, line) = await lines_after(task.id, 0)
    assert (task.state, line.detail) == ("needs_review", "prompt too long")
    assert task.prompt.startswith("a red fox")
    assert len(task.prompt) == 2000


async def test_words_that_are_changed_while_it_runs_count_from_then_on(ports: Ports) -> None:
    stage = Stage(ports, build(ports))
    rows = []
    for keywords in (("sketch",), ("draw",)):
        await stage.tune(keywords=keywords, deny_words=("hare",))
        rows.append(await comment(stage))
        await stage.send(Read(comment_id=rows[-1].id))
        await stage.act()
    states = [(await Comment.get(id=row.id)).state for row in rows]
    assert states == ["ignored", "task"]


async def test_a_message_that_comes_again_does_nothing(asking: Ports, llm: FakeLlm) -> None:
    llm.otherwise = answer()
    stage = Stage(asking, build(asking))
    row = await comment(stage)
    for _ in range(3):
        await stage.send(Read(comment_id=row.id))
        await stage.act()
    assert await stage.dead() == []
    assert await Task.all().count() == 1
    assert len(await submitted(stage)) == 1
    assert len(llm.requests) == 1


async def test_a_comment_that_was_ignored_stays_so(ports: Ports) -> None:
    stage = Stage(ports, build(ports))
    row = await comment(stage, "nice post")
    for _ in range(2):
        await stage.send(Read(comment_id=row.id))
        await stage.act()
    assert (await Comment.get(id=row.id)).version == 2
    assert await stage.dead() == []


async def move(ports: Ports, task: Task, before: str, to: str, **changes: Any) -> Task:
    work = ports.units.open("test")
    work.move(task, expected=before, to=to, **changes)
    assert await ports.units.commit(work) is Commit.DONE
    return await Task.get(id=task.id)


async def test_a_task_that_is_pending_again_is_taken_on_as_it_was(
    asking: Ports, llm: FakeLlm
) -> None:
    llm.script(answer(prompt="what was found then"))
    _, task = await read(asking)
    assert task is not None
    stage = Stage(asking, build(asking))
    failed = await move(asking, task, "extracted", "failed")
    await move(asking, failed, "failed", "pending", round=2)
    await stage.send(Read(comment_id=task.comment_id))
    await stage.act()
    again = await Task.get(id=task.id)
    assert (again.state, again.prompt, again.round) == ("extracted", "what was found then", 2)
    assert await submitted(stage) == [task.id, task.id]
    assert len(llm.requests) == 1


async def test_a_pending_task_of_which_little_is_known_is_read_anew(ports: Ports) -> None:
    stage = Stage(ports, build(ports))
    _, task = await read(ports, "draw a red fox: a@example.com, b@example.com")
    assert task is not None
    failed = await move(ports, task, "needs_review", "failed")
    await move(ports, failed, "failed", "pending")
    await stage.send(Read(comment_id=task.comment_id))
    await stage.act()
    again = await Task.get(id=task.id)
    assert (again.state, again.prompt) == ("needs_review", "a red fox")


async def test_a_pending_task_is_never_dropped_although_its_words_are_denied_by_now(
    ports: Ports,
) -> None:
    stage = Stage(ports, build(ports))
    _, task = await read(ports, "draw please, fox@example.com")
    assert task is not None
    failed = await move(ports, task, "needs_review", "failed")
    await move(ports, failed, "failed", "pending")
    await stage.tune(deny_words=("fox",))
    await stage.send(Read(comment_id=task.comment_id))
    await stage.act()
    again = await Task.get(id=task.id)
    (*_, line) = await lines_after(task.id, 0)
    assert (again.state, line.detail) == ("needs_review", "deny word")


async def test_a_comment_that_is_not_there_is_a_dead_letter(ports: Ports) -> None:
    stage = Stage(ports, build(ports))
    await stage.send(Read(comment_id="comment_0"))
    await stage.act()
    (letter,) = await stage.dead()
    assert (letter.consumer, letter.reason) == ("intent", "not_found")
    assert letter.detail == "there is no comment comment_0"


async def test_a_pending_task_fails_when_its_message_is_given_up(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(ports, build(ports), max_attempts=3)
    _, task = await read(ports, "draw please, fox@example.com")
    assert task is not None
    failed = await move(ports, task, "needs_review", "failed")
    await move(ports, failed, "failed", "pending")

    async def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Reader, "decide", broken)
    await stage.send(Read(comment_id=task.comment_id))
    assert await stage.act() == 1
    for _ in range(2):
        await stage.act_later()
    (letter,) = await stage.dead()
    assert (letter.reason, letter.attempt) == ("attempts_exhausted", 3)
    again = await Task.get(id=task.id)
    assert (again.state, again.error) == ("failed", "ValueError: a bug")


async def test_giving_up_changes_nothing_of_a_task_that_has_gone_on(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, task = await read(ports)
    assert task is not None
    handler = build(ports).handler
    work = ports.units.open("intent")
    for ident in (task.comment_id, "comment_0"):
        await handler.abandon(Read(comment_id=ident), "for no reason", work)  # type: ignore[union-attr]
    await ports.units.commit(work)
    assert (await Task.get(id=task.id)).state == "extracted"


async def test_twenty_deliveries_at_once_make_one_task(asking: Ports, llm: FakeLlm) -> None:
    llm.otherwise = answer()
    stage = Stage(asking)
    row = await comment(stage)
    actor = build(asking).with_defaults(concurrency=20, timeout_s=30, max_attempts=4)
    loop = ActorLoop(actor, asking.broker, asking.units, asking.clock, asking.metrics)
    await stage.send(*[Read(comment_id=row.id) for _ in range(20)])
    stop = asyncio.Event()
    running = asyncio.create_task(loop.run(stop))

    async def only_retries_are_left() -> bool:
        rows = [each for each in await stage.waiting() if each.topic == Read.topic]
        return all(each.attempt > 1 for each in rows)

    await eventually(only_retries_are_left)
    stop.set()
    await running
    later = Stage(asking, build(asking))
    while [each for each in await later.waiting() if each.topic == Read.topic]:
        await later.act_later()
    assert await stage.dead() == []
    (task,) = await Task.all()
    assert await submitted(stage) == [task.id]
    assert (await Comment.get(id=row.id)).task_id == task.id

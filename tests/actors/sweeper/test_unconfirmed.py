"""Accounts that nobody ever confirmed: which go, and which must not."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from limner.actors.ports import Ports
from limner.actors.sweeper import unconfirmed
from limner.actors.sweeper.actor import build
from limner.actors.sweeper.messages import Clean
from limner.actors.sweeper.unconfirmed import LIFE_DAYS, delete_unconfirmed
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.storage.sql.accounts import ADMIN, ApiKey, User, create_key
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.jobs import Job
from limner.storage.sql.sources import Source
from limner.storage.sql.tasks import Task
from limner.storage.sql.users import delete_user
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def stage(ports: Ports) -> Stage:
    return Stage(ports, build(ports))


async def account(stage: Stage, days: float = LIFE_DAYS + 1, **columns: Any) -> User:
    """Make an account that old, as registering does it."""
    ident = new_id("user")
    made = stage.ports.clock.now() - timedelta(days=days)
    address = columns.pop("email", f"{ident}@example.org")
    user = User(
        id=ident, user_id=ident, state="active", email=address, name="N", created_at=made, **columns
    )
    await stage.keep(user)
    await stage.ports.database.write().execute(
        "UPDATE users SET created_at = ? WHERE id = ?", [made, ident]
    )
    return user


async def states(*users: User) -> list[str]:
    return [(await User.get(id=user.id)).state for user in users]


async def test_an_account_that_was_never_confirmed_nor_used_goes_after_a_month(
    stage: Stage, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unconfirmed, "PIECE", 2)
    old = [await account(stage, password_hash="x") for _ in range(3)]
    young = await account(stage, LIFE_DAYS - 1, password_hash="x")
    await stage.send(Clean())
    await stage.act()
    assert await states(*old, young) == ["deleted"] * 3 + ["active"]
    gone = await User.get(id=old[0].id)
    assert (gone.email, gone.name, gone.password_hash) == (None, "", None)
    line = await AuditLine.get(event="user.deleted", subject=gone.id)
    assert line.data == {"because": "never_confirmed"}


async def test_what_was_confirmed_or_used_or_has_anything_stays(stage: Stage, ports: Ports) -> None:
    now = ports.clock.now()
    keeper, painter, wisher, reader = [await account(stage) for _ in range(4)]
    work = ports.units.open("test")
    create_key(work, keeper, frozenset({"tasks:read"}), "robot")
    await ports.units.commit(work)
    await stage.keep(
        Job(id="job_1", user_id=painter.id, state="succeeded", prompt="a cat"),
        Task(id="task_1", user_id=wisher.id, state="emailed", comment_id="c", source_id="s"),
        Source(id="source_1", user_id=reader.id, state="active", name="s", connector="demo"),
    )
    everybody = [
        keeper,
        painter,
        wisher,
        reader,
        await account(stage, verified_at=now),
        await account(stage, last_sign_in_at=now),
        await account(stage, role=ADMIN),
        await account(stage, email=None),
    ]
    assert await delete_unconfirmed(ports, now) == 0
    assert set(await states(*everybody)) == {"active"}
    assert await ApiKey.filter(revoked_at=None).count() == 1


async def test_one_that_is_confirmed_in_the_last_moment_stays(
    stage: Stage, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await account(stage)

    async def late(*given: Any, **named: Any) -> None:
        await delete_user(*given, **named)
        await ports.database.write().execute(
            "UPDATE users SET verified_at = ? WHERE id = ?", [ports.clock.now(), user.id]
        )

    monkeypatch.setattr("limner.actors.sweeper.unconfirmed.delete_user", late)
    assert await delete_unconfirmed(ports, ports.clock.now()) == 0
    assert await states(user) == ["active"]

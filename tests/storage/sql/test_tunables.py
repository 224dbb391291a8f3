"""Stored tunables with their history, and secrets that only their own key opens."""

import asyncio
from typing import Any

import pytest

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable, Invalid, NotConfigured
from limner.core.tunables import Tunables
from limner.core.unit import Commit
from limner.storage.sql import tunables
from limner.storage.sql.database import Database
from limner.storage.sql.tunables import (
    FRESH_S,
    SecretStore,
    StoredSecret,
    TunableChange,
    TunableRow,
    TunableStore,
)
from limner.storage.sql.unit import SqlUnits

KEY = bytes(range(32))


@pytest.fixture
def store(database: Database, clock: HeldClock) -> TunableStore:
    return TunableStore(clock)


@pytest.fixture
def secrets(database: Database) -> SecretStore:
    return SecretStore(KEY)


async def put(units: SqlUnits, store: TunableStore, by: str = "user_1", **changes: Any) -> Tunables:
    work = units.open("http")
    values = await store.put(work, changes, by)
    assert await units.commit(work) is Commit.DONE
    return values


async def keep(units: SqlUnits, secrets: SecretStore, name: str, value: str) -> None:
    work = units.open("http")
    await secrets.put(work, name, value, "user_1")
    assert await units.commit(work) is Commit.DONE


async def test_without_rows_the_defaults_hold(store: TunableStore) -> None:
    assert await store.current() == Tunables()


async def test_a_value_that_was_put_holds_everywhere_within_seconds(
    store: TunableStore, units: SqlUnits, clock: HeldClock
) -> None:
    other = TunableStore(clock)
    assert (await other.current()).poll_interval_s == 120
    values = await put(units, store, poll_interval_s=30, keywords=["draw"])
    assert (values.poll_interval_s, values.keywords) == (30, ("draw",))
    assert (await store.current()).poll_interval_s == 30
    assert (await other.current()).poll_interval_s == 120
    clock.advance(FRESH_S + 0.001)
    assert (await other.current()).poll_interval_s == 30
    await put(units, store, poll_interval_s=40)
    assert (await other.current()).poll_interval_s == 30
    other.forget()
    assert (await other.current()).poll_interval_s == 40


async def test_what_this_process_puts_shows_at_once_and_no_earlier(
    database: Database, units: SqlUnits, clock: HeldClock
) -> None:
    store = TunableStore(clock, database.memory("tunables"))
    assert (await store.current()).poll_interval_s == 120
    work = units.open("http")
    await store.put(work, {"poll_interval_s": 30}, "user_1")
    assert (await store.current()).poll_interval_s == 120
    await units.commit(work)
    assert (await store.current()).poll_interval_s == 30
    assert store.latest.poll_interval_s == 30


async def test_while_the_database_is_away_what_was_read_last_is_recent(
    store: TunableStore, units: SqlUnits, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await store.recent() == store.latest == Tunables()
    await put(units, store, poll_interval_s=30)
    clock.advance(FRESH_S)
    asked: list[int] = []

    async def fail() -> Tunables:
        asked.append(1)
        raise EngineUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "current", fail)
        assert [(await store.recent()).poll_interval_s for _ in range(3)] == [120] * 3
        assert len(asked) == 1
    assert (await store.recent()).poll_interval_s == 120
    clock.advance(FRESH_S)
    assert (await store.recent()).poll_interval_s == 30


async def test_nobody_waits_long_for_a_database_that_says_nothing(
    store: TunableStore, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []

    async def silence() -> Tunables:
        waiting.append(1)
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(tunables, "PATIENCE_S", 0.01)
    monkeypatch.setattr(store, "current", silence)
    async with asyncio.timeout(5):
        assert [await store.recent() for _ in range(3)] == [store.latest] * 3
    assert len(waiting) == 1


async def test_nothing_is_put_before_its_unit_commits(store: TunableStore, units: SqlUnits) -> None:
    work = units.open("http")
    await store.put(work, {"poll_interval_s": 30}, "user_1")
    assert await TunableRow.all().count() == 0
    await units.discard(work)
    assert await store.current() == Tunables()


async def test_every_change_is_kept_with_who_and_what_it_was_before(
    store: TunableStore, units: SqlUnits, clock: HeldClock
) -> None:
    for value, by in ((30, "user_1"), (30, "user_2"), (40, "user_2"), (None, "user_3")):
        clock.advance(1)
        await put(units, store, by, poll_interval_s=value)
    changes = await TunableChange.all().order_by("at")
    assert [(one.before, one.after, one.by) for one in changes] == [
        (None, 30, "user_1"),
        (30, 40, "user_2"),
        (40, None, "user_3"),
    ]
    assert await TunableRow.all().count() == 0


async def test_values_out_of_bounds_and_unknown_names_are_all_told_and_nothing_is_put(
    store: TunableStore, units: SqlUnits
) -> None:
    work = units.open("http")
    changes = {"poll_interval_s": 1, "keywords": ["ok", ""], "shoe_size": 44}
    with pytest.raises(Invalid) as caught:
        await store.put(work, changes, "user_1")
    assert {pointer for pointer, _ in caught.value.faults} == {
        "/poll_interval_s",
        "/keywords/1",
        "/shoe_size",
    }
    assert work.changes == []


async def test_a_description_tells_value_default_source_and_who(
    store: TunableStore, units: SqlUnits, clock: HeldClock
) -> None:
    await put(units, store, confidence_threshold=0.9)
    described = await store.describe()
    assert described.keys() == Tunables.model_fields.keys()
    changed = described["confidence_threshold"]
    assert (changed["value"], changed["default"], changed["source"]) == (0.9, 0.7, "database")
    assert (changed["updated_at"], changed["updated_by"]) == (clock.now(), "user_1")
    untouched = described["poll_interval_s"]
    assert (untouched["value"], untouched["source"]) == (120, "default")
    assert (untouched["updated_at"], untouched["updated_by"]) == (None, None)
    assert all(one["description"] for one in described.values())


async def test_a_value_of_a_newer_version_is_passed_over(
    store: TunableStore, units: SqlUnits, clock: HeldClock
) -> None:
    await TunableRow.create(name="from_the_future", value=1, updated_at=clock.now())
    assert await store.current() == Tunables()
    await put(units, store, poll_interval_s=30)
    assert (await store.describe())["poll_interval_s"]["value"] == 30


async def test_a_secret_comes_back_and_is_stored_sealed(
    secrets: SecretStore, units: SqlUnits
) -> None:
    await keep(units, secrets, "openai", "sk-秘密")
    assert await secrets.get("openai") == "sk-秘密"
    sealed = bytes((await StoredSecret.get(name="openai")).sealed)
    assert "sk-秘密".encode() not in sealed
    await keep(units, secrets, "openai", "sk-second")
    assert await secrets.get("openai") == "sk-second"
    assert await StoredSecret.all().count() == 1


async def test_the_same_secret_is_sealed_differently_each_time(
    secrets: SecretStore, units: SqlUnits
) -> None:
    await keep(units, secrets, "a", "same")
    await keep(units, secrets, "b", "same")
    one, two = await StoredSecret.all().order_by("name")
    assert bytes(one.sealed) != bytes(two.sealed)


async def test_a_secret_that_is_not_there_is_asked_for_by_name(secrets: SecretStore) -> None:
    with pytest.raises(NotConfigured, match="PUT /api/settings/secrets/openai"):
        await secrets.get("openai")


async def test_another_key_or_another_name_opens_nothing(
    secrets: SecretStore, units: SqlUnits
) -> None:
    await keep(units, secrets, "a", "value of a")
    await keep(units, secrets, "b", "value of b")
    with pytest.raises(NotConfigured, match="under another secret key"):
        await SecretStore(bytes(32)).get("a")
    sealed = (await StoredSecret.get(name="a")).sealed
    await StoredSecret.filter(name="b").update(sealed=sealed)
    with pytest.raises(NotConfigured, match="under another secret key"):
        await secrets.get("b")


async def test_names_are_listed_without_values(
    secrets: SecretStore, units: SqlUnits, clock: HeldClock
) -> None:
    await keep(units, secrets, "b", "x")
    await keep(units, secrets, "a", "y")
    assert await secrets.names() == [
        {"name": "a", "updated_at": clock.now()},
        {"name": "b", "updated_at": clock.now()},
    ]


async def test_references_in_a_text_are_filled_in(secrets: SecretStore, units: SqlUnits) -> None:
    await keep(units, secrets, "openai", "sk-1")
    await keep(units, secrets, "shop.key", "k2")
    text = "Bearer secret:openai; key=secret:shop.key, plain"
    assert await secrets.fill(text) == "Bearer sk-1; key=k2, plain"
    assert await secrets.fill("nothing here") == "nothing here"
    with pytest.raises(NotConfigured, match="there is no secret other"):
        await secrets.fill("secret:other")

"""Settings that change while the service runs, their history, and stored secrets."""

import asyncio
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json
from tortoise import fields
from tortoise.models import Model

from limner.core.clock import Clock
from limner.core.errors import EngineUnavailable, Invalid, NotConfigured
from limner.core.ids import new_id
from limner.core.sealing import Sealer
from limner.core.tunables import Tunables
from limner.core.unit import Step, UnitOfWork
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.changes import Insert
from limner.storage.sql.connection import Connection
from limner.storage.sql.remembered import LIFE_S, Remembered

FRESH_S = LIFE_S
PATIENCE_S = 1.0
ALL = "tunables"
"""Stands for every row of the table, those that are not there yet included."""
SECRET_NAME = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")
REFERENCE = re.compile(r"secret:([A-Za-z0-9_.-]{1,64})")


class TunableRow(Model):
    """The value of one tunable, JSON, no row means the default."""

    name = fields.CharField(64, primary_key=True)
    value: object = fields.JSONField()
    updated_at = fields.DatetimeField()
    updated_by = fields.CharField(ID_LENGTH, default="")

    class Meta:
        table = "tunables"


class TunableChange(Model):
    """One change of one tunable, null means the default."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    name = fields.CharField(64, db_index=True)
    before: object = fields.JSONField(null=True)
    after: object = fields.JSONField(null=True)
    at = fields.DatetimeField()
    by = fields.CharField(ID_LENGTH, default="")

    class Meta:
        table = "tunable_changes"


class StoredSecret(Model):
    """A secret by name, encrypted, it is never read back through the API."""

    name = fields.CharField(64, primary_key=True)
    sealed = fields.BinaryField()
    updated_at = fields.DatetimeField()
    updated_by = fields.CharField(ID_LENGTH, default="")

    class Meta:
        table = "secrets"


class TunableStore:
    """Reads tunables, from memory for a while, and writes them with their history.

    What this process puts shows at once, if ``memory`` is its database's; what another puts,
    after ``FRESH_S`` seconds at the latest.
    """

    def __init__(self, clock: Clock, memory: Remembered[Tunables] | None = None) -> None:
        self._clock = clock
        # An empty memory is one too.
        self._memory = Remembered[Tunables](clock, FRESH_S) if memory is None else memory
        self._latest = Tunables()
        self._away_until_s = -math.inf

    async def current(self) -> Tunables:
        """Give all values, at most ``FRESH_S`` seconds old."""
        self._latest = await self._memory.get(ALL, _read)
        return self._latest

    @property
    def latest(self) -> Tunables:
        """What was read last, without asking the database; the defaults before the first read."""
        return self._latest

    async def recent(self) -> Tunables:
        """Give all values, or what was read last while the database is away or says nothing.

        An absent database is asked once in ``FRESH_S`` seconds, and nobody waits for it longer
        than ``PATIENCE_S``: a connection that has gone silent is given up much later.
        """
        if self._clock.monotonic() >= self._away_until_s:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await self.current()
            except (EngineUnavailable, TimeoutError):
                self._away_until_s = self._clock.monotonic() + FRESH_S
        return self._latest

    def forget(self) -> None:
        """Read anew at the next question."""
        self._memory.forget(ALL)

    async def describe(self) -> dict[str, dict[str, Any]]:
        """Give per name ``{value, default, source, updated_at, updated_by, description}``."""
        rows = {row.name: row for row in await TunableRow.all()}
        values = Tunables.model_validate(_known(list(rows.values())))
        defaults = Tunables().model_dump(mode="json")
        described = {}
        for name, value in values.model_dump(mode="json").items():
            row = rows.get(name)
            described[name] = {
                "value": value,
                "default": defaults[name],
                "source": "database" if row else "default",
                "updated_at": row.updated_at if row else None,
                "updated_by": row.updated_by if row else None,
                "description": Tunables.model_fields[name].description,
            }
        return described

    async def put(self, work: UnitOfWork, changes: Mapping[str, Any], by: str) -> Tunables:
        """Change the named values in ``work``; None sets the default again.

        Raises:
            Invalid: an unknown name or a value out of bounds; ``faults`` lists all.
        """
        rows = {row.name: row for row in await TunableRow.all()}
        stored = _known(list(rows.values()))
        wanted = {**stored, **changes}
        try:
            # An unknown name is a fault with null too.
            chosen = {
                name: value
                for name, value in wanted.items()
                if value is not None or name not in Tunables.model_fields
            }
            values = Tunables.model_validate_json(to_json(chosen), strict=True)
        except ValidationError as error:
            raise Invalid(
                "the settings are not valid",
                faults=[
                    ("/" + "/".join(str(part) for part in fault["loc"]), fault["msg"])
                    for fault in error.errors(include_url=False, include_input=False)
                ],
            ) from None
        plain = values.model_dump(mode="json")
        for name, value in changes.items():
            after = None if value is None else plain[name]
            before = stored.get(name)
            if after == before:
                continue
            work.step(_replace(name, after, work.now, by))
            work.forget(ALL)
            change = TunableChange(id=new_id("change"), name=name, at=work.now, by=by)
            change.before, change.after = _json(before), _json(after)
            work.add(change)
        return values


async def _read() -> tuple[Tunables, list[str]]:
    return Tunables.model_validate(_known(await TunableRow.all())), [ALL]


def _known(rows: list[TunableRow]) -> dict[str, Any]:
    """Give the stored values whose names this version knows; a newer one may have stored more."""
    return {row.name: row.value for row in rows if row.name in Tunables.model_fields}


def _json(value: Any) -> str | None:
    """Give the form that is stored: Tortoise takes every text for JSON that is written already."""
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _replace(name: str, value: Any, now: datetime, by: str) -> Step:
    async def write(connection: Connection) -> None:
        await connection.execute("DELETE FROM tunables WHERE name = ?", [name])
        if value is not None:
            row = TunableRow(name=name, updated_at=now, updated_by=by)
            row.value = _json(value)
            await Insert([row]).apply(connection)

    return write


class SecretStore:
    """Secrets by name, sealed under a key derived from the secret key."""

    def __init__(self, key: bytes) -> None:
        self._sealer = Sealer(key)

    async def put(self, work: UnitOfWork, name: str, value: str, by: str) -> None:
        """Store a secret in ``work``."""
        sealed = self._sealer.seal(name, value.encode())
        row = StoredSecret(name=name, sealed=sealed, updated_at=work.now, updated_by=by)

        async def write(connection: Connection) -> None:
            await connection.execute("DELETE FROM secrets WHERE name = ?", [name])
            await Insert([row]).apply(connection)

        work.step(write)

    async def get(self, name: str) -> str:
        """Give a secret's value.

        Raises:
            NotConfigured: there is none, or it was sealed under another secret key.
        """
        row = await StoredSecret.get_or_none(name=name)
        if row is None:
            raise NotConfigured(f"there is no secret {name}: PUT /api/settings/secrets/{name}")
        try:
            return self._sealer.open(name, row.sealed).decode()
        except NotConfigured:
            raise NotConfigured(
                f"the secret {name} was stored under another secret key; store it again"
            ) from None

    async def names(self) -> list[dict[str, Any]]:
        """Give ``{name, updated_at}`` of all secrets, by name."""
        rows = await StoredSecret.all().order_by("name")
        return [{"name": row.name, "updated_at": row.updated_at} for row in rows]

    async def fill(self, text: str) -> str:
        """Replace each ``secret:NAME`` in ``text`` by its value.

        Raises:
            NotConfigured: a secret is missing.
        """
        parts = REFERENCE.split(text)
        for place in range(1, len(parts), 2):
            parts[place] = await self.get(parts[place])
        return "".join(parts)

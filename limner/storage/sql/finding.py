"""Rows found by id: what many handlers look for at the same time is one query.

Every message begins with "read the row that it names". Built by the ORM each time, that was a
quarter of the event loop's work; here the query is written once per table, and those who ask in
one turn of the loop share it (the batching of GraphQL's DataLoader). Nothing is kept: a row is
read after it was asked for.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from tortoise import connections, fields
from tortoise.models import Model

IDS_PER_QUERY = 100

M = TypeVar("M", bound=Model)
Decode = Callable[[Any], Any]

_finders: "WeakKeyDictionary[Any, dict[type[Model], Finder]]" = WeakKeyDictionary()


class Finder:
    """Reads rows of one table by primary key over one connection."""

    def __init__(self, client: Any, model: type[Model]) -> None:
        self._client = client
        self._model = model
        self._wanted: dict[str, list[asyncio.Future[Any]]] = {}
        self._reading: set[asyncio.Task[None]] = set()

    async def find(self, ident: str) -> Any:
        """Give the row, or None.

        Raises:
            EngineUnavailable: the database does not answer.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self._wanted:
            self._start()
        self._wanted.setdefault(ident, []).append(answer)
        return await answer

    def _start(self) -> None:
        task = asyncio.create_task(self._read_all())
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read_all(self) -> None:
        # This task runs in the loop's next turn: everyone who asks until then is in.
        wanted, self._wanted = self._wanted, {}
        idents = list(wanted)
        for start in range(0, len(idents), IDS_PER_QUERY):
            part = idents[start : start + IDS_PER_QUERY]
            try:
                rows = await self._read(part)
            except BaseException as error:
                _tell([one for ident in part for one in wanted[ident]], error)
                if not isinstance(error, Exception):
                    _tell([one for ones in wanted.values() for one in ones], error)
                    raise
                continue
            for ident in part:
                _answer(wanted[ident], self._model, rows.get(ident))

    async def _read(self, idents: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        mark = "?" if self._client.capabilities.dialect == "sqlite" else "%s"
        found = await self._client.execute_query_dict(
            _statement(self._model, mark, len(idents)), list(idents)
        )
        key = self._model._meta.db_pk_column
        return {str(row[key]): row for row in found}


def _answer(
    asked: Sequence[asyncio.Future[Any]], model: type[Model], row: Mapping[str, Any] | None
) -> None:
    """Give each who asked an object of its own: handlers may change theirs."""
    for one in asked:
        if not one.done():
            one.set_result(None if row is None else made(model, row))


def _tell(asked: Sequence[asyncio.Future[Any]], error: BaseException) -> None:
    for one in asked:
        if one.done():
            continue
        if isinstance(error, Exception):
            one.set_exception(error)
        else:
            one.cancel()


def column_names(model: type[Model]) -> str:
    """Give the columns that ``made`` needs, for a SELECT."""
    return ", ".join(f"`{column}`" for column in model._meta.fields_db_projection.values())


@lru_cache(maxsize=1024)
def _statement(model: type[Model], mark: str, count: int) -> str:
    meta = model._meta
    where = f"`{meta.db_pk_column}` IN ({', '.join([mark] * count)})"
    return f"SELECT {column_names(model)} FROM `{meta.db_table}` WHERE {where}"  # noqa: S608


def _moment(value: Any) -> datetime | None:
    """Read a time of either engine: text of SQLite, a plain datetime in UTC of a server."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value is None:
        return None
    moment: datetime = value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _document(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str | bytes) else value


@lru_cache(maxsize=64)
def _columns(model: type[Model]) -> tuple[tuple[str, str, Decode | None], ...]:
    """Give for each column its name, the attribute, and how its value is read."""
    meta = model._meta
    read: dict[str, Decode | None] = {}
    for name in meta.fields_db_projection:
        field = meta.fields_map[name]
        if isinstance(field, fields.DatetimeField):
            read[name] = _moment
        elif isinstance(field, fields.JSONField):
            read[name] = _document
        elif isinstance(field, fields.CharField | fields.IntField | fields.BigIntField):
            read[name] = None
        else:
            read[name] = field.to_python_value
    return tuple((meta.fields_db_projection[name], name, read[name]) for name in read)


def made(model: type[M], row: Mapping[str, Any]) -> M:
    """Make the object of a row, as the ORM would have read it."""
    instance = model.__new__(model)
    state = instance.__dict__
    state["_partial"] = False
    state["_saved_in_db"] = True
    state["_custom_generated_pk"] = False
    state["_await_when_save"] = {}
    for column, name, decode in _columns(model):
        value = row[column]
        state[name] = value if decode is None else decode(value)
    return instance


async def found(model: type[M], ident: str) -> M | None:
    """Read one row by its id from the readers.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    client = connections.get("default")
    finders = _finders.setdefault(client, {})
    finder = finders.get(model)
    if finder is None:
        finder = finders[model] = Finder(client, model)
    answer: M | None = await finder.find(ident)
    return answer

"""Who may still be here: accounts, keys and sessions that live, found by their ids alone.

Streams ask this for everybody every few seconds, so that no rows are made objects for it.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from limner.storage.sql.connection import Connection, marks
from limner.storage.sql.reading import IDS_PER_QUERY

# Each table's own rule; as ``key_lives`` and ``session_lives`` say it of rows.
ACCOUNTS = "SELECT id, role FROM users WHERE state = 'active' AND id IN ({})"
KEYS = (
    "SELECT id FROM api_keys WHERE revoked_at IS NULL "
    "AND (expires_at IS NULL OR expires_at > ?) AND id IN ({})"
)
SESSIONS = (
    "SELECT id FROM sessions WHERE revoked_at IS NULL "
    "AND expires_at > ? AND idle_until > ? AND id IN ({})"
)


async def active_roles(connection: Connection, idents: Collection[str]) -> dict[str, str]:
    """Give the role of each of some accounts that is active.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    rows = await _rows(connection, ACCOUNTS, idents, [])
    return {row["id"]: row["role"] for row in rows}


async def living_keys(connection: Connection, idents: Collection[str], now: datetime) -> set[str]:
    """Give those of some API keys that are neither revoked nor expired.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    return {row["id"] for row in await _rows(connection, KEYS, idents, [now])}


async def living_sessions(
    connection: Connection, idents: Collection[str], now: datetime
) -> set[str]:
    """Give those of some sessions that have neither been revoked nor ended.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    return {row["id"] for row in await _rows(connection, SESSIONS, idents, [now, now])}


async def _rows(
    connection: Connection, rule: str, idents: Collection[str], times: list[datetime]
) -> list[dict[str, Any]]:
    wanted, found = sorted(idents), list[dict[str, Any]]()
    for start in range(0, len(wanted), IDS_PER_QUERY):
        part = wanted[start : start + IDS_PER_QUERY]
        query = rule.format(marks(part))
        found += await connection.query(query, [*times, *part])
    return found

"""The keys of access tokens as this process knows them, read anew every few seconds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc.jwk import ECKey

from limner.core.errors import EngineUnavailable, NotConfigured
from limner.core.logs import get_logger
from limner.http.ports import Front
from limner.storage.sql.remembered import Remembered
from limner.storage.sql.signing_keys import (
    ALL_KEYS,
    SigningKey,
    add_key,
    all_keys,
    is_published,
    open_private,
)

log = get_logger("http")

CONSUMER = "front"
TRIES = 3


@dataclass(frozen=True)
class Signing:
    """A key that signs, and its id."""

    kid: str
    key: ECKey


@dataclass(frozen=True)
class KeyRing:
    """The published keys: their documents, what verifies by key id, and what signs, if any does.

    ``newest`` is the end of the chain at the same moment: whoever finds that nothing signs may add
    its successor, and no successor of what another process has added since.
    """

    documents: tuple[Mapping[str, Any], ...]
    public: Mapping[str, ECKey]
    signing: Signing | None
    newest: SigningKey | None


def _memory(front: Front) -> Remembered[KeyRing]:
    return front.database.memory("signing_keys")


async def key_ring(front: Front) -> KeyRing:
    """Give the keys that are published now.

    Raises:
        EngineUnavailable: the database does not answer.
    """

    async def load() -> tuple[KeyRing, list[str]]:
        rows = await all_keys()
        return _ring(front, rows, front.clock.now()), [ALL_KEYS, *(row.id for row in rows)]

    return await _memory(front).get("ring", load)


def _ring(front: Front, rows: list[SigningKey], now: datetime) -> KeyRing:
    published = [row for row in rows if is_published(row, now)]
    public = {str(row.public["kid"]): row.public for row in published}
    return KeyRing(
        documents=tuple(public.values()),
        public={kid: ECKey.import_key(_members(document)) for kid, document in public.items()},
        signing=_signing(front, published, now),
        newest=rows[-1] if rows else None,
    )


def _members(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in ("kty", "crv", "x", "y")}


def _signing(front: Front, rows: list[SigningKey], now: datetime) -> Signing | None:
    """Give the youngest key that signs already; one that does not yet is better than none."""
    begun = sorted((row for row in rows if row.signs_from <= now), key=lambda row: row.signs_from)
    later = sorted((row for row in rows if row.signs_from > now), key=lambda row: row.signs_from)
    for row in [*reversed(begun), *later]:
        try:
            private = open_private(front.sealer, row)
        except NotConfigured:
            log.warning(
                "a signing key was stored under another secret key and signs no more", key=row.id
            )
            continue
        return Signing(str(row.public["kid"]), ECKey.import_key(json.loads(private)))
    return None


async def signing_key(front: Front) -> Signing:
    """Give the key that signs now; the first, and one after a lost secret key, is made here.

    Raises:
        EngineUnavailable: the database does not answer, or gives no key.
    """
    for _ in range(TRIES):
        ring = await key_ring(front)
        if ring.signing is not None:
            return ring.signing
        work = front.units.open(CONSUMER)
        key = add_key(work, front.sealer, ring.newest, ahead_s=0)
        # Of two processes that do this at once the second drops its unit and reads the first's.
        outcome = await front.units.commit(work)
        log.info("a signing key was needed", key=key.id, made=outcome.value)
        _memory(front).forget(ALL_KEYS)
    raise EngineUnavailable("there is no key to sign access tokens with")


async def verifying_key(front: Front, kid: str) -> ECKey | None:
    """Give the public half of a key, or None.

    While nothing signs here, another process may have made the first key a moment ago: then one
    that is not known is looked for in the database. Every later key is published long before it
    signs.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    ring = await key_ring(front)
    if kid not in ring.public and ring.signing is None:
        _memory(front).forget(ALL_KEYS)
        ring = await key_ring(front)
    return ring.public.get(kid)

"""The audit commands: checks the hash chain."""

from limner.storage.sql import chain
from limner.storage.sql.chain import Verdict
from limner.storage.sql.database import Database


async def verify(database: Database) -> Verdict:
    """Seal what is not sealed yet, then check every line."""
    while await chain.seal(database) == chain.BATCH:
        continue
    return await chain.verify()

"""The migrate command: tables up to date and the owner account made."""

from limner.core.unit import Units
from limner.storage.sql import accounts, schema
from limner.storage.sql.database import Database


async def migrate(database: Database, units: Units) -> list[str]:
    """Apply what is pending and make sure that there is an owner; gives the migrations that ran.

    Raises:
        EngineUnavailable: the database does not answer.
    """
    done = await schema.migrate(database) if await schema.pending(database) else []
    await accounts.ensure_owner(units)
    return done

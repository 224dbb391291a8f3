"""Accounts whose address nobody ever confirmed: deleted after a month, if nothing is theirs."""

from datetime import datetime, timedelta

from limner.actors.ports import Ports
from limner.actors.sweeper.messages import Erase
from limner.core.unit import Commit
from limner.storage.sql.accounts import ADMIN, User
from limner.storage.sql.users import delete_user

LIFE_DAYS = 30
PIECE = 100
UNUSED = (
    "SELECT id FROM users WHERE created_at < ? AND state = 'active' AND role <> ? "
    "AND email IS NOT NULL AND verified_at IS NULL AND last_sign_in_at IS NULL "
    "AND NOT EXISTS (SELECT 1 FROM api_keys WHERE api_keys.user_id = users.id) "
    "AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.user_id = users.id) "
    "AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.user_id = users.id) "
    "AND NOT EXISTS (SELECT 1 FROM sources WHERE sources.user_id = users.id) LIMIT ?"
)


async def delete_unconfirmed(ports: Ports, now: datetime) -> int:
    """Delete accounts that were never used, and give how many.

    Anybody can register anybody's address; without this the addresses and names would stay.
    """
    before, deleted = now - timedelta(days=LIFE_DAYS), 0
    while True:
        rows = await ports.database.read().query(UNUSED, [before, ADMIN, PIECE])
        done = sum([await _delete(ports, row["id"]) for row in rows])
        deleted += done
        if len(rows) < PIECE or not done:
            return deleted


async def _delete(ports: Ports, ident: str) -> bool:
    user = await User.get(id=ident)
    work = ports.units.open("sweeper")
    work.change(user, guard={"verified_at": None, "last_sign_in_at": None})
    await delete_user(work, user, Erase(user_id=ident), because="never_confirmed")
    return await ports.units.commit(work) is Commit.DONE

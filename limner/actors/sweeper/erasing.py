"""Erasing by command: what a deleted account leaves behind goes piece by piece."""

from limner.actors.ports import Ports
from limner.actors.sweeper.messages import Erase
from limner.core.logs import get_logger
from limner.core.unit import UnitOfWork
from limner.storage.sql.accounts import User
from limner.storage.sql.erasure import Eraser

log = get_logger("sweeper")

OBJECTS_PER_PIECE = 200
PAUSE_S = 5.0


class Erasing:
    """Erases a piece, and asks for the next one if there is more."""

    def __init__(self, ports: Ports, objects_per_piece: int = OBJECTS_PER_PIECE) -> None:
        self._eraser = Eraser(
            ports.units, ports.database, ports.objects, lambda ident: Erase(task_id=ident)
        )
        self._limit = objects_per_piece

    async def handle(self, message: Erase, work: UnitOfWork) -> None:
        """Erase; an account that is still there, or again, keeps what it has."""
        if message.task_id:
            await self._eraser.task(message.task_id)
        user = await User.get_or_none(id=message.user_id)
        if user is None or user.state != "deleted":
            return
        if await self._eraser.account(user.id, self._limit):
            work.audit("user.erased", subject=user.id)
            log.info("an account is erased", user_id=user.id)
        else:
            work.send(message, after_s=PAUSE_S)

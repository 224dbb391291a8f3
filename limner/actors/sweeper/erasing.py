"""Erasing by command: what a deleted account leaves behind goes piece by piece."""

from functools import partial

from limner.actors.intent.rules import names_address
from limner.actors.ports import Ports
from limner.actors.sweeper.messages import Erase, Forget
from limner.core.errors import Conflict
from limner.core.logs import get_logger
from limner.core.unit import UnitOfWork
from limner.storage.sql.accounts import User
from limner.storage.sql.address_erasure import AddressEraser
from limner.storage.sql.erasure import Eraser

log = get_logger("sweeper")

OBJECTS_PER_PIECE = 200
PAUSE_S = 5.0


def eraser_of(ports: Ports) -> Eraser:
    """Give what erases single objects, and comes back by command for what is still being made."""
    return Eraser(ports.units, ports.database, ports.objects, lambda ident: Erase(task_id=ident))


class Forgetting:
    """Erases what the deletion of an account leaves of its address."""

    def __init__(self, ports: Ports) -> None:
        self._eraser = eraser_of(ports)

    async def handle(self, message: Forget, work: UnitOfWork) -> None:
        """Erase; what a new account with the same address has made since stays."""
        forms = [message.address.lower()]
        names = partial(names_address, forms=forms)
        await AddressEraser(self._eraser, forms, names, message.until).forget_owner()


class Erasing:
    """Erases a piece, and asks for the next one if there is more."""

    def __init__(self, ports: Ports, objects_per_piece: int = OBJECTS_PER_PIECE) -> None:
        self._eraser = eraser_of(ports)
        self._limit = objects_per_piece

    async def handle(self, message: Erase, work: UnitOfWork) -> None:
        """Erase; an account that is still there, or again, keeps what it has."""
        try:
            is_done = await self._piece(message, work)
        except Conflict as error:
            # An object moved on each time it was tried: what is busy now is not so for ever.
            log.info("erasing goes on later", error=error.detail)
            is_done = False
        if not is_done:
            work.send(message, after_s=PAUSE_S)

    async def _piece(self, message: Erase, work: UnitOfWork) -> bool:
        """Erase a piece and give whether that was the last.

        Raises:
            Conflict: an object moved on each time it was tried.
        """
        if message.task_id:
            await self._eraser.task(message.task_id)
        user = await User.get_or_none(id=message.user_id)
        if user is None or user.state != "deleted":
            return True
        is_done = await self._eraser.account(user.id, self._limit)
        if is_done:
            work.audit("user.erased", subject=user.id)
            log.info("an account is erased", user_id=user.id)
        return is_done

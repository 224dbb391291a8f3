"""What others may send the sweeper: the scheduler what is due, the front what is to be erased."""

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import Field

from limner.core.message import Message


class Clean(Message):
    """Delete what has served its time: bookkeeping rows, orphaned and unfinished objects."""

    topic: ClassVar[str] = "sweeper.clean"


class Retain(Message):
    """Erase personal data that is older than the retention setting."""

    topic: ClassVar[str] = "sweeper.retain"


class Erase(Message):
    """Erase what a deleted account made, or what one task says and made."""

    topic: ClassVar[str] = "sweeper.erase"

    user_id: str = ""
    task_id: str = ""


class Forget(Message):
    """Erase what an account's deletion leaves of its address: what was made ``until`` then."""

    topic: ClassVar[str] = "sweeper.forget"

    address: Annotated[str, Field(max_length=320)]
    until: datetime


def after_deletion(user_id: str, address: str | None, now: datetime) -> tuple[Message, ...]:
    """Give what is to be sent when an account is deleted.

    ``address`` is the account's if it was confirmed: who only claimed it decides nothing about it.
    """
    rest: tuple[Message, ...] = (Erase(user_id=user_id),)
    return (*rest, Forget(address=address, until=now)) if address else rest


class RotateKeys(Message):
    """Make the next key that signs access tokens."""

    topic: ClassVar[str] = "sweeper.rotate_keys"

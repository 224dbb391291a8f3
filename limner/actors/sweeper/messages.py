"""What others may send the sweeper: the scheduler what is due, the front what is to be erased."""

from typing import ClassVar

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


class RotateKeys(Message):
    """Make the next key that signs access tokens."""

    topic: ClassVar[str] = "sweeper.rotate_keys"

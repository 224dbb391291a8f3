"""What others may send the sweeper; its schedules do."""

from typing import ClassVar

from limner.core.message import Message


class Clean(Message):
    """Delete what has served its time: bookkeeping rows, orphaned and unfinished objects."""

    topic: ClassVar[str] = "sweeper.clean"


class Retain(Message):
    """Erase personal data that is older than the retention setting."""

    topic: ClassVar[str] = "sweeper.retain"

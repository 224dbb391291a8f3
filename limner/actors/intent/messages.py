"""What others may send the intent actor."""

from typing import ClassVar

from limner.core.message import Message


class Read(Message):
    """Find out what a comment asks for; a task of it that is pending again is taken on."""

    topic: ClassVar[str] = "intent.read"

    comment_id: str

"""What others may send the poller."""

from typing import ClassVar

from limner.core.message import Message


class Poll(Message):
    """Fetch one page of a source's comments.

    ``poll_id`` is empty to begin a poll; the poller itself sends the pages after the first.
    """

    topic: ClassVar[str] = "poller.poll"

    source_id: str
    poll_id: str = ""
    page: int = 1

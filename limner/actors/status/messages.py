"""What others may send the status actor."""

from typing import ClassVar

from limner.core.message import Message


class Check(Message):
    """Ask the provider how far a task is.

    ``n`` counts the checks of one round from 1; 0 is a look between them, after the provider or
    the generator has called.
    """

    topic: ClassVar[str] = "status.check"

    task_id: str
    round: int = 1
    n: int = 1

"""What others may send the submitter."""

from typing import ClassVar

from limner.core.message import Message


class Submit(Message):
    """Hand an extracted task to its provider."""

    topic: ClassVar[str] = "submitter.submit"

    task_id: str


class Reconcile(Message):
    """Find out whether the provider knows a task whose submission had no answer."""

    topic: ClassVar[str] = "submitter.reconcile"

    task_id: str

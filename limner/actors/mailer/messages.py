"""What others may send the mailer."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from limner.core.message import Message


class Deliver(Message):
    """Send the mail of a delivery."""

    topic: ClassVar[str] = "mailer.deliver"

    delivery_id: str


class Reconcile(Message):
    """Find out whether a mail whose sending had no answer was accepted."""

    topic: ClassVar[str] = "mailer.reconcile"

    delivery_id: str


class Send(Message):
    """Send a mail: the public command, with everything in it.

    Either ``template`` with ``variables``, or ``subject`` with ``text`` and, if wanted, ``html``.
    """

    topic: ClassVar[str] = "mailer.send"
    public: ClassVar[bool] = True

    to: Annotated[str, Field(min_length=3, max_length=320)]
    template: Annotated[str, Field(max_length=64)] = ""
    variables: dict[str, Any] = Field(default_factory=dict)
    subject: Annotated[str, Field(max_length=500)] = ""
    text: Annotated[str, Field(max_length=500_000)] = ""
    html: Annotated[str, Field(max_length=500_000)] = ""
    language: Annotated[str, Field(max_length=8)] = "en"

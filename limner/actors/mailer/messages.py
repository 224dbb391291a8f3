"""What others may send the mailer."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from limner.core.message import Message

Notice = Literal[
    "already-registered",
    "password-changed",
    "email-change-asked",
    "email-changed",
    "second-factor-changed",
]
"""What an account's owner is told by mail."""

Wanted = Literal["verify-email", "reset-password"]
"""The links that anybody may have sent to the address of an account."""


class Deliver(Message):
    """Send the mail of a delivery."""

    topic: ClassVar[str] = "mailer.deliver"

    delivery_id: str


class Reconcile(Message):
    """Find out whether a mail whose sending had no answer was accepted."""

    topic: ClassVar[str] = "mailer.reconcile"

    delivery_id: str


class AccountMail(Message):
    """Write to an account's owner: a notice, or the letter that carries a link.

    A notice has a ``kind`` and goes to the account's address, or to ``address`` where that is
    another one. A letter has the ``link_id`` of its link's row, which says what for and where to.
    """

    topic: ClassVar[str] = "mailer.account"

    user_id: str
    kind: Notice | None = None
    link_id: str = ""
    address: Annotated[str, Field(max_length=320)] = ""


class LinkWanted(Message):
    """Send a link to the account of an address, and nothing if it has none.

    The front asks without looking: whether there is an account shows neither in its answer nor in
    the time that takes.
    """

    topic: ClassVar[str] = "mailer.link"

    purpose: Wanted
    address: Annotated[str, Field(max_length=320)]


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

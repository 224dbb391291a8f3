"""PORT: a place where comments come from, read page by page.

A connector is one file with one class, and one line in ``connectors.CONNECTORS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError
from pydantic_core import ErrorDetails

from limner.core.errors import Invalid
from limner.core.outgoing import Outgoing

CURSOR_LENGTH = 2000
MAX_ITEMS = 5_000
"""Comments in one page, replies to comments included."""

CURSOR_REFUSED = "cursor_refused"
"""The code of an error that says: this cursor leads nowhere (any more); begin anew."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A comment as the feed has it; ``external_id`` is the same at every reading."""

    external_id: str
    author: str
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some comments of a feed, in its order, and where the next ones are."""

    comments: tuple[Fetched, ...] = ()
    next_cursor: str = ""
    has_more: bool = False


class Options(BaseModel):
    """The options all connectors take.

    ``resume``: every poll goes on from where the last one ended (feeds that only grow at the end).
    ``provider``: who makes what this source's comments ask for; empty: the setting decides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resume: StrictBool = False
    provider: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$")] = ""

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Self:
        """Check options as they came from outside, or from the database.

        Raises:
            Invalid: with all ``faults``, as JSON Pointers (RFC 6901) into ``{connector, options}``.
        """
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            faults = [_fault(each) for each in error.errors(include_url=False)]
        raise Invalid(
            "; ".join(f"{pointer}: {sentence}" for pointer, sentence in faults[:3]),
            code="options_invalid",
            faults=faults,
        )


def _fault(details: ErrorDetails) -> tuple[str, str]:
    """Give pointer and sentence of what pydantic found."""
    names = [str(part) for part in details["loc"] if part != "[key]"]
    steps = "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)
    own = details.get("ctx", {}).get("error")
    return f"/options{steps}", str(own) if isinstance(own, ValueError) else details["msg"]


class Secrets(Protocol):
    """Puts stored secrets in their places."""

    async def fill(self, text: str) -> str:
        """Replace each ``secret:NAME`` in ``text`` by its value.

        Raises:
            NotConfigured: a secret is missing.
        """
        ...


class Connector(Protocol):
    """Reads one kind of feed; ``model`` is the class of the options it takes.

    Reading changes nothing over there: the same page may be fetched again at any time.
    """

    model: ClassVar[type[Options]]

    def __init__(self, outgoing: Outgoing, secrets: Secrets) -> None: ...

    async def fetch(self, options: Mapping[str, Any], external_id: str, cursor: str) -> Page:
        """Give the page at ``cursor``; the empty cursor is the beginning.

        ``external_id`` is what the source names the feed by. Comments may repeat within a page and
        between pages.

        Raises:
            Transient: the feed does not answer, or asked us to wait.
            Refused: it said no; code ``cursor_refused`` if it may be the cursor's fault.
            Invalid: what it said, or one of the options, cannot be understood.
            NotConfigured: a secret is missing.
            TooLarge: the page is over a limit.
        """
        ...


@runtime_checkable
class Replies(Protocol):
    """A connector that can also answer a comment where it was written; none has to."""

    async def reply(
        self,
        options: Mapping[str, Any],
        external_id: str,
        comment_id: str,
        text: str,
        *,
        idempotency_key: str,
    ) -> str:
        """Write ``text`` below the comment ``comment_id`` and give the reply's id over there.

        Raises:
            Transient: nothing was written.
            Refused: it never will be.
            Ambiguous: it may have been written.
        """
        ...

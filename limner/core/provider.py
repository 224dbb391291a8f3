"""PORT: a provider, somebody else's service that makes a picture or a video and charges for it.

The adapter is ``limner/core/providers/http.py``. The port lies in the kernel because two actors
need it, the submitter and the status actor, and actors know nothing of each other but messages.
What a provider is told cannot be taken back, so that every call says in its errors whether
anything can have happened over there.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

State = Literal["pending", "running", "succeeded", "failed"]

ENDED: frozenset[State] = frozenset({"succeeded", "failed"})


@dataclass(frozen=True, slots=True)
class Order:
    """What shall be made; sizes in pixels.

    ``id`` is ours, made and stored before the provider hears of it. The names of the fields are
    those that a mapping's request may point to.
    """

    id: str
    prompt: str
    kind: str = "image"
    negative_prompt: str = ""
    width: int = 256
    height: int = 256
    seed: int = 0
    count: int = 1
    callback_url: str = ""

    def values(self) -> dict[str, Any]:
        """Give the fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Submitted:
    """The provider has taken the order; ``state`` is None where its answer says nothing of it."""

    job_id: str
    state: State | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    ``result_url`` is there when it ``succeeded`` and the provider named one; ``retry_after_s`` is
    how long it asked us to wait, if it did.
    """

    state: State
    result_url: str = ""
    error: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Whether the order arrived cannot be found out this way; ``reason`` says why."""

    reason: str


class Provider(Protocol):
    """Takes orders and tells how far they are."""

    @property
    def name(self) -> str:
        """The name it is known by, as in settings and metrics."""
        ...

    @property
    def idempotent(self) -> bool:
        """Whether an order that is submitted again under its id is not made a second time."""
        ...

    async def submit(self, order: Order) -> Submitted:
        """Hand over an order, with its id as the idempotency key.

        Raises:
            Transient: it certainly did not take the order (not reached, or too busy).
            Permanent: it refuses the order, or must not be called; with its reason.
            Ambiguous: it may have taken it; the order must not simply be submitted again.
        """
        ...

    async def status(self, job_id: str) -> Progress:
        """Ask how far a job is; asking twice is harmless.

        Raises:
            Transient: no answer that says so; ask later.
            Permanent: it must not be called, or its answer is over all limits.
        """
        ...

    async def lookup(self, client_id: str) -> Submitted | Unknown | None:
        """Find the job of one of our ids; None if the order certainly never arrived.

        Raises:
            Transient: no answer that says so; ask later.
            Permanent: as ``status``.
        """
        ...

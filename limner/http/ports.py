"""What the web front is given and what it asks of the rest: Protocols that app.py fills."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from limner.core.broker import Broker
from limner.core.cache import Cache
from limner.core.clock import Clock
from limner.core.health import Check
from limner.core.metrics import Metrics
from limner.core.objects import ObjectStore
from limner.core.outgoing import Outgoing
from limner.core.sealing import Sealer
from limner.core.settings import Settings
from limner.core.signing import SignedAccess, Signer
from limner.core.supervisor import LoopStatus
from limner.core.unit import Units
from limner.storage.sql.database import Database
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.tunables import SecretStore, TunableStore


class IntentTester(Protocol):
    """Reads a text as the intent actor would, without making a task."""

    async def test(self, text: str) -> Mapping[str, Any]:
        """Give ``{verdict, keyword, addresses, prompt, kind, language, confidence, …}``."""
        ...


class ProviderTester(Protocol):
    """Tries a provider's mapping."""

    async def test(self, config: Mapping[str, Any], prompt: str, kind: str) -> Mapping[str, Any]:
        """Submit a trial and give ``{request, status, answer, extracted, problems}``.

        Raises:
            Transient: the provider does not answer.
            Permanent: it refuses.
        """
        ...

    def validate(self, config: Mapping[str, Any]) -> None:
        """Check a provider's configuration.

        Raises:
            Invalid: with ``faults`` as JSON Pointers into the configuration.
        """
        ...


class SourceValidator(Protocol):
    """Checks a source's options before they are stored."""

    def __call__(self, connector: str, options: Mapping[str, Any]) -> None:
        """Return if the connector takes the options.

        Raises:
            Invalid: with ``faults`` as JSON Pointers into ``{connector, options}``.
        """
        ...


class PortraitMaker(Protocol):
    """Makes small pictures of people out of whatever they send."""

    async def make(self, picture: bytes) -> bytes:
        """Give the middle of a picture as a PNG of 256 x 256 pixels without any metadata.

        Raises:
            Invalid: it is no PNG, JPEG or WebP, or one that takes too much to be read.
            Transient: it cannot be made now.
            NotConfigured: this system cannot make any.
        """
        ...


@dataclass(frozen=True)
class Front:
    """Everything the routes may need.

    ``ready`` says whether requests shall be sent here; ``signed_objects`` is None where the store
    serves its own links; ``spare_cache`` is of this process alone, for while ``cache`` is away.
    """

    settings: Settings
    clock: Clock
    database: Database
    units: Units
    outbox: Outbox
    broker: Broker
    objects: ObjectStore
    signed_objects: SignedAccess | None
    cache: Cache
    spare_cache: Cache
    signer: Signer
    sealer: Sealer
    outgoing: Outgoing
    tunables: TunableStore
    secrets: SecretStore
    metrics: Metrics
    intent: IntentTester
    providers: ProviderTester
    validate_source: SourceValidator
    portraits: PortraitMaker
    ready: Callable[[], bool]
    stopping: Callable[[], bool]
    checks: Callable[[], Awaitable[list[Check]]]
    loops: Callable[[], Mapping[str, LoopStatus]]
    actors: tuple[str, ...]

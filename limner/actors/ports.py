"""What ``build(ports)`` of an actor is given: the open adapters of this process."""

from dataclasses import dataclass

from limner.core.broker import Broker
from limner.core.cache import Cache
from limner.core.clock import Clock
from limner.core.llm import ChatModel
from limner.core.metrics import Metrics
from limner.core.objects import ObjectStore
from limner.core.outgoing import Outgoing
from limner.core.sealing import Sealer
from limner.core.settings import Settings
from limner.core.signing import Signer
from limner.core.unit import Units
from limner.storage.sql.database import Database
from limner.storage.sql.leases import Leases
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.tunables import SecretStore, TunableStore


@dataclass(frozen=True)
class Ports:
    """Everything an actor may need; it takes what it needs and no more."""

    settings: Settings
    clock: Clock
    database: Database
    units: Units
    outbox: Outbox
    leases: Leases
    broker: Broker
    objects: ObjectStore
    cache: Cache
    outgoing: Outgoing
    llm: ChatModel
    signer: Signer
    sealer: Sealer
    tunables: TunableStore
    secrets: SecretStore
    metrics: Metrics
    worker_id: str

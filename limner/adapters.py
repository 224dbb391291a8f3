"""The choice of adapters: a URL's scheme says which engine stands behind a port.

What belongs to an engine is imported only where it is chosen, so that nobody needs a driver for an
engine they do not use.
"""

from limner.core.broker import Broker
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.cache import Cache
from limner.core.clock import Clock
from limner.core.errors import NotConfigured
from limner.core.objects import ObjectStore
from limner.core.settings import Settings
from limner.core.signing import SignedAccess, Signer


def broker(settings: Settings, clock: Clock) -> Broker:
    """Give the broker.

    Raises:
        NotConfigured: no adapter fits its URL.
    """
    if settings.broker_url.startswith("embedded:"):
        return EmbeddedBroker(clock)
    if settings.broker_url.startswith(("amqp:", "amqps:")):
        from limner.core.brokers.rabbit import RabbitBroker

        return RabbitBroker(settings.broker_url, clock)
    raise _unknown("LIMNER_BROKER_URL", settings.broker_url, "embedded:, amqp://…, amqps://…")


def cache(settings: Settings, clock: Clock) -> Cache:
    """Give the cache.

    Raises:
        NotConfigured: no adapter fits its URL.
    """
    if settings.cache_url.startswith("memory:"):
        from limner.storage.cache.memory import MemoryCache

        return MemoryCache(clock)
    if settings.cache_url.startswith(("redis:", "rediss:")):
        from limner.storage.cache.redis import RedisCache

        return RedisCache(settings.cache_url)
    raise _unknown("LIMNER_CACHE_URL", settings.cache_url, "memory:, redis://…, rediss://…")


def objects(
    settings: Settings, signer: Signer, clock: Clock
) -> tuple[ObjectStore, SignedAccess | None]:
    """Give the object store, and what serves its links if it does not do so itself.

    Raises:
        NotConfigured: no adapter fits its URL.
    """
    if settings.objects.startswith("file:"):
        from limner.storage.objects.local import local_objects

        store = local_objects(settings.objects, signer, settings.base_url, clock)
        return store, store
    if settings.objects.startswith("s3:"):
        from limner.storage.objects.s3 import s3_objects

        access, secret = settings.objects_access_key, settings.objects_secret_key
        return s3_objects(
            settings.objects, access.get_secret_value(), secret.get_secret_value()
        ), None
    raise _unknown("LIMNER_OBJECTS_URL", settings.objects, "file://FOLDER, s3://BUCKET?…")


def _unknown(name: str, url: str, known: str) -> NotConfigured:
    scheme = url.partition(":")[0]
    return NotConfigured(f"{name}: {scheme}: has no adapter; known: {known}", code="settings")

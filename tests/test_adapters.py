"""The choice of adapters by the scheme of a URL."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limner import adapters
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.brokers.rabbit import RabbitBroker
from limner.core.clock import HeldClock
from limner.core.errors import NotConfigured
from limner.core.settings import Settings
from limner.core.signing import Signer
from limner.storage.cache.memory import MemoryCache
from limner.storage.cache.redis import RedisCache
from limner.storage.objects.local import LocalObjects
from limner.storage.objects.s3 import S3Objects

Choose = Callable[[Settings, HeldClock], Any]

SIGNER = Signer([b"a secret of at least thirty-two bytes"])

CHOICES: list[tuple[str, str, Choose, type]] = [
    ("broker_url", "embedded:", adapters.broker, EmbeddedBroker),
    ("broker_url", "amqp://user:pw@127.0.0.1:5672/x", adapters.broker, RabbitBroker),
    ("cache_url", "memory:", adapters.cache, MemoryCache),
    ("cache_url", "redis://127.0.0.1:6379/0", adapters.cache, RedisCache),
    ("cache_url", "rediss://127.0.0.1:6379/0", adapters.cache, RedisCache),
]


@pytest.mark.parametrize(("name", "url", "choose", "kind"), CHOICES)
async def test_a_scheme_has_its_adapter(
    tmp_path: Path,
    clock: HeldClock,
    name: str,
    url: str,
    choose: Choose,
    kind: type,
) -> None:
    settings = Settings(home=tmp_path).model_copy(update={name: url})
    chosen = choose(settings, clock)
    await chosen.aclose()
    assert type(chosen) is kind


async def test_only_a_store_of_files_has_its_links_served_here(
    tmp_path: Path, clock: HeldClock
) -> None:
    store, links = adapters.objects(Settings(home=tmp_path), SIGNER, clock)
    assert isinstance(store, LocalObjects)
    assert links is store
    remote = Settings(
        home=tmp_path,
        objects_url="s3://bucket?endpoint=http://127.0.0.1:9&region=x",
        objects_access_key="a",
        objects_secret_key="b",
    )
    store, links = adapters.objects(remote, SIGNER, clock)
    assert isinstance(store, S3Objects)
    assert links is None
    await store.aclose()


@pytest.mark.parametrize(
    ("name", "choose"),
    [
        ("broker_url", adapters.broker),
        ("cache_url", adapters.cache),
        ("objects_url", lambda settings, clock: adapters.objects(settings, SIGNER, clock)),
    ],
)
def test_a_scheme_without_an_adapter_is_refused_with_those_that_have_one(
    tmp_path: Path, clock: HeldClock, name: str, choose: Choose
) -> None:
    # As a setting it would be refused earlier: the choice does not rely on that.
    settings = Settings(home=tmp_path).model_copy(update={name: "gopher://user:pw@host"})
    with pytest.raises(NotConfigured) as caught:
        choose(settings, clock)
    assert f"LIMNER_{name.upper()}: gopher: has no adapter" in caught.value.detail
    assert "pw" not in caught.value.detail

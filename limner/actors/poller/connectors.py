"""Which connectors there are; a new one is its file and its line here."""

from collections.abc import Mapping

from limner.actors.poller.connector import Connector
from limner.actors.poller.http import Http
from limner.actors.poller.sample import Demo
from limner.actors.poller.xiaohongshu import Xiaohongshu

CONNECTORS: Mapping[str, type[Connector]] = {
    "demo": Demo,
    "http": Http,
    "xiaohongshu": Xiaohongshu,
}

"""The loss of an engine under a cluster, both ways: its port is closed, or it swallows everything.

While it is away every report says so, soon, and nobody dies of it; when it is back the work that
waited goes on by itself, and nothing is lost or doubled.
"""

import re
import time
from pathlib import Path

from tests.fakes.feed import Said
from tests.fakes.proxy import Proxy
from tests.journeys.cluster import NAMES, THREE, Member, shared_engines
from tests.journeys.invariants import Allowed
from tests.journeys.process import Answer, until
from tests.journeys.server_books import ABOUT_LOST_ENGINES, Travel, crowd, travel

REFUSES, SILENT = "refuses", "is silent"
COMMENTS = 24
SHARE = 8
"""Comments that are there before the first outage, and that come in during each."""
FIRST_POLL_LIMIT_S = 45.0
ANSWER_LIMIT_S = 12.0
"""Two seconds for the key, two for the rate limit, three for the look, and a busy machine."""
SEEN_LIMIT_S = 20.0
BACK_LIMIT_S = 20.0
SETTLE_LIMIT_S = 90.0
HANDS = 4
LOOK_S = 0.2


async def asked(front: Member, path: str) -> Answer:
    """GET a report.

    Raises:
        AssertionError: it does not come soon.
    """
    began = time.monotonic()
    answer = await front.ask("GET", path)
    taken_s = time.monotonic() - began
    assert taken_s < ANSWER_LIMIT_S, f"{path} took {taken_s:.1f} s"
    return answer


async def shown(front: Member, name: str, path: str = "/healthz") -> str:
    """Give how a report calls an engine."""
    answer = await asked(front, path)
    assert answer.document.get("checks"), f"{path} is no report: {answer.text}"
    (look,) = answer.document["checks"][name]
    assert look["status"] == "pass" or answer.status == 503, answer.text
    return str(look["status"])


async def measured(front: Member) -> dict[str, float]:
    """Give the gauge of each engine."""
    answer = await asked(front, "/metrics")
    assert answer.status == 200, answer.text
    found = re.findall(r'^limner_engine_up{engine="(\w+)"} (\S+)$', answer.text, re.MULTILINE)
    return {name: float(value) for name, value in found}


async def _take_away(proxy: Proxy, how: str) -> None:
    if how == REFUSES:
        await proxy.refuse()
    else:
        proxy.black_hole()


async def _told(front: Member, name: str, how: str, *, up: bool) -> None:
    """Wait until report and gauge say how the engine is; the others' gauges must not move."""
    what = f"that {name} {'is back' if up else how}"
    status, limit_s = ("pass", BACK_LIMIT_S) if up else ("fail", SEEN_LIMIT_S)

    async def reported() -> bool:
        return await shown(front, name) == status

    async def counted() -> bool:
        gauges = await measured(front)
        assert [one for one in NAMES if one != name and gauges.get(one) != 1.0] == []
        return gauges[name] == float(up)

    await until(reported, limit_s, f"a report {what}", LOOK_S)
    await until(counted, limit_s, f"a gauge {what}", LOOK_S)


async def _lose(travelling: Travel, name: str, how: str, coming: list[Said]) -> None:
    """Take the engine away while comments come in, and give it back when everybody has told."""
    cluster, feed = travelling.cluster, travelling.journey.world.feed
    front, proxy = cluster.front, cluster.engines.proxies[name]
    await _take_away(proxy, how)
    feed.comments = [*coming, *feed.comments]
    await _told(front, name, how, up=False)
    assert await shown(front, name, "/readyz?verbose") == "fail"
    assert await front.probe("/livez") == 200
    if name == "database":
        assert await front.probe("/readyz") == 503
    assert all(member.code is None for member in cluster.members), "nobody dies of it"
    await proxy.heal()
    await _told(front, name, how, up=True)


async def hold_through_losses(name: str, folder: Path) -> None:
    """Lose one engine, first so that it refuses, then so that it is silent; check everything."""
    async with (
        shared_engines(proxied=True) as engines,
        travel(engines, THREE, folder, crowd(COMMENTS, videos=0), scheduled=True) as travelling,
    ):
        cluster, feed = travelling.cluster, travelling.journey.world.feed
        said = feed.comments
        feed.comments = said[:SHARE]
        await cluster.start()
        await travelling.prepare()
        await until(lambda: feed.asked, FIRST_POLL_LIMIT_S, "the first poll")
        await _lose(travelling, name, REFUSES, said[SHARE : 2 * SHARE])
        await _lose(travelling, name, SILENT, said[2 * SHARE :])
        await travelling.settled(SETTLE_LIMIT_S)
        assert all(member.starts == 1 for member in cluster.members)
        # A mail whose commit was cut off may be unknown; it is seen, and never sent twice.
        unknown = 2 * HANDS if name == "database" else 0
        await travelling.hold(Allowed(unknown=unknown, logged=ABOUT_LOST_ENGINES))

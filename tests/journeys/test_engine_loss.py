"""An engine goes away and comes back: work waits, everybody can see why, and then it goes on."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.engines import prepare
from tests.fakes.proxy import Proxy
from tests.journeys.cluster import ALL_ENGINES, NAMES, THREE, Member, shared_engines
from tests.journeys.invariants import Allowed
from tests.journeys.process import until
from tests.journeys.server_books import ABOUT_LOST_ENGINES, crowd, travel

pytestmark = [pytest.mark.journey, pytest.mark.real, pytest.mark.timeout(180)]

COMMENTS = 24
SEEN_LIMIT_S = 45.0
BACK_LIMIT_S = 15.0
SETTLE_LIMIT_S = 90.0
AWAY_S = 3.0
HANDS = 4
GAPS = {
    ("cache", "refuses"): "a request on a line that has just broken ends with 500",
    ("objects", "is silent"): "the check of the objects takes longer than a request may",
}
"""What the service is known not to do yet, each with the reason."""


@pytest.fixture(autouse=True)
def _engines(request: pytest.FixtureRequest) -> None:
    prepare(ALL_ENGINES, request)


async def _shown(front: Member, name: str, path: str = "/healthz") -> str:
    """Give how a report calls an engine; empty if there is no report.

    Without the database no key can be known, and the answer says only that an engine is away.
    """
    try:
        answer = await front.ask("GET", path)
    except TimeoutError:
        return ""
    if name == "database" and answer.document.get("code") == "engine_unavailable":
        return "fail"
    if "checks" not in answer.document:
        return ""
    status = str(answer.document["checks"][name][0]["status"])
    assert status == "pass" or answer.status == 503, answer.text
    return status


async def _measured(front: Member, name: str) -> float | None:
    answer = await front.ask("GET", "/metrics")
    found = re.search(rf'^limner_engine_up{{engine="{name}"}} (\S+)$', answer.text, re.MULTILINE)
    return float(found[1]) if found else None


async def _take_away(proxy: Proxy, how: str) -> None:
    if how == "refuses":
        await proxy.refuse()
    else:
        proxy.black_hole()


def _losses() -> list[Any]:
    """Give each engine with each way to be away; known gaps are marked."""
    return [
        pytest.param(
            name,
            how,
            id=f"{name} {how}",
            marks=[pytest.mark.xfail(reason=GAPS[name, how], strict=True)]
            if (name, how) in GAPS
            else [],
        )
        for name in NAMES
        for how in ("refuses", "is silent")
    ]


@pytest.mark.parametrize(("name", "how"), _losses())
async def test_a_lost_engine_is_shown_and_work_waits_and_goes_on_by_itself_when_it_is_back(
    name: str, how: str, tmp_path: Path
) -> None:
    async with (
        shared_engines(proxied=True) as engines,
        travel(engines, THREE, tmp_path, crowd(COMMENTS, videos=0), scheduled=True) as travelling,
    ):
        cluster, feed = travelling.cluster, travelling.journey.world.feed
        coming, feed.comments = feed.comments[8:], feed.comments[:8]
        await cluster.start()
        await travelling.prepare()
        await until(lambda: feed.asked, SEEN_LIMIT_S, "the first poll")
        proxy, front = engines.proxies[name], cluster.front
        await _take_away(proxy, how)
        feed.comments = [*coming, *feed.comments]

        async def seen(status: str) -> bool:
            return await _shown(front, name) == status

        await until(lambda: seen("fail"), SEEN_LIMIT_S, f"a report that {name} is away", 0.2)
        assert await _shown(front, name, "/readyz?verbose") == "fail"
        assert await front.probe("/livez") == 200
        await asyncio.sleep(AWAY_S)
        assert all(member.code is None for member in cluster.members), "nobody dies of it"

        await proxy.heal()
        await until(lambda: seen("pass"), BACK_LIMIT_S, f"a report that {name} is back", 0.2)
        await travelling.settled(SETTLE_LIMIT_S)
        assert all(member.starts == 1 for member in cluster.members)
        # A mail whose commit was cut off may be unknown; it is seen, and never sent twice.
        unknown = HANDS if name == "database" else 0
        await travelling.hold(Allowed(unknown=unknown, logged=ABOUT_LOST_ENGINES))


@pytest.mark.xfail(reason="there is no gauge of the engines yet", strict=True)
async def test_metrics_tell_which_engine_is_away(tmp_path: Path) -> None:
    async with (
        shared_engines(proxied=True) as engines,
        travel(engines, THREE[:1], tmp_path, []) as travelling,
    ):
        await travelling.cluster.start()
        front, proxy = travelling.cluster.front, engines.proxies["cache"]
        assert await _measured(front, "cache") == 1.0
        await proxy.refuse()

        async def measured(value: float) -> bool:
            return await _measured(front, "cache") == value

        await until(lambda: measured(0.0), SEEN_LIMIT_S, "a gauge at 0", 0.2)
        await proxy.heal()
        await until(lambda: measured(1.0), BACK_LIMIT_S, "a gauge at 1", 0.2)
        assert await _measured(front, "database") == 1.0

"""The journey on RabbitMQ, MariaDB, Redis and S3, through many processes with no disk in common."""

from pathlib import Path

import pytest

from tests.contracts.engines import prepare
from tests.journeys.cluster import ALL_ENGINES, THREE, TWICE, shared_engines
from tests.journeys.server_books import crowd, travel

pytestmark = [pytest.mark.journey, pytest.mark.real, pytest.mark.timeout(300)]

COMMENTS = 100
SETTLE_LIMIT_S = 120.0


@pytest.fixture(autouse=True)
def _engines(request: pytest.FixtureRequest) -> None:
    prepare(ALL_ENGINES, request)


async def test_a_hundred_comments_become_pictures_and_mails_through_three_processes(
    tmp_path: Path,
) -> None:
    async with (
        shared_engines() as engines,
        travel(engines, THREE, tmp_path, crowd(COMMENTS)) as travelling,
    ):
        await travelling.cluster.start()
        await travelling.prepare()
        await travelling.journey.poll()
        await travelling.settled(SETTLE_LIMIT_S)
        await travelling.hold()


async def test_two_of_each_process_restarted_one_after_the_other_lose_and_double_nothing(
    tmp_path: Path,
) -> None:
    async with (
        shared_engines() as engines,
        travel(engines, TWICE, tmp_path, crowd(42, videos=0), scheduled=True) as travelling,
    ):
        cluster, feed = travelling.cluster, travelling.journey.world.feed
        coming = list(feed.comments)
        feed.comments = []
        await cluster.start()
        await travelling.prepare()
        for member in cluster.members:
            feed.comments = [*(coming.pop() for _ in range(7)), *feed.comments]
            await member.stop()
            await member.start()
        await travelling.settled(SETTLE_LIMIT_S)
        assert all(member.starts == 2 for member in cluster.members)
        await travelling.hold()

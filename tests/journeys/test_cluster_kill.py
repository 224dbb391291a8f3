"""Chaos under pytest: the processes and engines of a cluster are killed, and nothing is lost."""

import os
import random
from pathlib import Path

import pytest

from tests.contracts.engines import prepare
from tests.journeys.chaos import chaos
from tests.journeys.cluster import ALL_ENGINES

pytestmark = [pytest.mark.journey, pytest.mark.real, pytest.mark.timeout(420)]

COMMENTS = 50
SEED = int(os.environ.get("JOURNEY_SEED") or random.SystemRandom().randrange(2**32))


@pytest.fixture(autouse=True)
def _engines(request: pytest.FixtureRequest) -> None:
    prepare(ALL_ENGINES, request)


async def test_a_cluster_whose_processes_and_engines_are_killed_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    verdict = await chaos(SEED, tmp_path, comments=COMMENTS)
    print("\n".join(verdict.lines))
    assert verdict.held, "\n".join(verdict.lines)

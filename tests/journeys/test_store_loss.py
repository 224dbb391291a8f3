"""The database or the objects go away and come back, twice: work waits, and then goes on."""

from pathlib import Path

import pytest

from tests.contracts.engines import prepare
from tests.journeys.cluster import ALL_ENGINES
from tests.journeys.losses import hold_through_losses

pytestmark = [pytest.mark.journey, pytest.mark.real, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def _engines(request: pytest.FixtureRequest) -> None:
    prepare(ALL_ENGINES, request)


@pytest.mark.parametrize("name", ["database", "objects"])
async def test_a_lost_engine_is_shown_and_work_waits_and_goes_on_by_itself_when_it_is_back(
    name: str, tmp_path: Path
) -> None:
    await hold_through_losses(name, tmp_path)

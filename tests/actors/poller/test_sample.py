import pytest

from limner.actors.poller.connector import CURSOR_REFUSED, Page
from limner.actors.poller.sample import Demo, comments
from limner.core.errors import Refused
from limner.core.outgoing import Outgoing
from limner.storage.sql.tunables import SecretStore


@pytest.fixture
def demo() -> Demo:
    return Demo(Outgoing(), SecretStore(b"k" * 32))


async def read(demo: Demo, options: dict[str, str]) -> list[Page]:
    pages = [await demo.fetch(options, "", "")]
    while pages[-1].has_more:
        pages.append(await demo.fetch(options, "", pages[-1].next_cursor))
    return pages


async def test_the_samples_come_in_pages_of_five_in_their_order(demo: Demo) -> None:
    pages = await read(demo, {})
    assert [len(page.comments) for page in pages[:-1]] == [5] * (len(pages) - 1)
    assert 1 <= len(pages[-1].comments) <= 5
    served = [each.external_id for page in pages for each in page.comments]
    assert served == [each["id"] for each in comments() if "provider" not in each]


async def test_one_sample_comes_twice(demo: Demo) -> None:
    served = [each for page in await read(demo, {}) for each in page.comments]
    assert len(served) == len(set(served)) + 1


async def test_a_source_with_a_provider_gets_the_samples_for_it_and_no_others(demo: Demo) -> None:
    (page,) = await read(demo, {"provider": "failing-demo"})
    wanted = [each["id"] for each in comments() if each.get("provider") == "failing-demo"]
    assert [each.external_id for each in page.comments] == wanted != []


async def test_the_page_after_the_last_is_empty(demo: Demo) -> None:
    page = await demo.fetch({}, "", "1000")
    assert (page.comments, page.has_more) == ((), False)


@pytest.mark.parametrize("cursor", ["-1", "x", "٣", "1.5", "1" * 40])
async def test_a_cursor_of_another_feed_is_refused(cursor: str, demo: Demo) -> None:
    with pytest.raises(Refused) as caught:
        await demo.fetch({}, "", cursor)
    assert caught.value.code == CURSOR_REFUSED

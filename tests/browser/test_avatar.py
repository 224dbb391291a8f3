"""One's own picture in a real browser: chosen, made smaller before it is sent, taken away."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Page, expect

from limner.core.clock import HeldClock
from limner.http.api.avatar import LIMIT_BYTES
from limner.storage.sql.accounts import User
from tests.fakes.chromium import chromium
from tests.fakes.front import Stage, staged

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

LOADED = "one => one.complete && one.naturalWidth"


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def page(stage: Stage) -> AsyncIterator[Page]:
    """Give the profile of the owner, who has signed in."""
    async with chromium() as browser:
        opened = await browser.new_page()
        base = stage.front.settings.base_url
        await opened.goto(f"{base}/sign-in/{await stage.link()}")
        await opened.goto(f"{base}/account")
        yield opened


async def choose(page: Page, name: str, kind: str, content: bytes) -> None:
    await page.locator("#avatar").set_input_files(
        {"name": name, "mimeType": kind, "buffer": content}
    )
    await page.get_by_role("button", name="Save the picture").click()


async def test_a_large_picture_is_made_smaller_and_shown_and_taken_away(
    stage: Stage, page: Page
) -> None:
    noise = Image.effect_noise((1600, 1200), 100)
    made = io.BytesIO()
    noise.save(made, "JPEG", quality=95)
    assert made.tell() > LIMIT_BYTES
    await choose(page, "me.jpg", "image/jpeg", made.getvalue())
    face = page.get_by_role("img", name="Your picture")
    await expect(face).to_be_visible()
    assert await face.evaluate(LOADED) == 256
    assert (await User.get(id=stage.owner.id)).avatar_key
    page.on("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Take it away").click()
    await expect(face).to_have_count(0)
    assert (await User.get(id=stage.owner.id)).avatar_key == ""


async def test_what_is_no_picture_is_refused_with_a_reason(page: Page) -> None:
    await choose(page, "me.png", "image/png", b"<svg onload='alert(1)'/>")
    await expect(page.locator("#toast")).to_have_text(
        "this is no PNG, JPEG or WebP picture that can be read"
    )
    await expect(page.get_by_role("button", name="Save the picture")).to_be_enabled()

"""Chromium without a window, for the tests of the pages."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-background-networking"]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start it, and end it; a test is skipped where there is none, except in CI."""
    program = next((found for found in map(shutil.which, NAMES) if found), None)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is missing, and CI must not skip what needs it")
        pytest.skip("Chromium is missing: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        await browser.close()

"""An account's whole life in a real browser, with the mails that the service really writes."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.fakes.chromium import chromium
from tests.journeys.process import Limner, Prepared, prepare, until

pytestmark = [pytest.mark.browser, pytest.mark.journey, pytest.mark.timeout(180)]

WIDTHS = (320, 390, 1280)
MAIL_LIMIT_S = 20.0
PASSWORD = "a long and quiet sentence"
LINK = re.compile(r"https?://[^/\s]+(/[a-z-]+\?token=\S+)")
OPEN_PAGES = ["/", "/login", "/register", "/check-mail", "/verify-email?token=x",
              "/reset-password", "/reset-password?token=x"]  # fmt: skip
OWN_PAGES = ["/account", "/account/security", "/account/sessions", "/account/keys",
             "/account/notifications", "/account/data"]  # fmt: skip


@dataclass
class Window:
    """A window of its own, with its own cookies; it keeps what it complains about."""

    limner: Limner
    page: Page
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        await self.page.goto(self.limner.url + path)

    async def press(self, name: str) -> None:
        await self.page.get_by_role("button", name=name, exact=True).click()

    async def fill(self, **typed: str) -> None:
        for name, text in typed.items():
            await self.page.locator(f"#{name}").fill(text)

    async def sign_in(self, password: str) -> None:
        await self.open("/login")
        await self.fill(email="anna@example.com", password=password)
        await self.press("Sign in")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
async def limner(prepared: Prepared, tmp_path: Path) -> AsyncIterator[Limner]:
    async with Limner(prepared.copy(tmp_path / "home"), prepared.key) as served:
        await served.start()
        yield served


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


async def window(browser: Browser, limner: Limner, *, scripts: bool = True) -> Window:
    context = await browser.new_context(
        locale="en-GB", timezone_id="UTC", java_script_enabled=scripts
    )
    opened = Window(limner, await context.new_page())
    opened.page.on(
        "console",
        lambda message: (
            opened.complaints.append(message.text) if message.type in {"error", "warning"} else None
        ),
    )
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    return opened


async def mailed(limner: Limner, subject: str) -> str:
    """Wait for a mail to Anna and give the path of the link in it."""
    found: list[str] = []

    async def came() -> bool:
        for row in await limner.listed("/api/mailbox"):
            if row["to"] == ["anna@example.com"] and subject in row["subject"]:
                mail = await limner.get(f"/api/mailbox/{row['id']}")
                found.extend(re.findall(LINK, mail["text"]))
        return bool(found)

    await until(came, MAIL_LIMIT_S, f"a mail about {subject!r}")
    return found[0]


async def registered(limner: Limner, anna: Window) -> None:
    await anna.open("/register")
    await anna.fill(name="Anna", email="anna@example.com", password=PASSWORD)
    await anna.press("Make the account")
    await expect(anna.page.locator("h1")).to_have_text("Check your mail")
    await anna.open(await mailed(limner, "Confirm"))
    await anna.press("Confirm")
    await expect(anna.page.locator(".done")).to_have_text("Your address is confirmed. Sign in now.")


async def test_from_signing_up_to_a_forgotten_password(limner: Limner, browser: Browser) -> None:
    anna = await window(browser, limner)
    await registered(limner, anna)
    await anna.sign_in(PASSWORD)
    await expect(anna.page.locator("h1")).to_have_text("Tasks")

    await anna.open("/account/keys")
    await anna.fill(name="Backup")
    await anna.page.get_by_label("See tasks").check()
    await anna.press("Make the key")
    await expect(anna.page.locator("#key")).to_have_text(re.compile(r"lim_[\w-]{43}"))

    other = await window(browser, limner)
    await other.sign_in(PASSWORD)
    await anna.open("/account/sessions")
    await expect(anna.page.locator(".items > li")).to_have_count(2)
    await anna.page.locator('form[action$="/end"] button').click()
    await expect(anna.page.locator(".done")).to_have_text("The session has ended.")
    await other.open("/account")
    await expect(other.page.locator("h1")).to_have_text("Sign in to see this")

    await anna.press("Sign out")
    await expect(anna.page.locator(".done")).to_have_text("You are signed out.")
    await anna.page.get_by_role("link", name="Forgot your password?").click()
    await anna.fill(email="anna@example.com")
    await anna.press("Send the link")
    await anna.open(await mailed(limner, "password"))
    await anna.fill(password="another quiet sentence")
    await anna.press("Set it")
    await anna.fill(email="anna@example.com", password="another quiet sentence")
    await anna.press("Sign in")
    await expect(anna.page.locator("h1")).to_have_text("Tasks")
    assert anna.complaints == []


async def test_everything_works_without_scripts_too(limner: Limner, browser: Browser) -> None:
    anna = await window(browser, limner, scripts=False)
    await registered(limner, anna)
    await anna.sign_in(PASSWORD)
    await anna.open("/account")
    await anna.fill(name="Anna K.")
    await anna.page.locator('form[action="/account"] button').click()
    await expect(anna.page.locator(".done")).to_have_text("Your profile has been saved.")
    await expect(anna.page.get_by_role("button", name="Show password")).to_have_count(0)
    await anna.press("Sign out")
    await expect(anna.page.locator("h1")).to_have_text("Sign in")


async def test_no_page_is_wider_than_its_window_or_breaks_the_policy(
    limner: Limner, browser: Browser
) -> None:
    anna = await window(browser, limner)

    async def look(paths: list[str]) -> None:
        for width in WIDTHS:
            await anna.page.set_viewport_size({"width": width, "height": 800})
            for path in paths:
                await anna.open(path)
                await anna.page.wait_for_load_state("networkidle")
                beyond = await anna.page.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                assert beyond <= 0, (path, width)

    await look(OPEN_PAGES)
    await registered(limner, anna)
    await anna.sign_in(PASSWORD)
    await look(OWN_PAGES)
    assert anna.complaints == []


async def test_scripts_improve_the_forms(limner: Limner, browser: Browser) -> None:
    anna = await window(browser, limner)
    await anna.open("/login")
    await anna.fill(email="anna@example.com", password="not the one")
    await anna.press("Show password")
    await expect(anna.page.locator("#password")).to_have_attribute("type", "text")
    await anna.press("Hide password")
    await expect(anna.page.locator("#password")).to_have_attribute("type", "password")
    await anna.press("Sign in")
    await expect(anna.page.locator("#summary")).to_be_focused()
    await expect(anna.page.locator("#summary")).to_have_text(
        "The address or the password is wrong, or the address is not confirmed yet."
    )
    await expect(anna.page.locator("#email")).to_have_value("anna@example.com")
    await expect(anna.page.locator("#password")).to_have_value("")
    await anna.page.keyboard.press("Tab")
    await expect(anna.page.locator("#email")).to_be_focused()
    outline = await anna.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"

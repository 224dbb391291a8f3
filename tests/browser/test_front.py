"""The pages in a real browser: they follow what happens, obey their own policy, and act."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, ConsoleMessage, Page, expect

from limner.core.clock import HeldClock
from limner.storage.sql.suppressions import is_suppressed
from limner.storage.sql.tasks import Task
from tests.fakes.chromium import chromium
from tests.fakes.front import Stage, staged, until
from tests.http.api.test_mailbox import keep

pytestmark = pytest.mark.browser

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc000000301010018dd8db00000000049454e44ae426082"
)
SIZES = [(1280, 900), (390, 844)]


@dataclass
class Window:
    """A browser window that keeps what it complains about."""

    stage: Stage
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        await self.page.goto(self.stage.front.settings.base_url + path)

    async def sign_in(self) -> None:
        await self.open(f"/sign-in/{await self.stage.link()}")

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def window(stage: Stage) -> AsyncIterator[Window]:
    async with chromium() as browser:
        context = await browser.new_context(locale="en-GB", timezone_id="UTC")
        page = await context.new_page()
        opened = Window(stage, context, page)
        page.on("console", opened.hear)
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        yield opened
        await context.close()


async def with_result(stage: Stage) -> Task:
    await stage.front.objects.put("r/a.png", PIXEL, "image/png", size_limit_bytes=1000)
    return await stage.task("emailed", result_key="r/a.png", result_type="image/png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_no_page_complains_or_is_wider_than_the_window(
    stage: Stage, window: Window, width: int, height: int, scheme: str
) -> None:
    task = await with_result(stage)
    await stage.task("needs_review", prompt="x" * 300, email="y" * 200 + "@example.com")
    signed = stage.front.signer.token("result", {"task": task.id})
    unsubscribe = stage.front.signer.token("unsubscribe", {"address": "a@x.test"})
    await window.page.set_viewport_size({"width": width, "height": height})
    await window.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type] # one of two
    await window.sign_in()
    for path in ["/", "/tasks", f"/tasks/{task.id}", "/mailbox", "/docs", f"/r/{signed}",
                 f"/unsubscribe/{unsubscribe}"]:  # fmt: skip
        await window.open(path)
        await window.page.wait_for_load_state("networkidle")
        beyond = await window.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert beyond <= 0, path
    assert window.complaints == []


async def test_the_picture_is_really_drawn(stage: Stage, window: Window) -> None:
    task = await with_result(stage)
    await window.sign_in()
    await window.open(f"/tasks/{task.id}")
    width = await window.page.locator("img.result").evaluate("image => image.naturalWidth")
    assert width == 1


async def test_a_task_moves_on_before_ones_eyes(stage: Stage, window: Window) -> None:
    task = await stage.task("extracted")
    await window.sign_in()
    await window.open(f"/tasks/{task.id}")
    await expect(window.page.locator("#state")).to_have_text("extracted")
    await stage.move(task, "submitted", detail="sent to acme")
    await expect(window.page.locator("#state")).to_have_text("submitted")
    await expect(window.page.locator("#timeline")).to_contain_text("sent to acme")
    await stage.move(task, "failed", error="the provider is broke", detail="no")
    await expect(window.page.locator(".fault")).to_have_text("the provider is broke")
    await expect(window.page.get_by_role("button", name="Retry")).to_be_visible()


async def test_the_table_follows(stage: Stage, window: Window) -> None:
    task = await stage.task("extracted")
    await window.sign_in()
    await expect(window.page.locator("tbody .state")).to_have_text(["extracted"])
    await stage.move(task, "cancelled")
    await stage.task("failed", prompt="<b>another</b>")
    await expect(window.page.locator("tbody .state")).to_have_text(["failed", "cancelled"])
    await expect(window.page.locator("tbody a").first).to_have_text("<b>another</b>")
    await window.page.select_option("#state", "failed")
    await expect(window.page.locator("tbody tr")).to_have_count(1)
    assert "state=failed" in window.page.url


async def test_a_table_in_which_nothing_happens_stays_as_it_is(
    stage: Stage, window: Window
) -> None:
    await stage.task("extracted", prompt="a  wide\n<b>cat</b>")
    await stage.task("needs_review", prompt="", email="")
    await window.sign_in()
    rows = window.page.locator("tbody tr")
    await rows.evaluate_all("rows => rows.forEach(row => { row.isFirst = true; })")
    for _ in range(2):
        async with window.page.expect_response("**/api/tasks") as coming:
            pass
        await (await coming.value).finished()
    assert await rows.evaluate_all("rows => rows.map(row => row.isFirst)") == [True, True]


async def test_whoever_goes_by_keyboard_keeps_their_place_in_the_table(
    stage: Stage, window: Window
) -> None:
    task = await stage.task("extracted", prompt="mine")
    await window.sign_in()
    link = window.page.get_by_role("link", name="mine")
    await link.focus()
    await stage.task("failed", prompt="another")
    await expect(window.page.locator("tbody tr")).to_have_count(2)
    await expect(link).to_be_focused()
    await stage.move(task, "cancelled")
    await expect(window.page.locator("tbody .state")).to_have_text(["failed", "cancelled"])
    await expect(link).to_be_focused()
    await window.page.keyboard.press("Enter")
    await expect(window.page.locator("#state")).to_have_text("cancelled")


async def test_a_wish_is_corrected_and_let_through(stage: Stage, window: Window) -> None:
    task = await stage.task("needs_review", prompt="", email="")
    await window.sign_in()
    await window.open(f"/tasks/{task.id}")
    await window.page.get_by_label("Wish").fill("a blue star")
    await window.page.get_by_label("Send to").fill("anna@localhost")
    await window.page.get_by_role("button", name="Approve").click()
    await expect(window.page.locator("#toast")).to_contain_text("is not one mail address")
    await window.page.get_by_label("Send to").fill("anna@example.com")
    await window.page.get_by_role("button", name="Approve").click()
    await expect(window.page.locator("#state")).to_have_text("extracted")
    row = await Task.get(id=task.id)
    assert (row.prompt, row.email) == ("a blue star", "anna@example.com")


async def test_a_failed_task_is_retried_by_a_click(stage: Stage, window: Window) -> None:
    task = await stage.task("failed")
    await window.sign_in()
    await window.open(f"/tasks/{task.id}")
    await window.page.get_by_role("button", name="Retry").click()
    await expect(window.page.locator("#state")).to_have_text("pending")
    await window.page.get_by_role("button", name="Cancel").click()
    await expect(window.page.locator("#state")).to_have_text("cancelled")


async def test_a_mail_is_seen_and_its_script_is_not_run(stage: Stage, window: Window) -> None:
    mail = await keep(stage)
    dialogs: list[str] = []
    window.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await window.sign_in()
    await window.open("/mailbox")
    await window.page.get_by_role("link", name="你的图片").click()
    frame = window.page.frame_locator("iframe.mail")
    await expect(frame.locator("p")).to_have_text("Here")
    picture = frame.locator("img")
    assert str(await picture.get_attribute("src")).startswith("data:image/png;base64,")
    assert dialogs == []
    assert any("sandboxed" in complaint for complaint in window.complaints)
    await window.page.get_by_role("button", name="Remove").click()
    await expect(window.page.locator(".empty")).to_have_text("No mails yet.")
    answer = await (await stage.admin()).get(f"/api/mailbox/{mail.id}")
    assert answer.status == 404


async def test_the_documentation_lists_every_operation(window: Window) -> None:
    await window.open("/docs")
    operations = window.page.locator(".op")
    await expect(operations.first).to_be_visible()
    described = await window.page.evaluate(
        "fetch('/openapi.json').then(a => a.json()).then(d => Object.values(d.paths)"
        ".reduce((n, path) => n + Object.keys(path).length, 0))"
    )
    assert await operations.count() == described


async def test_signing_out_ends_it(window: Window) -> None:
    await window.sign_in()
    await expect(window.page.locator("h1")).to_have_text("Tasks")
    await window.page.get_by_role("button", name="Sign out").click()
    await expect(window.page.locator("h1")).to_have_text("Sign in")
    await window.open("/tasks")
    await expect(window.page.locator("h1")).to_have_text("Sign in to see this")


async def test_the_button_of_the_unsubscribe_page_works(stage: Stage, window: Window) -> None:
    ends = stage.clock.now() + timedelta(days=1)
    token = stage.front.signer.token("unsubscribe", {"address": "anna@example.com"}, ends)
    await window.open(f"/unsubscribe/{token}")
    await window.page.get_by_role("button", name="Stop the mails").click()
    await expect(window.page.locator("h1")).to_have_text("Done")
    assert await is_suppressed("anna@example.com")


async def test_another_site_cannot_use_the_browsers_cookie(stage: Stage, window: Window) -> None:
    task = await stage.task("failed")
    await window.sign_in()
    target = f"{stage.front.settings.base_url}/api/tasks/{task.id}/retry"
    seen: list[int] = []
    window.context.on(
        "response", lambda answer: seen.append(answer.status) if answer.url == target else None
    )
    await window.page.goto("about:blank")
    await window.page.set_content(
        f'<form method="post" action="{target}"><button>go</button></form>'
    )
    await window.page.get_by_role("button").click()
    await until(lambda: bool(seen))
    assert seen[0] in {401, 403}
    assert (await Task.get(id=task.id)).state == "failed"

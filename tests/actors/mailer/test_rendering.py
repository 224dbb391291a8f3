"""What our mails say, and that nothing people write becomes more than words."""

from html.parser import HTMLParser
from typing import Any

import pytest
from jinja2.exceptions import SecurityError, UndefinedError

from limner.actors.mailer import rendering
from limner.actors.mailer.message import compose
from limner.actors.mailer.phrases import Kind, Language
from limner.actors.mailer.rendering import Rendered, render_named, render_result
from limner.actors.mailer.transport import Mail
from limner.core.errors import Invalid
from tests.fakes.nasty_strings import NASTY_STRINGS

LINK = "https://limner.test/r/aB3_-x"
STOP = "https://limner.test/unsubscribe/zZ9"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What a mail program would see: visible text, elements, and whether they are closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in {"style", "title"}:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def a_result(**changes: Any) -> Rendered:
    values: dict[str, Any] = {
        "language": "en",
        "kind": "image",
        "prompt": "a red fox",
        "result_url": LINK,
        "expires_in_s": 3600,
        "unsubscribe_url": STOP,
        "picture_cid": "result@limner.test",
    }
    return render_result(**(values | changes))


@pytest.mark.parametrize(
    ("language", "kind", "subject", "expiry"),
    [
        ("en", "image", "Your picture is ready", "This link works for 1 hour."),
        ("en", "video", "Your video is ready", "This link works for 1 hour."),
        ("zh", "image", "您的图片已生成", "此链接在 1 小时内有效"),
        ("zh", "video", "您的视频已生成", "此链接在 1 小时内有效"),
    ],
)
def test_a_result_says_what_it_is_and_how_long_its_link_works(
    language: Language, kind: Kind, subject: str, expiry: str
) -> None:
    mail = a_result(language=language, kind=kind, prompt="a red fox 红狐狸")
    page = Page(mail.html)
    assert mail.subject == subject
    for said in (mail.text, "".join(page.words)):
        assert "a red fox 红狐狸" in said
        assert expiry in said
    assert LINK in mail.text.splitlines()
    assert STOP in mail.text.splitlines()
    assert [link["href"] for link in page.all("a")] == [LINK, LINK, STOP]
    assert page.all("html")[0]["lang"] == {"en": "en", "zh": "zh-Hans"}[language]


def test_the_picture_is_shown_from_within_the_mail_and_described() -> None:
    (image,) = Page(a_result(prompt="a red\nfox", picture_width_px=256).html).all("img")
    assert image["src"] == "cid:result@limner.test"
    assert image["alt"] == "The picture that was made for: a red fox"
    assert image["width"] == "256"


def test_a_wide_picture_is_no_wider_than_the_mail() -> None:
    (image,) = Page(a_result(picture_width_px=1024).html).all("img")
    assert image["width"] == "496"


def test_without_a_picture_there_is_the_link() -> None:
    page = Page(a_result(kind="video", picture_cid=None).html)
    assert page.all("img") == []
    assert LINK in [link["href"] for link in page.all("a")]


@pytest.mark.parametrize("text", NASTY_STRINGS)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_nasty_prompts_appear_as_words(text: str, language: Language) -> None:
    plain = Page(a_result(language=language).html)
    mail = a_result(language=language, prompt=text)
    page = Page(mail.html)
    wanted = rendering._cut(text.strip(), rendering.MAX_PROMPT_CHARS)
    assert wanted in mail.text
    # HTML itself reads NUL and the end of a line in its own way.
    seen = "".join(page.words).replace("\r\n", "\n").replace("\r", "\n")
    assert wanted.replace("\r\n", "\n").replace("\r", "\n") in seen
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert page.all("a") == plain.all("a")


@pytest.mark.parametrize("character", ["<", "'", "&", "🦊", "图", "{"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_result_stays_under_100_kb_whatever_was_asked_for(
    character: str, language: Language
) -> None:
    mail = a_result(language=language, prompt=character * 200_000)
    raw = compose(
        Mail("<t@x.test>", "l@x.test", "r@x.test", mail.subject, mail.text, mail.html)
    ).as_bytes()
    assert len(raw) < 100_000
    assert character * 3999 + "…" in mail.text


def test_nothing_is_fetched_and_nothing_runs() -> None:
    page = Page(a_result().html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "form"})
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "background", "poster"}:
                assert str(value).startswith("cid:")
            if tag != "a":
                assert "http" not in str(value)
    assert "url(" not in a_result().html
    assert "@import" not in a_result().html


def test_the_page_is_made_for_screen_readers_and_for_both_colour_schemes() -> None:
    html = a_result().html
    page = Page(html)
    assert {each["role"] for each in page.all("table")} == {"presentation"}
    assert len(page.all("h1")) == 1
    assert all(image["alt"] for image in page.all("img"))
    assert {"name": "color-scheme", "content": "light dark"} in page.all("meta")
    assert "prefers-color-scheme: dark" in html


@pytest.mark.parametrize("field", ["result_url", "unsubscribe_url"])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "/r/abc",
        "javascript:alert(1)",
        "data:text/html,x",
        "ftp://x.test/",
        "https://",
        "https://x.test/ y",
        'https://x.test/"onclick="x',
        "https://x.test/\r\nBcc: v@x.test",
        "https://x.test/<b>",
        "https://x.test/" + "a" * 2000,
    ],
)
def test_links_are_web_addresses(field: str, url: str) -> None:
    with pytest.raises(Invalid, match=field):
        a_result(**{field: url})


@pytest.mark.parametrize("text", NASTY_STRINGS)
def test_a_message_by_name_says_what_it_was_given(text: str) -> None:
    mail = render_named("message", "en", {"subject": text, "text": text})
    page = Page(mail.html)
    assert mail.subject == text
    assert text in mail.text
    assert [tag for tag, _ in page.elements] == [
        *("html", "head", "meta", "meta", "meta", "meta", "title", "style", "body"),
        *("div", "table", "tr", "td", "table", "tr", "td", "h1", "div", "div", "p"),
    ]


def test_a_message_by_name_is_said_in_either_language() -> None:
    values = {"subject": "s", "text": "t"}
    assert "sent automatically" in render_named("message", "en", values).text
    assert "自动发送" in render_named("message", "zh", values).html


@pytest.mark.parametrize(
    ("template", "language", "variables", "faults"),
    [
        ("letter", "en", {}, [("/template", "is not one of message")]),
        ("../layout", "en", {}, [("/template", "is not one of message")]),
        (
            "message",
            "de",
            {"subject": "s", "text": "t"},
            [("/language", "is not one of zh, en")],
        ),
        (
            "message",
            "en",
            {},
            [("/variables/subject", "is missing"), ("/variables/text", "is missing")],
        ),
        (
            "message",
            "en",
            {"subject": 1, "text": None},
            [("/variables/subject", "is not text"), ("/variables/text", "is not text")],
        ),
        (
            "message",
            "en",
            {"subject": "s", "text": "t", "a/b~c": "x", "phrases": "x"},
            [("/variables/a~1b~0c", "is unknown"), ("/variables/phrases", "is unknown")],
        ),
        (
            "letter",
            "de",
            {},
            [("/language", "is not one of zh, en"), ("/template", "is not one of message")],
        ),
    ],
)
def test_all_faults_of_a_named_template_are_told_at_once(
    template: str, language: str, variables: dict[str, object], faults: list[tuple[str, str]]
) -> None:
    with pytest.raises(Invalid) as caught:
        render_named(template, language, variables)
    assert list(caught.value.faults) == faults


def test_templates_are_strict_and_sandboxed() -> None:
    environment = rendering._environment()
    with pytest.raises(UndefinedError):
        environment.from_string("{{ missing }}").render()
    with pytest.raises(SecurityError):
        environment.from_string("{{ ''.__class__.__mro__ }}").render()

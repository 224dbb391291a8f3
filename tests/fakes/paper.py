"""A browser without scripts: opens pages, reads their forms as HTML defines them, sends them."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

from aiohttp.test_utils import TestClient

from limner.http.auth.passwords import hash_password
from limner.storage.sql.accounts import User
from tests.fakes.front import Stage

PASSWORD = "a long and quiet sentence"
VOID = {"meta", "link", "img", "input", "br", "path", "circle", "rect"}
HEADINGS = ("h1", "h2", "h3")
NAMED = ("input", "select", "textarea")


@dataclass
class Sheet:
    """A form: where it goes, and what its fields hold."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)


class Paper(HTMLParser):
    """A page: its forms and texts, and what a person who cannot see it would miss."""

    def __init__(self, status: int, path: str, text: str) -> None:
        super().__init__()
        self.status, self.path, self.source = status, path, text
        self.sheets: list[Sheet] = []
        self.flaws: list[str] = []
        self.headings: list[str] = []
        self._texts: list[str] = []
        self._open: list[tuple[str, dict[str, str], int]] = []
        self._ids: set[str] = set()
        self._labels: set[str] = set()
        self._controls: list[tuple[str, bool]] = []
        self._references: set[str] = set()
        self._select = ""
        self.feed(text)
        self.close()
        self._judge()

    @property
    def text(self) -> str:
        """What is to be read, with single spaces."""
        return " ".join("".join(self._texts).split())

    def sheet(self, action: str) -> Sheet:
        """Give the form that is sent to ``action``."""
        return next(one for one in self.sheets if one.action == action)

    def offers(self, action: str) -> bool:
        """Whether there is a form that is sent to ``action``."""
        return any(one.action == action for one in self.sheets)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._note(tag, found)
        if tag not in VOID:
            self._open.append((tag, found, len(self._texts)))
        if tag == "form":
            self.sheets.append(Sheet(found.get("action", ""), found.get("method", "get")))
        elif tag == "select":
            self._select = found.get("name", "")
        elif tag == "option" and self.sheets:
            first = self._select not in self.sheets[-1].fields
            if first or "selected" in found:
                self.sheets[-1].fields[self._select] = found.get("value", "")
        elif tag in NAMED and self._in_form() and found.get("type") != "checkbox":
            self.sheets[-1].fields[found["name"]] = found.get("value", "")
            if "required" in found:
                self.sheets[-1].required.add(found["name"])

    def _in_form(self) -> bool:
        return any(tag == "form" for tag, _, _ in self._open)

    def _note(self, tag: str, found: dict[str, str]) -> None:
        if "id" in found:
            if found["id"] in self._ids:
                self.flaws.append(f"the id {found['id']} is there twice")
            self._ids.add(found["id"])
        for name in ("aria-describedby", "aria-labelledby", "aria-controls"):
            self._references |= set(found.get(name, "").split())
        if tag == "label" and "for" in found:
            self._labels.add(found["for"])
            self._references.add(found["for"])
        if tag in NAMED and found.get("type") != "hidden" and "aria-hidden" not in found:
            wrapped = any(one == "label" for one, _, _ in self._open)
            self._controls.append((found.get("id", ""), wrapped))
        if tag == "img" and "alt" not in found:
            self.flaws.append("a picture has no words")
        if any(name.startswith("on") or name == "style" for name in found) or tag == "style":
            self.flaws.append(f"something inline in {tag}")
        if tag == "script" and not found.get("src", "").startswith("/static/"):
            self.flaws.append("a script that is not a file of ours")

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        opened, attributes, start = self._open.pop()
        assert opened == tag, f"{opened} is closed by {tag}"
        inside = "".join(self._texts[start:]).strip()
        if tag == "textarea" and self._in_form():
            self.sheets[-1].fields[attributes["name"]] = inside
        if tag in {"a", "button"} and not inside and "aria-label" not in attributes:
            self.flaws.append(f"a nameless {tag}")
        if tag in HEADINGS:
            self.headings.append(tag)

    def handle_data(self, data: str) -> None:
        self._texts.append(data)

    def _judge(self) -> None:
        assert not self._open, f"left open: {self._open}"
        if self.headings.count("h1") != 1 or (self.headings and self.headings[0] != "h1"):
            self.flaws.append(f"headings {self.headings}")
        self.flaws += [
            f"{ident or 'a field'} has no label"
            for ident, wrapped in self._controls
            if not wrapped and ident not in self._labels
        ]
        self.flaws += [f"nothing is called {one}" for one in self._references - self._ids]


@dataclass
class Visitor:
    """Somebody with a browser."""

    client: TestClient[Any, Any]

    async def open(self, path: str, status: int = 200) -> Paper:
        """Open a page, which must be sound."""
        answer = await self.client.get(path, headers={"Accept": "text/html"})
        assert answer.status == status, (path, answer.status, await answer.text())
        paper = Paper(answer.status, answer.url.path, await answer.text())
        assert not paper.flaws, (path, paper.flaws)
        return paper

    async def post(self, action: str, fields: dict[str, str]) -> Paper:
        """Send fields and go where the answer leads."""
        answer = await self.client.post(
            action,
            data=urlencode(fields),
            headers={"Accept": "text/html", "Content-Type": "application/x-www-form-urlencoded"},
        )
        paper = Paper(answer.status, answer.url.path_qs, await answer.text())
        assert not paper.flaws, (action, paper.flaws)
        return paper

    async def send(self, page: str | Paper, action: str, **typed: str) -> Paper:
        """Fill the form of a page that goes to ``action``, send it, and go where that leads."""
        paper = await self.open(page) if isinstance(page, str) else page
        sheet = paper.sheet(action)
        names = {name.replace("__", "."): value for name, value in typed.items()}
        return await self.post(action, {**sheet.fields, **names})


async def visitor(stage: Stage) -> Visitor:
    """Give somebody who is not signed in."""
    return Visitor(await stage.client())


async def account(stage: Stage, email: str = "anna@example.com", **fields: Any) -> User:
    """Make a confirmed account with ``PASSWORD``."""
    user = await stage.user(fields.pop("role", "user"), fields.pop("state", "active"))
    work = stage.work()
    defaults = {
        "email": email,
        "name": "Anna",
        "verified_at": stage.clock.now(),
        "password_hash": await hash_password(PASSWORD),
    }
    work.change(user, **{**defaults, **fields})
    await stage.front.units.commit(work)
    return await User.get(id=user.id)


async def signed_in(stage: Stage, email: str = "anna@example.com") -> Visitor:
    """Give somebody who has signed in with ``PASSWORD``."""
    somebody = await visitor(stage)
    paper = await somebody.send("/login", "/login", email=email, password=PASSWORD)
    assert paper.path == "/tasks", paper.text
    return somebody

"""Where in a feed's answers the comments are: paths of RFC 9535, and what they lead to."""

import hashlib
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from limner.actors.poller.connector import CURSOR_LENGTH, MAX_ITEMS, Fetched
from limner.core.errors import Invalid, TooLarge
from limner.core.jsonpath import compile_path

ID_LENGTH = 255

_ABSENT = object()


def _path(text: str) -> str:
    try:
        compile_path(text)
    except Invalid as error:
        raise ValueError(error.detail) from None
    return text


JsonPath = Annotated[str, Field(min_length=1), AfterValidator(_path)]


class Paths(BaseModel):
    """``items``, ``next_cursor``, ``has_more``: into the answer; the others into one item."""

    items: JsonPath
    id: JsonPath
    text: JsonPath
    author: JsonPath | None = None
    next_cursor: JsonPath | None = None
    has_more: JsonPath | None = None

    async def items_of(self, document: Any) -> list[Any]:
        """Give the items, and tell a page without any from a document that is something else.

        Raises:
            Invalid: the path leads nowhere, or to an array instead of into it.
            TooLarge: more than ``MAX_ITEMS``.
        """
        items = await compile_path(self.items).find(document)
        if not items:
            parent = self.items.removesuffix("[*]").removesuffix(".*")
            if parent != self.items and not await compile_path(parent).find(document):
                raise _missing("items", parent)
        if len(items) == 1 and isinstance(items[0], list):
            raise _unreadable(f"items: {self.items} selects an array, not its elements: add [*]")
        if len(items) > MAX_ITEMS:
            raise TooLarge(f"the page has {len(items)} comments, over {MAX_ITEMS}")
        return items

    async def comments_of(self, items: list[Any]) -> list[Fetched]:
        """Give one comment for each item, in order.

        Raises:
            Invalid: no item has a text, or something is an array or object that should be text.
        """
        texts = await _values(items, self.text)
        if items and all(text is _ABSENT for text in texts):
            raise _missing("text", self.text)
        ids = await _values(items, self.id)
        authors = await _values(items, self.author)
        return [_comment(*values) for values in zip(ids, authors, texts, strict=True)]

    async def cursor_of(self, document: Any) -> str:
        """Give the cursor of the next page; empty if the feed names none.

        Raises:
            Invalid: it is an array or object, or longer than a source can keep.
        """
        if self.next_cursor is None:
            return ""
        cursor = scalar(await compile_path(self.next_cursor).first(document), "next_cursor")
        if len(cursor) > CURSOR_LENGTH:
            raise _unreadable(f"next_cursor: it is over {CURSOR_LENGTH} characters long")
        return cursor

    async def more_of(self, document: Any, onward: str) -> bool:
        """Say whether there are more pages; a feed that does not say has one if it names it."""
        said = None
        if self.has_more is not None:
            said = await compile_path(self.has_more).first(document)
        return onward != "" if said is None else truth(said)


async def _values(items: list[Any], path: str | None) -> list[Any]:
    if path is None:
        return [_ABSENT] * len(items)
    compiled = compile_path(path)
    return [await compiled.first(item, _ABSENT) for item in items]


def _comment(ident: Any, author: Any, text: Any) -> Fetched:
    """Make a comment of JSON values; without an id it gets one from its content."""
    writer, words, known = scalar(author, "author"), scalar(text, "text"), scalar(ident, "id")
    if not known:
        known = _hashed(writer, words)
    elif len(known) > ID_LENGTH or "\x00" in known:
        known = _hashed(known)
    return Fetched(known, writer, words)


def _hashed(*parts: str) -> str:
    """Give an id that the same parts always have: SHA-256 over each part's length and bytes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return f"sha256:{digest.hexdigest()}"


def scalar(value: Any, name: str) -> str:
    """Give a JSON string, number or truth value as text; null and nothing as the empty text.

    Raises:
        Invalid: an array or object, or a number too long to write, where ``name`` should be.
    """
    if value is None or value is _ABSENT:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        try:
            return str(value)
        except ValueError:  # Python writes no integer of more than 4,300 digits.
            raise _unreadable(f"{name}: the number is too long") from None
    raise _unreadable(f"{name}: this is no text but an array or object")


def truth(value: Any) -> bool:
    """Read a truth value, also from those who send words or numbers."""
    if isinstance(value, str):
        return value.strip().lower() not in {"", "0", "false", "no", "null"}
    return bool(value)


def _missing(name: str, path: str) -> Invalid:
    return _unreadable(f"{name}: {path} found nothing in the answer")


def _unreadable(detail: str) -> Invalid:
    return Invalid(detail, code="feed_unreadable")

"""The mailbox: mails that were kept here instead of being sent."""

import asyncio
import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as default_policy
from typing import Annotated, Any, ClassVar

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field

from limner.core.errors import Forbidden, NotFound, Unauthenticated
from limner.core.objects import content_disposition
from limner.http.call import Call
from limner.http.etags import tagged
from limner.http.headers import MEDIA_POLICY, SANDBOX_POLICY
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.results import link_ttl_s, version_tag
from limner.http.routes import Result, Route
from limner.storage.sql.connection import marks
from limner.storage.sql.mailbox import MailboxMail

MAIL_LIMIT_BYTES = 64 * 1024 * 1024
PURPOSE = "mailbox-attachment"
SCOPE = "mailbox:read"
ONLY_VERSION = 1
DELETE_BATCH = 500
INLINE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


class MailRow(BaseModel):
    """A mail in the list."""

    model_config = ConfigDict(populate_by_name=True)

    id: str
    to: list[str]
    sender: Annotated[str, Field(alias="from")]
    subject: str
    created_at: datetime


class AttachmentOut(BaseModel):
    """A file in a mail; ``url`` opens without a login until it expires."""

    name: str
    content_type: str
    size_bytes: int
    url: str


class MailOut(MailRow):
    """A mail, whole; of a header that comes twice both values are there, in order."""

    headers: dict[str, str]
    text: str
    html: str
    attachments: list[AttachmentOut]


class MailQuery(Listing):
    """Filters of the list."""

    columns: ClassVar[Mapping[str, str]] = {"to": "recipient"}

    to: str | None = None
    subject: str | None = None


def row_of(mail: MailboxMail) -> dict[str, Any]:
    """Give what the list shows of a mail."""
    return {
        "id": mail.id,
        "to": [mail.recipient],
        "sender": mail.sender,
        "subject": mail.subject,
        "created_at": mail.created_at,
    }


async def listed(call: Call, query: MailQuery) -> Result:
    """List."""
    rows = MailboxMail.filter(**query.filters())
    return page_of(call, query, await rows_of(rows, query), lambda mail: MailRow(**row_of(mail)))


async def found(call: Call) -> MailboxMail:
    """Give the mail in the path.

    Raises:
        NotFound: there is none.
    """
    mail = await MailboxMail.get_or_none(id=call.param("id"))
    if mail is None:
        raise NotFound("there is no such mail")
    return mail


async def parsed(call: Call, mail: MailboxMail) -> EmailMessage:
    """Read a mail's bytes and parse them, off the loop."""
    raw = await call.front.objects.read(mail.raw_key, MAIL_LIMIT_BYTES)
    return await asyncio.to_thread(message_from_bytes, raw, EmailMessage, policy=default_policy)


def files_of(message: EmailMessage) -> list[EmailMessage]:
    """Give all parts that are neither containers nor one of the bodies, in order."""
    bodies = {id(part) for part in (body_of(message, "plain"), body_of(message, "html")) if part}
    return [part for part in message.walk() if not part.is_multipart() and id(part) not in bodies]


def body_of(message: EmailMessage, kind: str) -> EmailMessage | None:
    """Give the plain or the HTML body, if there is one."""
    part = message.get_body((kind,))
    return part if isinstance(part, EmailMessage) else None


def text_of(part: EmailMessage | None) -> str:
    """Give a body's text."""
    return "" if part is None else str(part.get_content())


async def show(call: Call) -> Result:
    """Show one, whole."""
    content = await whole(call, await found(call))
    # A mail never changes; the links to its files do.
    version = await version_tag(call, ONLY_VERSION, has_links=bool(content.attachments))
    return tagged(call, content, version)


async def whole(call: Call, mail: MailboxMail) -> MailOut:
    """Give a mail with what its bytes say."""
    message = await parsed(call, mail)
    headers: dict[str, str] = {}
    for name, value in message.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else str(value)
    return MailOut(
        **row_of(mail),
        headers=headers,
        text=text_of(body_of(message, "plain")),
        html=text_of(body_of(message, "html")),
        attachments=[
            await _attachment(call, mail, place, part)
            for place, part in enumerate(files_of(message))
        ],
    )


async def _attachment(
    call: Call, mail: MailboxMail, place: int, part: EmailMessage
) -> AttachmentOut:
    expires_at = call.now + timedelta(seconds=await link_ttl_s(call))
    signed = call.front.signer.token(PURPOSE, {"mail": mail.id, "n": place}, expires_at)
    return AttachmentOut(
        name=part.get_filename() or f"part-{place + 1}",
        content_type=part.get_content_type(),
        size_bytes=len(content_of(part)),
        url=call.url(f"/api/mailbox/{mail.id}/attachments/{place}?signed={signed}"),
    )


def content_of(part: EmailMessage) -> bytes:
    """Give the decoded bytes of a file."""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


class AttachmentQuery(BaseModel):
    """The signature of an attachment's link."""

    signed: str = ""


async def attachment(call: Call, query: AttachmentQuery) -> Result:
    """Give a file of a mail to whoever may read the mailbox or has its link."""
    _check_link(call, query.signed)
    mail = await found(call)
    files = files_of(await parsed(call, mail))
    place = int(call.param("n"))
    if place >= len(files):
        raise NotFound("the mail has no such attachment")
    part = files[place]
    content_type = part.get_content_type()
    inline = content_type in INLINE_TYPES
    return web.Response(
        body=content_of(part),
        headers={
            hdrs.CONTENT_TYPE: content_type if inline else "application/octet-stream",
            hdrs.CONTENT_DISPOSITION: content_disposition(part.get_filename(), inline=inline),
            "Content-Security-Policy": MEDIA_POLICY,
        },
    )


def _check_link(call: Call, signed: str) -> None:
    """Return if the caller may read the mailbox or the link is good.

    Raises:
        Unauthenticated: neither a credential nor a link that is good.
        Forbidden: the credential does not allow it.
    """
    if SCOPE in call.caller.scopes:
        return
    if signed:
        payload = call.front.signer.open(PURPOSE, signed, call.now)
        if payload == {"mail": call.param("id"), "n": int(call.param("n"))}:
            return
        raise Forbidden("the link is for another attachment")
    if call.caller.is_known:
        raise Forbidden(f"this needs the scope {SCOPE}")
    raise call.caller.fault or Unauthenticated("sign in, or send an API key")


async def html(call: Call) -> Result:
    """Give the HTML of a mail as a document that can do nothing: no scripts, no network."""
    message = await parsed(call, await found(call))
    return web.Response(
        text=await asyncio.to_thread(_with_pictures, message),
        content_type="text/html",
        charset="utf-8",
        headers={
            "Content-Security-Policy": f"{SANDBOX_POLICY}; frame-ancestors 'self'",
            "X-Frame-Options": "SAMEORIGIN",
        },
    )


def _with_pictures(message: EmailMessage) -> str:
    """Give the HTML body with its inline pictures put in, as nothing may be fetched."""
    text = text_of(body_of(message, "html"))
    for part in files_of(message):
        ident = str(part.get("Content-ID", "")).strip().strip("<>")
        if ident and part.get_content_type() in INLINE_TYPES:
            encoded = base64.b64encode(content_of(part)).decode()
            text = text.replace(f"cid:{ident}", f"data:{part.get_content_type()};base64,{encoded}")
    return text


async def delete(call: Call) -> Result:
    """Remove one."""
    await _remove(call, [await found(call)])
    return None


async def clear(call: Call) -> Result:
    """Remove all."""
    while mails := await MailboxMail.all().limit(DELETE_BATCH):
        await _remove(call, mails)
    return None


async def _remove(call: Call, mails: list[MailboxMail]) -> None:
    work = call.work()
    idents = [mail.id for mail in mails]

    async def write(connection: Any) -> None:
        await connection.execute(
            f"DELETE FROM mailbox WHERE id IN ({marks(idents)})",  # noqa: S608 - marks only
            idents,
        )

    work.step(write)
    work.audit("mailbox.cleared", data={"mails": len(mails)})
    await call.commit(work)
    for mail in mails:
        await call.front.objects.delete(mail.raw_key)


ROUTES = [
    Route(
        "GET",
        "/api/mailbox",
        listed,
        "List the mails that were kept",
        SCOPE,
        answer=Page[MailRow],
        query=MailQuery,
    ),
    Route("DELETE", "/api/mailbox", clear, "Remove all mails", "mailbox:write", status=204),
    Route("GET", "/api/mailbox/{id}", show, "Show a mail", SCOPE, answer=MailOut, is_tagged=True),
    Route("DELETE", "/api/mailbox/{id}", delete, "Remove a mail", "mailbox:write", status=204),
    Route(
        "GET",
        r"/api/mailbox/{id}/attachments/{n:\d{1,4}}",
        attachment,
        "Give a file of a mail",
        "open",
        query=AttachmentQuery,
        media="application/octet-stream",
    ),
    Route(
        "GET",
        "/api/mailbox/{id}/html",
        html,
        "Give the HTML of a mail, in a sandbox",
        SCOPE,
        media="text/html",
    ),
]

"""The mailbox as pages: the list, and one mail whose HTML lives in a sandboxed frame."""

from limner.http.answers import content_of
from limner.http.api import mailbox
from limner.http.call import Call
from limner.http.listing import Cursor
from limner.http.pages.declared import PageQuery, shown_at
from limner.http.pages.rendering import page
from limner.http.routes import Result


class MailboxQuery(PageQuery):
    """The place in the list."""

    cursor: Cursor | None = None


async def listed(call: Call, query: MailboxQuery) -> Result:
    """Show the list."""
    content = content_of(await mailbox.listed(call, mailbox.MailQuery(cursor=query.cursor)))
    may_delete = "mailbox:write" in call.caller.scopes
    return await page(call, "mailbox.html", mails=content, may_delete=may_delete)


async def show(call: Call) -> Result:
    """Show one."""
    mail = await mailbox.whole(call, await mailbox.found(call))
    may_delete = "mailbox:write" in call.caller.scopes
    return await page(call, "mail.html", mail=mail, may_delete=may_delete)


ROUTES = [
    shown_at("/mailbox", listed, "Show the mailbox", mailbox.SCOPE, query=MailboxQuery),
    shown_at("/mailbox/{id}", show, "Show a mail", mailbox.SCOPE),
]

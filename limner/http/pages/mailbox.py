"""The mailbox as pages: the list, and one mail whose HTML lives in a sandboxed frame."""

from pydantic import BaseModel, ConfigDict

from limner.http.api import mailbox
from limner.http.call import Call
from limner.http.listing import Cursor
from limner.http.pages.rendering import page
from limner.http.routes import Answer, Result, Route


class PageQuery(BaseModel):
    """The place in the list; whatever else stands in the address is left alone."""

    model_config = ConfigDict(extra="ignore")

    cursor: Cursor | None = None


async def listed(call: Call, query: PageQuery) -> Result:
    """Show the list."""
    answer = await mailbox.listed(call, mailbox.MailQuery(cursor=query.cursor))
    content = answer.content if isinstance(answer, Answer) else None
    may_delete = "mailbox:write" in call.caller.scopes
    return await page(call, "mailbox.html", mails=content, may_delete=may_delete)


async def show(call: Call) -> Result:
    """Show one."""
    may_delete = "mailbox:write" in call.caller.scopes
    return await page(call, "mail.html", mail=await mailbox.show(call), may_delete=may_delete)


ROUTES = [
    Route(
        "GET",
        "/mailbox",
        listed,
        "Show the mailbox",
        mailbox.SCOPE,
        query=PageQuery,
        is_documented=False,
    ),
    Route("GET", "/mailbox/{id}", show, "Show a mail", mailbox.SCOPE, is_documented=False),
]

"""The tester: what would become of a comment with this text."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from limner.http.body import Form
from limner.http.call import Call
from limner.http.routes import Result, Route

TEXT_LENGTH = 10_000


class Trial(Form):
    """A text to read."""

    text: Annotated[str, Field(min_length=1, max_length=TEXT_LENGTH)]


class Reading(BaseModel):
    """What was read from it, and who decided."""

    model_config = ConfigDict(extra="allow")

    verdict: str
    reason: str | None = None
    confidence: float
    decided_by: str | None = None
    keyword: str | None = None
    denied_by: str | None = None
    addresses: list[str] = []
    email: str | None = None
    prompt: str = ""
    kind: str = ""
    language: str = ""


async def test(call: Call, body: Trial) -> Result:
    """Read a text as the service would, without making anything of it."""
    found: dict[str, Any] = dict(await call.front.intent.test(body.text))
    return Reading.model_validate(found)


ROUTES = [
    Route(
        "POST",
        "/api/intent/test",
        test,
        "Say what would become of a comment",
        "tasks:write",
        answer=Reading,
        body=Trial,
    ),
]

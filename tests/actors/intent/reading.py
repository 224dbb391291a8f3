"""Having comments read, as the tests of this folder do it."""

import json
from typing import Any

from limner.actors.intent.actor import build
from limner.actors.intent.messages import Read
from limner.actors.ports import Ports
from limner.actors.submitter.messages import Submit
from limner.core.ids import new_id
from limner.storage.sql.comments import Comment
from limner.storage.sql.tasks import Task
from tests.fakes.llm import Saying, good
from tests.fakes.stage import Stage

WISH = "draw a red fox in the snow, send it to fox@example.com please"


ANSWER = {
    "wants_media": True,
    "kind": "image",
    "prompt": "a red fox in the snow",
    "email": "fox@example.com",
    "confidence": 0.93,
    "reason": "asks for a picture",
}


def answer(**changes: Any) -> Saying:
    return good({**ANSWER, **changes})


async def comment(stage: Stage, text: str = WISH) -> Comment:
    row = Comment(
        id=new_id("comment"),
        state="new",
        user_id="user_1",
        source_id="source_1",
        external_id=new_id("external"),
        author="a reader",
        text=text,
    )
    await stage.keep(row)
    return row


async def read(ports: Ports, text: str = WISH) -> tuple[Comment, Task | None]:
    """Have a fresh comment read; give it and its task as they are then."""
    stage = Stage(ports, build(ports))
    row = await comment(stage, text)
    await stage.send(Read(comment_id=row.id))
    assert await stage.act() == 1
    assert await stage.dead() == []
    after = await Comment.get(id=row.id)
    return after, await Task.get_or_none(comment_id=row.id)


async def submitted(stage: Stage) -> list[str]:
    rows = await stage.waiting()
    return [json.loads(row.body)["task_id"] for row in rows if row.topic == Submit.topic]

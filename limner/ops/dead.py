"""The dead commands: what could not be handled, why, and sending it again."""

import base64
from typing import Any

from limner.core.errors import Conflict, NotFound
from limner.core.unit import Commit, Units
from limner.storage.sql.messaging import DeadLetter, settle_dead_letter

PAGE = 200


async def listing(*, settled_too: bool) -> list[dict[str, Any]]:
    """Give dead letters, newest first, at most ``PAGE``."""
    query = DeadLetter.all() if settled_too else DeadLetter.filter(state="open")
    return [_row(letter) for letter in await query.order_by("-id").limit(PAGE)]


async def show(ident: str) -> dict[str, Any]:
    """Give one dead letter with its body; ``body`` is text, or base64 if it is not UTF-8."""
    letter = await _found(ident)
    raw = bytes(letter.body)
    try:
        body, encoding = raw.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(raw).decode(), "base64"
    return {**_row(letter), "body": body, "encoding": encoding}


async def retry(units: Units, ident: str) -> int:
    """Send one again, or ``all`` open ones; gives how many."""
    letters = (
        await DeadLetter.filter(state="open").order_by("id")
        if ident == "all"
        else [await _found(ident)]
    )
    for letter in letters:
        await _settle(units, letter, again=True)
    return len(letters)


async def discard(units: Units, ident: str) -> None:
    """Settle one without sending it."""
    await _settle(units, await _found(ident), again=False)


async def _settle(units: Units, letter: DeadLetter, *, again: bool) -> None:
    work = units.open("cli")
    settle_dead_letter(work, letter, again=again)
    if await units.commit(work) is not Commit.DONE:
        raise Conflict(f"{letter.id} has been settled before")


async def _found(ident: str) -> DeadLetter:
    letter = await DeadLetter.get_or_none(id=ident)
    if letter is None:
        raise NotFound(f"there is no dead letter {ident}")
    return letter


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "state": letter.state,
        "consumer": letter.consumer,
        "topic": letter.topic,
        "message_id": letter.message_id,
        "app_id": letter.app_id,
        "attempt": letter.attempt,
        "reason": letter.reason,
        "detail": letter.detail,
        "trace_id": letter.trace_id,
        "created_at": letter.created_at.isoformat().replace("+00:00", "Z"),
    }

"""What an account asks for while it is deleted: nothing of it may stay behind."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from limner.http.api import me
from limner.storage.sql.accounts import User
from limner.storage.sql.identities import Identity, find_identity
from tests.fakes import sign_ins
from tests.fakes.front import Stage
from tests.fakes.issuer import Issuer
from tests.fakes.sign_ins import linking, user_with

issuer, stage = sign_ins.issuer, sign_ins.oauth_stage


def deleting_first(
    stage: Stage, user: User, function: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    """Give the function with a deletion of the account just before it."""

    async def wrapped(*given: Any, **named: Any) -> Any:
        admin = await stage.admin()
        assert (await admin.delete(f"/api/users/{user.id}")).status == 204
        return await function(*given, **named)

    return wrapped


async def test_a_deleted_account_gets_no_name_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await user_with(stage, "anna@example.com")
    client = await stage.signed_in(user)
    later = deleting_first(stage, user, me._check_timezone)
    monkeypatch.setattr(me, "_check_timezone", later)
    body = {"name": "Anna Person", "timezone": "Europe/Berlin"}
    assert (await client.patch("/api/me", json=body)).status == 409
    row = await User.get(id=user.id)
    assert (row.state, row.name, row.timezone) == ("deleted", "", "UTC")


async def test_a_deleted_account_keeps_no_identity_from_who_comes_later(
    stage: Stage, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await user_with(stage, "anna@example.com")
    one = await linking(stage, issuer, user)
    approved = issuer.approve(await one.link())
    later = deleting_first(stage, user, find_identity)
    with monkeypatch.context() as patched:
        patched.setattr("limner.http.auth.oauth_accounts.find_identity", later)
        assert (await one.back(approved)).status == 409
    assert not await Identity.exists()
    again = await sign_ins.browser(stage, issuer)
    assert (await again.sign_in()).status == 303
    assert (await again.session()) is not None

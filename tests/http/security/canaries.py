"""Secrets that are driven through the front, and everything they could have leaked into."""

import base64
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyotp
import structlog
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from limner.core import logs
from limner.http.auth import csrf
from tests.fakes.front import Stage
from tests.fakes.issuer import Issuer
from tests.fakes.letters import Letters
from tests.fakes.pages import csrf_token
from tests.fakes.sign_ins import browser, parameters

Client = TestClient[Any, Any]
EMAIL = "canary-address@birds.test"
PASSWORD = "canary heron 7Q at the window"
SECOND = "canary bittern 8R in the reeds"
TYPED = "canary that was typed by mistake"
STORED = "canary-value-of-a-stored-secret"
KEYS = ("canary-idempotency-0001", "canary-idempotency-0002")


@dataclass
class Canaries:
    """Secrets by what they are; ``answers`` are the bodies of all problems."""

    secrets: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    frames: str = ""

    def note(self, **secrets: str) -> None:
        """Remember secrets, none of them empty."""
        assert all(secrets.values())
        self.secrets |= secrets

    async def seen(self, answer: ClientResponse) -> ClientResponse:
        """Keep a problem's body."""
        if answer.status >= 400:
            self.problems.append(await answer.text())
        return answer


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """Log as the service does, at its most talkative, and give what is written."""
    root, config = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in logs.NOISY}
    stream = io.StringIO()
    logs.configure("debug", stream=stream, json=True)
    try:
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, was in quiet.items():
            logging.getLogger(name).setLevel(was)
        structlog.configure(**config)
        logs._is_debug = True


async def register(stage: Stage, letters: Letters, found: Canaries, client: Client) -> None:
    """Make the account, with a link that was mailed."""
    body = {"email": EMAIL, "password": PASSWORD, "name": "Canary"}
    sent = {"Idempotency-Key": KEYS[0]}
    for _ in range(2):
        answer = await client.post("/api/auth/register", json=body, headers=sent)
        assert answer.status == 201
    token = await letters.token()
    await client.get("/verify-email", params={"token": token}, headers={"Accept": "text/html"})
    assert (await client.post("/api/auth/verify-email", json={"token": token})).status == 200
    await found.seen(await client.post("/api/auth/verify-email", json={"token": token}))
    found.note(password=PASSWORD, verify_token=token, idempotency_1=KEYS[0], typed=TYPED)


async def sign_in(found: Canaries, client: Client, **more: str) -> dict[str, str]:
    """Sign in with the password that counts now."""
    body = {"email": EMAIL, "password": found.secrets["password"], **more}
    answer = await found.seen(await client.post("/api/auth/login", json=body))
    return dict(await answer.json()) if answer.status == 200 else {}


async def use_tokens(found: Canaries, client: Client) -> None:
    """Sign in wrongly and rightly, refresh, and use a refresh token again."""
    wrong = {"email": EMAIL, "password": TYPED}
    await found.seen(await client.post("/api/auth/login", json=wrong))
    pair = await sign_in(found, client)
    found.note(access_1=pair["access_token"], refresh_1=pair["refresh_token"])
    body = {"refresh_token": pair["refresh_token"]}
    following = await (await client.post("/api/auth/refresh", json=body)).json()
    found.note(access_2=following["access_token"], refresh_2=following["refresh_token"])
    reused = await found.seen(await client.post("/api/auth/refresh", json=body))
    assert reused.status == 401


async def use_second_factor(stage: Stage, found: Canaries, client: Client) -> None:
    """Set a second factor up, and sign in with its codes."""
    pair = await sign_in(found, client)
    headers = {"Authorization": f"Bearer {pair['access_token']}"}
    found.note(access_3=pair["access_token"], refresh_3=pair["refresh_token"])
    password = {"password": found.secrets["password"]}
    made = await (await client.post("/api/me/totp", json=password, headers=headers)).json()
    code = pyotp.TOTP(made["secret"]).at(stage.clock.now())
    answer = await client.post("/api/me/totp/confirm", json={"code": code}, headers=headers)
    recovery = (await answer.json())["recovery_codes"]
    found.note(totp_secret=made["secret"], recovery_1=recovery[0], recovery_2=recovery[1])
    assert await sign_in(found, client) == {}
    assert await sign_in(found, client, totp="canary-wrong-code") == {}
    pair = await sign_in(found, client, totp=recovery[0])
    found.note(access_4=pair["access_token"], refresh_4=pair["refresh_token"])
    assert await sign_in(found, client, totp=recovery[0]) == {}


async def reset_password(letters: Letters, found: Canaries, client: Client) -> None:
    """Set another password by a mailed link; the link is tried a second time."""
    await letters.fetch()
    await client.post("/api/auth/password/forgot", json={"email": EMAIL})
    token = await letters.token()
    await client.get("/reset-password", params={"token": token}, headers={"Accept": "text/html"})
    body = {"token": token, "password": SECOND}
    assert (await client.post("/api/auth/password/reset", json=body)).status == 204
    await found.seen(await client.post("/api/auth/password/reset", json=body))
    found.note(reset_token=token, new_password=SECOND)


async def use_admins_secrets(stage: Stage, found: Canaries) -> None:
    """Make a key, store a secret, sign a link and begin sessions, as the owner."""
    key = await stage.key("admin")
    admin = await stage.client(key)
    body = {"name": "canary", "scopes": ["tasks:read"]}
    for _ in range(2):
        made = await admin.post("/api/keys", json=body, headers={"Idempotency-Key": KEYS[1]})
        assert made.status == 201
    found.note(key_1=key, key_2=(await made.json())["key"], idempotency_2=KEYS[1])
    assert (await admin.put("/api/settings/secrets/acme", json={"value": STORED})).status == 204
    link = await stage.link()
    person = await stage.client()
    await person.get(f"/sign-in/{link}", allow_redirects=False)
    used = await found.seen(await person.get(f"/sign-in/{link}", allow_redirects=False))
    assert used.status == 401
    cookie = next(one.value for one in person.session.cookie_jar if one.key == "limner_session")
    page = await (await person.get("/tasks", headers={"Accept": "text/html"})).text()
    token = csrf_token(page)
    await stage.front.objects.put("jobs/a/1", b"x", "image/png", size_limit_bytes=10)
    signed = stage.path(await stage.front.objects.presign("GET", "jobs/a/1", 60))
    assert (await admin.get(signed)).status == 200
    found.note(stored=STORED, sign_in_link=link, cookie=cookie, csrf=token)
    found.note(
        **{f"signed_{name}": one for name, one in parameters(signed).items() if len(one) > 20}
    )


async def use_oauth(stage: Stage, issuer: Issuer, found: Canaries) -> None:
    """Sign in by a provider, and come back a second time."""
    one = await browser(stage, issuer)
    location = await one.begin("/tasks")
    back = issuer.approve(location)
    query = parameters(back)
    found.note(oauth_state=query["state"], oauth_code=query["code"])
    assert (await one.back(back)).status == 303
    assert (await found.seen(await one.back(back))).status >= 400
    values = {one.key: one.value for one in one.client.session.cookie_jar}
    found.note(oauth_cookie=values["limner_session"])


async def drive(stage: Stage, issuer: Issuer, found: Canaries) -> None:
    """Use every kind of secret as it is meant to be used, and wrongly."""
    letters, client = Letters(stage), await stage.client()
    await register(stage, letters, found, client)
    await use_tokens(found, client)
    await use_second_factor(stage, found, client)
    await reset_password(letters, found, client)
    await use_admins_secrets(stage, found)
    await use_oauth(stage, issuer, found)


def misplaced(secret: str) -> list[dict[str, Any]]:
    """Give requests that carry a secret where it does not belong."""
    printable = secret.isprintable() and secret.isascii()
    return [
        {"params": {"token": secret, "code": secret, "state": secret, "cursor": secret}},
        {"json": {"email": secret, "password": secret, "token": secret, "name": [secret]}},
        {"headers": {"Authorization": f"Bearer {secret}", "Accept": "text/html"}},
        {"headers": {"Cookie": f"limner_session={secret}; limner_visitor={secret}"}}
        if printable and " " not in secret
        else {},
        {"headers": {"Idempotency-Key": secret, csrf.HEADER: secret, "Last-Event-ID": secret}},
    ]


def forms_of(secret: str) -> set[str]:
    """Give the forms that a secret could be found in: as it is, in JSON, its bytes in base64."""
    plain = secret.encode()
    return {
        secret,
        json.dumps(secret)[1:-1],
        base64.b64encode(plain).decode().rstrip("="),
        base64.urlsafe_b64encode(plain).decode().rstrip("="),
        plain.hex(),
    }


def leaks(found: Canaries, text: str, *, but: tuple[str, ...] = ()) -> list[str]:
    """Give the names of the secrets that ``text`` holds."""
    return [
        name
        for name, secret in found.secrets.items()
        if name not in but and any(form in text for form in forms_of(secret))
    ]


def bytes_of(folder: Path) -> str:
    """Give everything that the database's files hold, byte by byte as characters."""
    return "".join(path.read_bytes().decode("latin-1") for path in folder.glob("front.db*"))

"""One object of every kind that a route names by its id, and a body that each route takes."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from tortoise import Tortoise

from limner.core.ids import new_id
from limner.http.auth import csrf
from limner.http.examples import Examples
from limner.http.routes import Route
from limner.http.table import ROUTES
from limner.storage.sql.accounts import ApiKey, User
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.identities import Identity
from limner.storage.sql.jobs import Job
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.messaging import DeadLetter
from limner.storage.sql.notifications import Notification
from limner.storage.sql.providers import Provider
from limner.storage.sql.sessions import Session
from limner.storage.sql.sources import Source
from limner.storage.sql.suppressions import Suppression
from tests.fakes.front import PROVIDER, Stage

# What an id in a path names. A new route with an id and without a row here fails a test.
KINDS = {
    "/account/keys/": "key",
    "/account/notifications/": "notification",
    "/account/security/identities/": "identity",
    "/account/sessions/": "session",
    "/api/comments/": "comment",
    "/api/deliveries/": "delivery",
    "/api/generate/": "job",
    "/api/identities/": "identity",
    "/api/keys/": "key",
    "/api/mailbox/": "mail",
    "/api/ops/dead-letters/": "letter",
    "/api/providers/": "provider",
    "/api/sessions/": "session",
    "/api/sources/": "source",
    "/api/suppressions/": "suppression",
    "/api/tasks/": "task",
    "/api/users/": "user",
    "/mailbox/": "mail",
    "/tasks/": "task",
}
OWNED = frozenset(
    {"comment", "delivery", "identity", "job", "key", "notification", "session", "source", "task"}
)
"""Kinds that belong to one account; the others are the service's own, for its administrators."""
UNNAMED = frozenset(
    {
        "/api/settings/secrets/{name}",
        "/auth/{name}/callback",
        "/auth/{name}/link",
        "/auth/{name}/login",
        "/o/{key:.+}",
        "/r/{signed}",
        "/sign-in/{token}",
        "/static/{name}",
        "/unsubscribe/{signed}",
    }
)
"""Paths with a part that is the caller's credential or a name of the service's own."""
PARTS = {"name": "google", "token": "x" * 43, "signed": "none", "key": "a/b", "n": "0"}
RAW_MAIL = (
    b"From: a@x.test\r\nTo: anna@x.test\r\nSubject: private\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=part\r\n\r\n--part\r\n\r\nprivate words\r\n"
    b"--part\r\nContent-Type: text/plain\r\n"
    b"Content-Disposition: attachment; filename=private.txt\r\n\r\nprivate file\r\n--part--\r\n"
)


def kind_of(route: Route) -> str | None:
    """Give what the id in a route's path names, or None for a path without an id."""
    if "{id}" not in route.path:
        return None
    return KINDS[route.path.partition("{id}")[0]]


def path_of(route: Route, idents: Mapping[str, str]) -> str:
    """Give a path to ask for, with the id of an object of the right kind."""
    kind = kind_of(route)
    path = route.path.replace("{id}", idents[kind] if kind else "")
    path = path.replace(r"{n:\d{1,4}}", "{n}").replace("{key:.+}", "{key}")
    return path.format_map(PARTS)


def absent() -> dict[str, str]:
    """Give ids of which there is nothing."""
    return {kind: new_id(kind) for kind in set(KINDS.values())}


async def belongings(stage: Stage, user: User, task_state: str = "needs_review") -> dict[str, str]:
    """Store one object of every kind, those that are owned for ``user``; give their ids."""
    now = stage.clock.now()
    task = await stage.task(task_state, user_id=user.id, email=f"to-{user.id}@x.test")
    idents = absent() | {"user": user.id, "task": task.id, "comment": task.comment_id}
    owned: dict[str, Any] = {"user_id": user.id, "created_at": now}
    config = {name: one for name, one in PROVIDER.items() if name not in {"name", "kind"}}
    await stage.front.objects.put("mail/1", RAW_MAIL, "message/rfc822", size_limit_bytes=1000)
    await stage.add(
        Source(id=idents["source"], state="active", user_id=user.id, name="mine", connector="demo"),
        Job(id=idents["job"], state="queued", user_id=user.id, prompt="private words"),
        Delivery(
            id=idents["delivery"],
            state="unknown",
            user_id=user.id,
            task_id=task.id,
            address=f"to-{user.id}@x.test",
            message_id=f"<{idents['delivery']}@x.test>",
        ),
        Provider(
            id=idents["provider"],
            state="active",
            user_id=user.id,
            name="acme",
            config=config,
        ),
        ApiKey(id=idents["key"], prefix="lim_", sha256="0" * 64, scopes=["admin"], **owned),
        Session(
            id=idents["session"],
            kind="web",
            sha256="1" * 64,
            last_seen_at=now,
            idle_until=now + timedelta(days=1),
            expires_at=now + timedelta(days=1),
            **owned,
        ),
        *_identities(idents, owned),
        Notification(id=idents["notification"], kind="key.created", **owned),
        MailboxMail(
            id=idents["mail"],
            message_id=f"<{idents['mail']}@x.test>",
            sender="a@x.test",
            recipient=f"to-{user.id}@x.test",
            raw_key="mail/1",
            size_bytes=len(RAW_MAIL),
            created_at=now,
        ),
        Suppression(
            id=idents["suppression"],
            address=f"to-{user.id}@x.test",
            reason="manual",
            created_at=now,
        ),
        DeadLetter(
            id=idents["letter"],
            consumer="intent",
            topic="intent.read",
            message_id="m",
            body=b"{}",
            attempt=1,
            reason="poison",
            created_at=now,
        ),
    )
    return idents


def _identities(idents: Mapping[str, str], owned: Mapping[str, Any]) -> list[Identity]:
    """Give two, because the last way to sign in cannot be removed."""
    return [
        Identity(id=ident, provider="oidc", issuer="https://x.test", subject=ident, **owned)
        for ident in (idents["identity"], new_id("identity"))
    ]


def bodies() -> dict[type[BaseModel], dict[str, Any]]:
    """Give for each model of a body an example that fits it."""
    models = sorted({route.body for route in ROUTES if route.body}, key=lambda one: one.__name__)
    places, document = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas = document["$defs"]
    examples = Examples(schemas)
    return {model: examples.of(places[model, "validation"]) for model in models}


BODIES = bodies()


def body_of(route: Route) -> dict[str, Any] | None:
    """Give a body that a route takes, or None if it takes none."""
    return BODIES[route.body] if route.body else None


def changes(route: Route) -> bool:
    """Whether a route's method may change something, by a caller's credential alone."""
    is_signed = any(mark in route.path for mark in csrf.SIGNED)
    return route.method not in csrf.SAFE_METHODS and not is_signed


def name_of(route: Route) -> str:
    """Give how a route is called in a report of a test."""
    return f"{route.method} {route.path}"


async def all_rows() -> dict[str, list[dict[str, Any]]]:
    """Give everything that the database holds."""
    models = [model for app in (Tortoise.apps or {}).values() for model in app.values()]
    return {
        model._meta.db_table: await model.all().order_by(model._meta.pk_attr).values()
        for model in models
    }


def difference(
    before: Mapping[str, list[dict[str, Any]]], after: Mapping[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Give by table the rows that are there on one side only; units' own numbers say nothing."""
    found = {}
    for table, rows in after.items():
        if table == "inbox":
            continue
        changed = [row for row in rows if row not in before[table]]
        changed += [row for row in before[table] if row not in rows]
        if changed:
            found[table] = changed
    return found

"""All actors, one line each; a process that does not run an actor never imports its drivers."""

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from limner.actors.ports import Ports
from limner.core.actor import Actor
from limner.core.errors import Invalid
from limner.core.message import Message

ACTORS: dict[str, str] = {
    "poller": "limner.actors.poller.actor",
    "intent": "limner.actors.intent.actor",
    "submitter": "limner.actors.submitter.actor",
    "status": "limner.actors.status.actor",
    "generator": "limner.actors.generator.actor",
    "mailer": "limner.actors.mailer.actor",
    "scheduler": "limner.actors.scheduler.actor",
    "relay": "limner.actors.relay.actor",
    "sweeper": "limner.actors.sweeper.actor",
}

EVERYWHERE = ("relay", "sweeper")
"""Run in every process that runs any actor."""


def chosen(text: str) -> tuple[str, ...]:
    """Read ``all``, ``none`` or names with commas between; adds ``EVERYWHERE`` to any actor.

    Raises:
        Invalid: a name is not in ``ACTORS``.
    """
    if text == "none":
        return ()
    wanted = list(ACTORS) if text == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in wanted if name not in ACTORS]
    if unknown:
        raise Invalid(
            f"no such actor: {', '.join(unknown)}. There are: {', '.join(ACTORS)}.",
            code="usage",
        )
    return tuple(name for name in ACTORS if name in wanted or name in EVERYWHERE)


def builder(name: str) -> Callable[[Ports], Actor[Any]]:
    """Import an actor's module and give its ``build``."""
    build: Callable[[Ports], Actor[Any]] = import_module(ACTORS[name]).build
    return build


def messages(names: Iterable[str] = ACTORS) -> list[type[Message]]:
    """Give every message class of the actors, by topic.

    They stand in the package's ``messages``, or in the actor's one file.
    """
    found: dict[str, type[Message]] = {}
    for name in names:
        letterbox = f"{ACTORS[name].rpartition('.')[0]}.messages"
        module = import_module(letterbox if find_spec(letterbox) else ACTORS[name])
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Message) and value.topic:
                found[value.topic] = value
    return [found[topic] for topic in sorted(found)]

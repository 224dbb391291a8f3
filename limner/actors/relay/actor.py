"""The relay: publishes delayed messages when they are due, and what a dead process left behind."""

from limner.actors.ports import Ports
from limner.core.actor import Actor, Loop
from limner.core.message import Message


def build(ports: Ports) -> Actor[Message]:
    """The relay needs only the outbox."""
    return Actor(name="relay", loops=(Loop("relay", ports.outbox.relay),))

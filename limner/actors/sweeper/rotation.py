"""Rotation of the keys that sign access tokens, by schedule and without a gap.

A new key is published an hour before it signs, so that whoever keeps our key set has it by then;
the old one stays published until the last token it signed has ended.
"""

from limner.actors.ports import Ports
from limner.actors.sweeper.messages import RotateKeys
from limner.core.logs import get_logger
from limner.core.unit import UnitOfWork
from limner.storage.sql.signing_keys import (
    PUBLISHED_AHEAD_S,
    ROTATED_AFTER_S,
    add_key,
    newest_key,
)

log = get_logger("sweeper")


class Rotator:
    """Adds the next key."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def handle(self, message: RotateKeys, work: UnitOfWork) -> None:
        """Add the next key, unless there is none yet or the newest is of the last day.

        The first is made with the first token. A schedule that fires twice must not end a key
        whose successor nobody has seen.
        """
        newest = await newest_key()
        if newest is None or (work.now - newest.created_at).total_seconds() < ROTATED_AFTER_S:
            return
        key = add_key(work, self._ports.sealer, newest, ahead_s=PUBLISHED_AHEAD_S)
        log.info("a new signing key", key=key.id, signs_from=key.signs_from.isoformat())

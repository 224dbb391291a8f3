"""What all aggregates share: identity, owner, trace, state and the counter of their timeline."""

from typing import Any, ClassVar, Self

from tortoise import fields
from tortoise.fields.base import Field
from tortoise.models import Model

from limner.storage.sql.finding import found

ID_LENGTH = 48
TRACE_LENGTH = 32
STATE_LENGTH = 24


class Aggregate(Model):
    """An object with an id, an owner and a trace.

    ``transitions`` maps each state to those it may move to; a state without any has ended.
    ``version`` counts every guarded update, so that an update always changes a row (MariaDB
    counts unchanged rows as 0). With ``has_timeline`` the table has a column ``line_count``, which
    numbers the timeline's lines without gaps. ``noticed`` are states whose owner is told of them.
    """

    kind: ClassVar[str] = ""
    transitions: ClassVar[dict[str, frozenset[str]]] = {}
    has_timeline: ClassVar[bool] = False
    noticed: ClassVar[frozenset[str]] = frozenset()

    id = fields.CharField(ID_LENGTH, primary_key=True)
    user_id = fields.CharField(ID_LENGTH, null=True, db_index=True)
    trace_id = fields.CharField(TRACE_LENGTH, default="")
    state = fields.CharField(STATE_LENGTH)
    version = fields.IntField(default=1)
    created_at = fields.DatetimeField()
    updated_at = fields.DatetimeField()

    class Meta:
        abstract = True

    @classmethod
    def ended(cls, state: str) -> bool:
        """Whether nothing but a person's decision leads out of ``state``."""
        return state in cls.ended_states()

    @classmethod
    def ended_states(cls) -> frozenset[str]:
        """The states an object rests in for good."""
        return frozenset(state for state, onward in cls.transitions.items() if not onward)

    @classmethod
    def allows(cls, before: str, after: str) -> bool:
        """Whether the table has the transition; staying is always allowed."""
        return before == after or after in cls.transitions.get(before, frozenset())

    @classmethod
    async def found(cls, ident: str) -> Self | None:
        """Read one by id from the readers."""
        return await found(cls, ident)


class Leased(Aggregate):
    """An aggregate that a worker holds while an outside effect happens.

    ``token`` rises with every lease (fencing): the final update names it, so that a worker that
    was paused and lost its lease changes nothing.
    """

    token = fields.IntField(default=0)
    lease_until = fields.DatetimeField(null=True)

    class Meta:
        abstract = True


def column_value(model: type[Model], name: str, value: Any, instance: Any = None) -> Any:
    """Give ``value`` as the column's database form."""
    field: Field[Any] = model._meta.fields_map[name]
    return field.to_db_value(value, instance if instance is not None else model)

"""Reconciliation: finding out whether a provider has an order whose submission had no answer.

A provider that can look up our id says so. One that honours idempotency keys is given the same
order again. Of any other nothing can be learned but by luck, and the task stays ``unknown``, where
an operator sees it: never is an order submitted again on a guess.
"""

from limner.actors.submitter.desk import Desk, again, fail
from limner.actors.submitter.messages import Reconcile, Submit
from limner.core.errors import Ambiguous, NotFound, Permanent, Transient
from limner.core.logs import get_logger
from limner.core.provider import Provider, Submitted
from limner.core.unit import UnitOfWork
from limner.storage.sql.tasks import Task

log = get_logger("submitter")

MAX_ATTEMPTS = 10
"""More than a submission gets: a provider that lost an answer is often down for a while."""

FIRST_LOOK_S = 10.0
ABSENCE_S = 20.0
"""An order that is not there counts as never arrived only so long after the doubt began.

What we gave up waiting for may still be on its way through a queue at the provider's door.
"""


class Reconciler:
    """Settles tasks that are ``unknown`` because their submission had no answer."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def handle(self, message: Reconcile, work: UnitOfWork) -> None:
        """Look the order up: found goes on, certainly absent is submitted, else see the module."""
        task = await Task.found(message.task_id)
        if task is None:
            raise NotFound(f"there is no task {message.task_id}")
        work.follow(task.trace_id)
        if not in_doubt(task):
            return
        provider = await self._desk.provider_of(task)
        found = await provider.lookup(task.client_id)
        if isinstance(found, Submitted):
            await self._desk.settle(
                task, found, work, expected="unknown", token=task.token, detail="found by look-up"
            )
        elif found is None:
            self._take_back(task, work)
        elif provider.idempotent:
            await self._resubmit(task, provider, work)
        else:
            raise Transient(found.reason)

    def _take_back(self, task: Task, work: UnitOfWork) -> None:
        waited_s = (work.now - task.updated_at).total_seconds()
        if waited_s < ABSENCE_S:
            work.send(Reconcile(task_id=task.id), after_s=ABSENCE_S - waited_s)
            return
        work.move(
            task,
            expected="unknown",
            to="extracted",
            token=task.token,
            detail="the provider never got it",
        )
        work.send(Submit(task_id=task.id))

    async def _resubmit(self, task: Task, provider: Provider, work: UnitOfWork) -> None:
        """Give the same order again to a provider that will not make it twice."""
        leases = self._desk.ports.leases
        token = await work.begin(task, expected="unknown", to="unknown", lease_s=leases.lease_s)
        try:
            async with leases.keep(task, token):
                submitted = await provider.submit(self._desk.order(task, task.provider_id))
        except (Ambiguous, Transient) as error:
            work.change(task, guard={"state": "unknown", "token": token}, lease_until=None)
            if not again(error, work, MAX_ATTEMPTS):
                give_up(task, error.detail, work)
        except Permanent as error:
            fail(task, error.detail, work, expected="unknown", token=token)
        else:
            await self._desk.settle(
                task,
                submitted,
                work,
                expected="unknown",
                token=token,
                detail="submitted again under the same id",
            )

    async def abandon(self, message: Reconcile, reason: str, work: UnitOfWork) -> None:
        """Leave the task as it is, and say so where an operator looks."""
        task = await Task.found(message.task_id)
        if task is not None and in_doubt(task):
            work.follow(task.trace_id)
            give_up(task, reason, work)


def in_doubt(task: Task) -> bool:
    """Say whether it is the submission that nobody knows of, and not the mail of a result."""
    return task.state == "unknown" and not task.provider_job_id and not task.result_key


def give_up(task: Task, reason: str, work: UnitOfWork) -> None:
    """Tell operators, in the timeline, the audit log and the log, that a person must decide."""
    text = f"needs an operator: whether {task.provider} has it cannot be found out ({reason})"
    log.warning("a submission stays unknown", task_id=task.id, error=reason)
    work.note(task, "log", {"message": text})
    work.audit(
        "task.unresolved",
        subject=task.id,
        data={"provider": task.provider, "client_id": task.client_id, "reason": reason},
    )

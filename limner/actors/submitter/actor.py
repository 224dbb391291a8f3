"""The submitter: hands a task to whoever makes its picture, once.

A task for the generator becomes a job in one unit. For any other provider the client's id, the
lease and its token are committed before the call, and the lease stays until it is certain how the
call ended: a task that is ``extracted`` and still has a lease was being submitted when its
process ended. The sweeper makes it ``unknown``, and ``Reconciler`` finds out. Nothing is ever
submitted again on a guess.
"""

from typing import Any

from limner.actors.generator.messages import Ring
from limner.actors.generator.rules import Wanted, model_name
from limner.actors.ports import Ports
from limner.actors.submitter.desk import (
    BACKOFF,
    Desk,
    again,
    cost_of,
    fail,
)
from limner.actors.submitter.messages import Reconcile, Submit
from limner.actors.submitter.reconciliation import FIRST_LOOK_S, MAX_ATTEMPTS, Reconciler
from limner.actors.submitter.rules import LOCAL, client_id, seed_of
from limner.core.actor import Actor
from limner.core.answers import Limits
from limner.core.defaults import with_defaults
from limner.core.errors import Ambiguous, NotFound, Permanent, Transient
from limner.core.logs import get_logger
from limner.core.provider import Provider
from limner.core.providers.http import SUBMIT_LIMITS
from limner.core.unit import UnitOfWork
from limner.storage.sql.jobs import create_job
from limner.storage.sql.providers import Provider as ProviderRow
from limner.storage.sql.tasks import Task
from limner.storage.sql.users import own_defaults

log = get_logger("submitter")

BOTH = "both"


class Submitter:
    """Submits extracted tasks."""

    def __init__(self, desk: Desk, max_attempts: int) -> None:
        self._desk = desk
        self._max_attempts = max_attempts

    async def handle(self, message: Submit, work: UnitOfWork) -> None:
        """Submit, unless somebody does so now, or did and nobody knows how it ended."""
        task = await Task.found(message.task_id)
        if task is None:
            raise NotFound(f"there is no task {message.task_id}")
        work.follow(task.trace_id)
        if task.state != "extracted" or task.lease_until is not None:
            return
        name = await self._provider_name(task)
        if name == LOCAL:
            self._submit_here(task, work)
            return
        row = await ProviderRow.get_or_none(name=name, state="active")
        problem = "" if row is not None else f"no provider {name}"
        if row is not None and row.media not in {BOTH, task.media}:
            problem = f"the provider {name} makes no {task.media}s"
        if row is None or problem:
            fail(task, problem, work, expected="extracted", token=task.token)
            return
        try:
            provider = await self._desk.provider(row)
        except Permanent as error:
            reason = f"the provider {name}: {error.detail}"
            fail(task, reason, work, expected="extracted", token=task.token)
            return
        await self._submit_there(task, provider, row.id, work)

    async def _provider_name(self, task: Task) -> str:
        """Give the provider that this round began with, else the owner's or the settings' one."""
        if task.provider and task.client_id in {"", client_id(task.id, task.round)}:
            return task.provider
        own = await own_defaults(task.user_id)
        tunables = with_defaults(await self._desk.ports.tunables.current(), own)
        return tunables.video_provider if task.media == "video" else tunables.image_provider

    def _submit_here(self, task: Task, work: UnitOfWork) -> None:
        """Make a job of our own; all of it is one unit, so that no lease is needed."""
        wanted = Wanted(
            media=task.media,
            prompt=task.prompt,
            seed=seed_of(task.id),
            model=model_name(self._desk.ports.settings.generator.model),
        )
        job = create_job(
            work, wanted.columns(), user_id=task.user_id, task_id=task.id, trace_id=task.trace_id
        )
        work.move(
            task,
            expected="extracted",
            to="submitted",
            token=task.token,
            **_fresh(task, LOCAL, ""),
            provider_job_id=job.id,
        )
        work.send(Ring(job_id=job.id))

    async def _submit_there(
        self, task: Task, provider: Provider, provider_id: str, work: UnitOfWork
    ) -> None:
        leases, known = self._desk.ports.leases, task.token
        token = await work.begin(
            task,
            expected="extracted",
            to="extracted",
            lease_s=leases.lease_s,
            **_fresh(task, provider.name, provider_id),
            provider_job_id="",
        )
        if token != known + 1:
            # Somebody took the task after it was read, and did not say how that ended.
            self._doubt(task, token, "two submissions met", work)
            return
        try:
            async with leases.keep(task, token):
                submitted = await provider.submit(self._desk.order(task, provider_id))
        except Ambiguous as error:
            self._doubt(task, token, error.detail, work)
        except Transient as error:
            if again(error, work, self._max_attempts):
                guard = {"state": "extracted", "token": token}
                work.change(task, guard=guard, lease_until=None)
            else:
                fail(task, error.detail, work, expected="extracted", token=token)
        except Permanent as error:
            fail(task, error.detail, work, expected="extracted", token=token)
        else:
            await self._desk.settle(task, submitted, work, expected="extracted", token=token)

    def _doubt(self, task: Task, token: int, reason: str, work: UnitOfWork) -> None:
        """Say that nobody knows whether the provider has the order, and have it looked up."""
        log.warning("a submission is in doubt", task_id=task.id, error=reason)
        work.move(task, expected="extracted", to="unknown", token=token, detail=reason)
        work.send(Reconcile(task_id=task.id), after_s=FIRST_LOOK_S)

    async def abandon(self, message: Submit, reason: str, work: UnitOfWork) -> None:
        """Fail a task that was not submitted; one that may have been is left to the sweeper."""
        task = await Task.found(message.task_id)
        if task is None or task.state != "extracted" or task.lease_until is not None:
            return
        work.follow(task.trace_id)
        fail(task, reason, work, expected="extracted", token=task.token)


def _fresh(task: Task, provider: str, provider_id: str) -> dict[str, Any]:
    """Give a task's columns for a new submission, without what an earlier round left."""
    return {
        "client_id": client_id(task.id, task.round),
        "provider": provider,
        "provider_id": provider_id,
        "result_key": "",
        "result_type": "",
        "poster_key": "",
        "error": "",
        "cost": cost_of(task),
    }


def build(ports: Ports, limits: Limits = SUBMIT_LIMITS) -> Actor[Submit]:
    """The submitter needs the outgoing client, leases, secrets, settings and the signer.

    ``limits`` are those of one submission.
    """
    desk = Desk(ports, limits)
    return Actor(
        name="submitter",
        inbox=Submit,
        handler=Submitter(desk, ports.settings.max_retries + 1),
        others={Reconcile: Reconciler(desk)},
        max_attempts=MAX_ATTEMPTS,
        backoff=BACKOFF,
    )

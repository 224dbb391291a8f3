"""The status actor: follows a submitted task to its end and takes the result over.

A provider is asked after 15 s, then at doubling intervals up to 60 s, 20 times in all (settings
``status_*``): check n of a round sends check n + 1, one chain per round. What calls in between
(check 0) looks once and leaves the chain alone: it ends tasks but moves none to ``running``, for a
chain whose unit met a changed state would be dropped, and its next check with it.
"""

from limner.actors.mailer.messages import Deliver
from limner.actors.ports import Ports
from limner.actors.status.messages import Check
from limner.actors.status.result import Result, fetch
from limner.actors.status.rules import check_delay_s
from limner.actors.submitter.rules import LOCAL
from limner.core.actor import Actor
from limner.core.errors import EngineUnavailable, NotConfigured, Permanent, Transient
from limner.core.logs import get_logger
from limner.core.provider import Progress, Provider
from limner.core.providers.http import open_provider
from limner.core.providers.mapping import ProviderConfig
from limner.core.unit import UnitOfWork
from limner.storage.sql import jobs
from limner.storage.sql.deliveries import Delivery, create_delivery, message_domain
from limner.storage.sql.jobs import Job
from limner.storage.sql.providers import provider_seen
from limner.storage.sql.tasks import Task

log = get_logger("status")

OPEN = ("submitted", "running")
EXHAUSTED = "max retries exceeded"
ERROR_LENGTH = 1000
TIMEOUT_S = 360.0
"""A result may take 300 s to come."""


class Status:
    """Checks on tasks."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._domain = message_domain(ports.settings.mail_from)

    async def handle(self, message: Check, work: UnitOfWork) -> None:
        """Look how far the task is; a check of a task or round that is over does nothing."""
        task = await _due(message)
        if task is None:
            return
        work.follow(task.trace_id)
        if task.state == "unknown":
            # From here an unknown mail could not be told from an unknown job: go back first.
            work.move(task, expected="unknown", to="submitted", detail="asked about again")
            work.send(Check(task_id=task.id, round=task.round, n=max(1, message.n)))
        elif task.provider == LOCAL:
            await self._look_at_job(task, work)
        else:
            await self._ask(task, message, work)

    async def _look_at_job(self, task: Task, work: UnitOfWork) -> None:
        """Take over what the generator says; it calls at every change, so that none is missed."""
        job = await Job.found(task.provider_job_id)
        if job is None:
            _fail(task, f"the job {task.provider_job_id} is gone", work)
        elif job.state == jobs.RUNNING and task.state == "submitted":
            work.move(task, expected="submitted", to="running")
        elif job.state == jobs.SUCCEEDED:
            output = job.outputs[0] if job.outputs else {}
            result = Result(str(output.get("key") or ""), str(output.get("content_type") or ""))
            if result.key:
                poster = str(output.get("poster_key") or "")
                await self._succeed(task, result, work, poster)
            else:
                _fail(task, "the job has no output", work)
        elif job.state in {jobs.FAILED, jobs.CANCELLED}:
            _fail(task, job.error or f"the job was {job.state}", work)

    async def _ask(self, task: Task, message: Check, work: UnitOfWork) -> None:
        """Ask the provider; an answer that does not come counts as a check like any other."""
        try:
            provider = await self._provider(task)
            progress = await provider.status(task.provider_job_id)
            if progress.state == "succeeded":
                result = await self._result(task, progress, message, work)
                await self._succeed(task, result, work)
                return
        except EngineUnavailable:
            raise
        except Transient as error:
            log.info("no status", task_id=task.id, n=message.n, error=error.detail)
            await self._go_on(task, message, work, error.retry_after_s, error.detail)
            return
        except Permanent as error:
            _fail(task, error.detail, work)
            return
        if progress.state == "failed":
            _fail(task, progress.error or f"{task.provider} failed without a reason", work)
        elif message.n > 0:
            ended = await self._go_on(task, message, work, progress.retry_after_s)
            if not ended and progress.state == "running" and task.state == "submitted":
                work.move(task, expected="submitted", to="running")

    async def _go_on(
        self,
        task: Task,
        message: Check,
        work: UnitOfWork,
        retry_after_s: float | None = None,
        error: str = "",
    ) -> bool:
        """Send the chain's next check, or fail after its last; True if it was that."""
        if message.n == 0:
            return False
        tunables = await self._ports.tunables.current()
        if message.n >= tunables.status_max_attempts:
            _fail(task, f"{EXHAUSTED}: {error}" if error else EXHAUSTED, work)
            return True
        n = message.n + 1
        after_s = check_delay_s(
            n, tunables.status_first_delay_s, tunables.status_max_delay_s, retry_after_s
        )
        work.send(Check(task_id=task.id, round=task.round, n=n), after_s=after_s)
        return False

    async def _provider(self, task: Task) -> Provider:
        """Open the provider that has the job, even if it has been deleted since.

        Raises:
            Permanent: there is none, or its mapping or secrets are no longer usable.
        """
        row = await provider_seen(self._ports.database, task.provider_id)
        if row is None:
            raise NotConfigured(f"no provider {task.provider}")
        return await open_provider(
            row.name,
            ProviderConfig.read(row.config),
            outgoing=self._ports.outgoing,
            fill_secrets=self._ports.secrets.fill,
            metrics=self._ports.metrics,
        )

    async def _result(
        self, task: Task, progress: Progress, message: Check, work: UnitOfWork
    ) -> Result:
        """Fetch what the provider made.

        The key names the message, so that two checks that meet write two objects and the one that
        is not taken is swept, while a message that comes again writes the same one.

        Raises:
            Transient, Permanent: as ``fetch``.
        """
        if not progress.result_url:
            raise Permanent(f"{task.provider} names no result", code="result_missing")
        tunables = await self._ports.tunables.current()
        mark = work.envelope.message_id[-8:] if work.envelope else "0"
        return await fetch(
            progress.result_url,
            f"results/{task.id}/{task.round}-{message.n}-{mark}",
            outgoing=self._ports.outgoing,
            objects=self._ports.objects,
            max_bytes=tunables.upload_max_bytes,
        )

    async def _succeed(
        self, task: Task, result: Result, work: UnitOfWork, poster_key: str = ""
    ) -> None:
        """End the making and begin the mailing, in one unit."""
        mails = await Delivery.filter(task_id=task.id).count()
        work.move(
            task,
            expected=OPEN,
            to="succeeded",
            result_key=result.key,
            result_type=result.content_type,
            poster_key=poster_key,
            error="",
        )
        delivery = create_delivery(work, task, self._domain, mails + 1)
        work.send(Deliver(delivery_id=delivery.id))

    async def abandon(self, message: Check, reason: str, work: UnitOfWork) -> None:
        """Keep the chain alive; a task of the generator has none and fails."""
        task = await _due(message)
        if task is None or task.state not in OPEN:
            return
        work.follow(task.trace_id)
        if task.provider == LOCAL:
            _fail(task, f"the result could not be taken over: {reason}", work)
        else:
            await self._go_on(task, message, work, error=reason)


async def _due(message: Check) -> Task | None:
    """Give the task, if it is waiting for its provider in the message's round."""
    task = await Task.found(message.task_id)
    if task is None or task.round != message.round:
        return None
    lost = task.state == "unknown" and task.provider_job_id and not task.result_key
    return task if lost or task.state in OPEN else None


def _fail(task: Task, reason: str, work: UnitOfWork) -> None:
    work.move(task, expected=OPEN, to="failed", detail=reason, error=reason[:ERROR_LENGTH])


def build(ports: Ports) -> Actor[Check]:
    """The status actor needs the outgoing client, the object store, secrets and settings."""
    return Actor(name="status", inbox=Check, handler=Status(ports), timeout_s=TIMEOUT_S)

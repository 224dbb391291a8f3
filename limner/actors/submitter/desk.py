"""The desk: what the submitter's handlers share, and how a task becomes an order."""

from dataclasses import dataclass

from limner.actors.generator.rules import SIDE_PX, STEPS
from limner.actors.ports import Ports
from limner.actors.status.messages import Check
from limner.actors.status.rules import check_delay_s
from limner.actors.submitter.rules import CALLBACK, client_id, price, seed_of
from limner.core.answers import Limits
from limner.core.backoff import Backoff
from limner.core.errors import LimnerError, NotConfigured, Transient
from limner.core.provider import ENDED, Order, Provider, Submitted
from limner.core.providers.http import SUBMIT_LIMITS, open_provider
from limner.core.providers.mapping import ProviderConfig
from limner.core.unit import UnitOfWork
from limner.storage.sql.providers import Provider as ProviderRow
from limner.storage.sql.tasks import Task

BACKOFF = Backoff(first_s=5.0, cap_s=60.0)
ERROR_LENGTH = 1000


@dataclass(frozen=True)
class Desk:
    """What it takes to deal with providers."""

    ports: Ports
    limits: Limits = SUBMIT_LIMITS

    async def provider(self, row: ProviderRow) -> Provider:
        """Open a stored provider.

        Raises:
            Invalid: its configuration, as it is stored, is not valid.
            NotConfigured: a secret that it names is missing.
        """
        return await open_provider(
            row.name,
            ProviderConfig.read(row.config),
            outgoing=self.ports.outgoing,
            fill_secrets=self.ports.secrets.fill,
            metrics=self.ports.metrics,
            limits=self.limits,
        )

    async def provider_of(self, task: Task) -> Provider:
        """Open the provider that a task was sent to, even if it has been deleted since.

        Raises:
            NotConfigured: there is none.
        """
        row = await ProviderRow.found(task.provider_id)
        if row is None:
            raise NotConfigured(f"no provider {task.provider}")
        return await self.provider(row)

    def order(self, task: Task, provider_id: str) -> Order:
        """Give a task's order, the same at every call: resubmitting it repeats it exactly."""
        token = self.ports.signer.token(
            CALLBACK, {"provider": provider_id, "task": task.id, "round": task.round}
        )
        base_url = self.ports.settings.base_url
        return Order(
            id=client_id(task.id, task.round),
            prompt=task.prompt,
            kind=task.media,
            width=SIDE_PX,
            height=SIDE_PX,
            seed=seed_of(task.id),
            callback_url=f"{base_url}/api/providers/{provider_id}/callback/{token}",
        )

    async def settle(
        self,
        task: Task,
        submitted: Submitted,
        work: UnitOfWork,
        *,
        expected: str,
        token: int,
        detail: str = "",
    ) -> None:
        """Note the provider's job and ask for it in time, at once if it has ended already."""
        tunables = await self.ports.tunables.current()
        after_s = check_delay_s(1, tunables.status_first_delay_s, tunables.status_max_delay_s)
        work.move(
            task,
            expected=expected,
            to="submitted",
            token=token,
            detail=detail,
            provider_job_id=submitted.job_id,
        )
        work.send(
            Check(task_id=task.id, round=task.round, n=1),
            after_s=0.0 if submitted.state in ENDED else after_s,
        )


def again(error: LimnerError, work: UnitOfWork, max_attempts: int) -> bool:
    """Have the message come again after a safe failure; bury it and give False at the last one.

    The loop would do that too, but drop what the unit has collected, and with it the end of the
    lease.
    """
    attempt = work.envelope.attempt if work.envelope else 1
    if attempt >= max_attempts:
        work.bury("attempts_exhausted", error.detail)
        return False
    asked_s = error.retry_after_s if isinstance(error, Transient) else None
    work.retry(error.detail, after_s=BACKOFF.delay_s(attempt) if asked_s is None else asked_s)
    return True


def cost_of(task: Task) -> int:
    """Give a task's price in credits."""
    return price(task.media, width=SIDE_PX, height=SIDE_PX, steps=STEPS)


def fail(
    task: Task, reason: str, work: UnitOfWork, *, expected: str, token: int | None = None
) -> None:
    """End a task with a reason that its owner reads."""
    work.move(
        task,
        expected=expected,
        to="failed",
        token=token,
        detail=reason,
        error=reason[:ERROR_LENGTH],
    )

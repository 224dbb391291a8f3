"""Any HTTP provider, by its mapping; the port is ``limner.core.provider``.

Which answers leave the order untaken is the heart of it. 429 and 503 say "not now", 408 and 425
that the request was not read (RFC 9110 section 15.5.9, RFC 8470 section 5.2); other 4xx refuse it.
A 409 can mean that the same key is being worked on, a 5xx that it broke after it had begun, and a
success without a job id that we shall never find the job: all these are ambiguous.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urljoin

from limner.core.answers import JSON_LIMITS, Answer, Limits
from limner.core.errors import Ambiguous, Invalid, Permanent, Refused, Transient
from limner.core.failpoints import declare, step
from limner.core.jsonpath import fill
from limner.core.metrics import Metrics
from limner.core.outgoing import Outgoing
from limner.core.provider import Order, Progress, Submitted, Unknown
from limner.core.providers.mapping import Extracted, ProviderConfig, extract

SUBMIT = declare("provider.submit")
STATUS = declare("provider.status")

SUBMIT_LIMITS = Limits(total_s=30.0)
REDIRECTS = 3

_NOT_TAKEN = frozenset({408, 425, 429, 503})
_IN_PROGRESS = 409
_NOT_FOUND = 404

FillSecrets = Callable[[str], Awaitable[str]]


class HttpProvider:
    """One provider; ``headers`` are those of the mapping with their secrets filled in."""

    def __init__(
        self,
        name: str,
        config: ProviderConfig,
        headers: dict[str, str],
        outgoing: Outgoing,
        metrics: Metrics,
        limits: Limits = SUBMIT_LIMITS,
    ) -> None:
        self._name = name
        self._config = config
        self._headers = headers
        self._outgoing = outgoing
        self._metrics = metrics
        self._limits = limits

    @property
    def name(self) -> str:
        return self._name

    @property
    def idempotent(self) -> bool:
        return self._config.idempotent

    async def submit(self, order: Order) -> Submitted:
        try:
            submitted = await self._submit(order)
        except Ambiguous:
            self._count("ambiguous")
            raise
        except Transient:
            self._count("not_taken")
            raise
        except Permanent:
            self._count("refused")
            raise
        self._count("submitted")
        return submitted

    async def _submit(self, order: Order) -> Submitted:
        answer = await self.post(order)
        extracted = await self._read_submission(answer)
        if extracted.job_id is None:
            raise Ambiguous(f"{self._name} answered {answer.status} without a job id")
        return Submitted(extracted.job_id, extracted.state)

    async def request(self, order: Order) -> tuple[str, dict[str, Any]]:
        """Give the URL and the body that submit an order.

        Raises:
            Invalid: the mapping's request points to what is not there.
        """
        body = await fill(self._config.request, order.values())
        return f"{self._config.base_url}{self._config.submit_path}", body

    async def post(self, order: Order) -> Answer:
        """Submit an order and give the answer, whatever it is.

        Raises:
            Transient, Permanent, Ambiguous: as ``Outgoing.request``.
        """
        url, body = await self.request(order)
        async with step(SUBMIT):
            return await self._outgoing.request(
                "POST",
                url,
                headers=self._headers,
                json=body,
                limits=self._limits,
                idempotency_key=order.id,
            )

    async def _read_submission(self, answer: Answer) -> Extracted:
        """Judge the answer to a submission; see the module."""
        code = answer.status
        taken = 200 <= code < 300
        try:
            extracted = await extract(self._config, await answer.json())
        except Invalid as error:
            if taken:
                raise Ambiguous(
                    f"{self._name} answered {code}, but: {error.detail[:200]}"
                ) from error
            extracted = Extracted(None, None, None, "", "")
        if taken:
            return extracted
        reason = f"{self._name} answered {code}"
        if extracted.error:
            reason = f"{reason}: {extracted.error}"
        if code in _NOT_TAKEN:
            raise Transient(reason, retry_after_s=answer.retry_after_s())
        if 400 <= code < 500 and code != _IN_PROGRESS:
            raise Refused(reason)
        raise Ambiguous(reason)

    async def status(self, job_id: str) -> Progress:
        try:
            progress = await self._status(job_id)
        except (Transient, Permanent):
            self._count("status_failed")
            raise
        self._count("status")
        return progress

    async def _status(self, job_id: str) -> Progress:
        answer = await self._get(self._config.status_path, job_id)
        extracted = await self._read(answer)
        result_url = extracted.result_url
        return Progress(
            state=extracted.state or "running",
            result_url=_absolute(answer.url, result_url) if result_url else "",
            error=extracted.error,
            retry_after_s=answer.retry_after_s(),
        )

    async def lookup(self, client_id: str) -> Submitted | Unknown | None:
        try:
            found = await self._lookup(client_id)
        except (Transient, Permanent):
            self._count("lookup_failed")
            raise
        self._count("lookup")
        return found

    async def _lookup(self, client_id: str) -> Submitted | Unknown | None:
        if not self._config.lookup_path:
            if self._config.idempotent:
                return Unknown("the provider offers no look-up, but may be asked again")
            return await self._probe(client_id)
        answer = await self._get(self._config.lookup_path, client_id)
        if answer.status == _NOT_FOUND:
            return None
        self._demand_success(answer)
        if not answer.body.strip():
            return None
        document = await self._json(answer)
        return await self._found_in(document)

    async def _found_in(self, document: Any) -> Submitted | Unknown | None:
        """Take the one job of a look-up's answer, by itself or as the one entry of a list."""
        extracted = await self._extract(document)
        if extracted.job_id is not None:
            return Submitted(extracted.job_id, extracted.state)
        entries = _entries(document)
        if entries == []:
            return None
        if entries is not None and len(entries) == 1:
            extracted = await self._extract(entries[0])
            if extracted.job_id is not None:
                return Submitted(extracted.job_id, extracted.state)
        # More than one may be a provider that does not filter: none of them need be ours.
        return Unknown("the look-up's answer does not name one job")

    async def _probe(self, client_id: str) -> Submitted | Unknown:
        """Ask for the status under our own id: some providers take it for the job's."""
        answer = await self._get(self._config.status_path, client_id)
        if answer.status in _NOT_TAKEN or answer.status >= 500:
            self._demand_success(answer)
        if 200 <= answer.status < 300:
            extracted = await self._read(answer)
            if extracted.state is not None:
                return Submitted(client_id, extracted.state)
        return Unknown("the provider knows no job under our id, which proves nothing")

    async def _get(self, path: str, ident: str) -> Answer:
        target = path.replace("{id}", quote(ident, safe=""))
        async with step(STATUS):
            return await self._outgoing.request(
                "GET",
                f"{self._config.base_url}{target}",
                headers=self._headers,
                limits=JSON_LIMITS,
                redirects=REDIRECTS,
            )

    async def _read(self, answer: Answer) -> Extracted:
        self._demand_success(answer)
        return await self._extract(await self._json(answer))

    def _demand_success(self, answer: Answer) -> None:
        if not 200 <= answer.status < 300:
            raise Transient(
                f"{self._name} answered {answer.status}", retry_after_s=answer.retry_after_s()
            )

    async def _json(self, answer: Answer) -> Any:
        try:
            return await answer.json()
        except Invalid as error:
            # A page of a proxy in between, most often; the next answer may be the provider's.
            raise Transient(
                f"{self._name} answered what is no JSON", code="unreadable_answer"
            ) from error

    async def _extract(self, document: Any) -> Extracted:
        try:
            return await extract(self._config, document)
        except Invalid as error:
            raise Transient(error.detail, code="unreadable_answer") from error

    def _count(self, outcome: str) -> None:
        self._metrics.provider_requests.labels(self._name, outcome).inc()


def _absolute(base: str, url: str) -> str:
    """Give a result's URL, which may be relative to the answer's (RFC 3986 section 5)."""
    try:
        return urljoin(base, url)
    except ValueError:
        return url


def _entries(document: Any) -> list[Any] | None:
    """Give the entries of an answer that is a list, or an object around exactly one list.

    Nothing at all (null, an object without members) is an empty list; None means neither.
    """
    if document is None or document == {}:
        return []
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        lists = [each for each in document.values() if isinstance(each, list)]
        if len(lists) == 1:
            return lists[0]
    return None


async def open_provider(
    name: str,
    config: ProviderConfig,
    *,
    outgoing: Outgoing,
    fill_secrets: FillSecrets,
    metrics: Metrics,
    limits: Limits = SUBMIT_LIMITS,
) -> HttpProvider:
    """Give a provider that is ready to be called, its secrets filled into its headers.

    Raises:
        NotConfigured: a secret is missing.
    """
    headers = {name: await fill_secrets(value) for name, value in config.headers.items()}
    return HttpProvider(name, config, headers, outgoing, metrics, limits)

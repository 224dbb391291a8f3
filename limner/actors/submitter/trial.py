"""Trials: shows an operator what a provider's mapping sends and what it finds in the answer."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from limner.actors.submitter.rules import seed_of, validate_config
from limner.core.answers import Answer
from limner.core.errors import Ambiguous, Invalid, Transient
from limner.core.ids import new_id
from limner.core.metrics import Metrics
from limner.core.outgoing import Outgoing
from limner.core.provider import Order
from limner.core.providers.http import FillSecrets, open_provider
from limner.core.providers.mapping import Extracted, ProviderConfig, extract

NAME = "trial"
TEXT_LENGTH = 2000


class ProviderTrial:
    """Tries mappings for the web front, whose port is ``limner.http.ports.ProviderTester``."""

    def __init__(self, outgoing: Outgoing, fill_secrets: FillSecrets, metrics: Metrics) -> None:
        self._outgoing = outgoing
        self._fill_secrets = fill_secrets
        self._metrics = metrics

    def validate(self, config: Mapping[str, Any]) -> None:
        """Check a provider's configuration.

        Raises:
            Invalid: with ``faults`` as JSON Pointers into the configuration.
        """
        validate_config(config)

    async def test(self, config: Mapping[str, Any], prompt: str, kind: str) -> Mapping[str, Any]:
        """Submit a real order and give ``{request, status, answer, extracted, problems}``.

        ``request`` shows headers as they are configured, secrets by reference. ``status`` is the
        answer's number, ``problems`` are sentences on what would keep a task from its end.

        Raises:
            Transient: the provider does not answer.
            Permanent: the mapping is not valid, or the address must not be called.
        """
        mapping = validate_config(config)
        ident = new_id(NAME)
        order = Order(id=ident, prompt=prompt, kind=kind, seed=seed_of(ident))
        provider = await open_provider(
            NAME,
            mapping,
            outgoing=self._outgoing,
            fill_secrets=self._fill_secrets,
            metrics=self._metrics,
        )
        url, body = await provider.request(order)
        try:
            answer = await provider.post(order)
        except Ambiguous as error:
            raise Transient(error.detail, code="no_answer") from error
        document, problems = await _document(answer)
        extracted = await extract(mapping, document)
        problems += _problems(mapping, answer.status, extracted)
        return {
            "request": {
                "method": "POST",
                "url": url,
                "headers": {**mapping.headers, "Idempotency-Key": ident},
                "body": body,
            },
            "status": answer.status,
            "answer": document,
            "extracted": asdict(extracted),
            "problems": problems,
        }


async def _document(answer: Answer) -> tuple[Any, list[str]]:
    """Give the answer's JSON, or the beginning of its text."""
    try:
        return await answer.json(), []
    except Invalid as error:
        text = answer.body[: 4 * TEXT_LENGTH].decode(errors="replace")[:TEXT_LENGTH]
        return text, [f"the answer is no JSON: {error.detail[:200]}"]


def _problems(mapping: ProviderConfig, status: int, extracted: Extracted) -> list[str]:
    problems = []
    if not 200 <= status < 300:
        reason = f": {extracted.error}" if extracted.error else ""
        problems.append(f"the provider answered {status}{reason}")
    if extracted.job_id is None:
        problems.append(f"job_id: {mapping.job_id} selects no text or number in the answer")
    if extracted.status is None:
        # Many providers name no status before the first check.
        problems.append(f"status: {mapping.status} selects nothing in this answer")
    elif extracted.state is None:
        problems.append(f"status: {extracted.status!r} is not in status_map and counts as running")
    elif extracted.state == "succeeded" and not extracted.result_url:
        problems.append(f"result_url: {mapping.result_url} selects no text in the answer")
    return problems

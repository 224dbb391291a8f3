"""What a front asks of the actors: whether a text is a wish, a mapping works, a source is one."""

from collections.abc import Mapping
from typing import Any

from limner.core.errors import Invalid
from limner.core.providers.mapping import ProviderConfig


class FakeIntent:
    """Finds one wish in any text that says draw."""

    async def test(self, text: str) -> Mapping[str, Any]:
        is_wish = "draw" in text
        return {
            "verdict": "task" if is_wish else "ignored",
            "reason": None if is_wish else "no keyword",
            "confidence": 1.0 if is_wish else 0.0,
            "decided_by": "rules",
            "keyword": "draw" if is_wish else None,
            "denied_by": None,
            "addresses": [],
            "email": None,
            "prompt": text,
            "kind": "image",
            "language": "en",
        }


class FakeProviders:
    """Checks mappings as the service does; a trial finds what it was sent."""

    def validate(self, config: Mapping[str, Any]) -> None:
        ProviderConfig.read(config)

    async def test(self, config: Mapping[str, Any], prompt: str, kind: str) -> Mapping[str, Any]:
        return {
            "request": {"url": config["base_url"], "body": {"prompt": prompt, "kind": kind}},
            "status": 200,
            "answer": {"id": "1"},
            "extracted": {"job_id": "1"},
            "problems": [],
        }


def validate_source(connector: str, options: Mapping[str, Any]) -> None:
    """Know two connectors; one of them needs a URL."""
    if connector not in {"demo", "http"}:
        raise Invalid("the source is not valid", faults=[("/connector", "is not known")])
    if connector == "http" and "url" not in options:
        raise Invalid("the source is not valid", faults=[("/options/url", "is missing")])

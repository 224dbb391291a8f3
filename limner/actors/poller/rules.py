"""What makes a source's options valid: pure, so that whoever stores a source can ask."""

from collections.abc import Mapping
from typing import Any

from limner.actors.poller.connectors import CONNECTORS
from limner.core.errors import Invalid


def validate(connector: str, options: Mapping[str, Any]) -> None:
    """Return if the connector takes the options.

    Raises:
        Invalid: with all ``faults``, as JSON Pointers (RFC 6901) into ``{connector, options}``.
    """
    kind = CONNECTORS.get(connector)
    if kind is None:
        sentence = f"there is no such connector; there are {', '.join(sorted(CONNECTORS))}"
        raise Invalid(sentence, code="connector_unknown", faults=[("/connector", sentence)])
    kind.model.read(options)

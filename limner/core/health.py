"""One line of a health report, as doctor prints it and the health page shows it."""

from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["pass", "warn", "fail"]

ANSWER_LIMIT_S: Final = 3.0
"""How long a report waits for any one part: whoever asks must hear which of them is silent."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and what mends it."""

    name: str
    status: Status
    detail: str = ""
    mend: str = ""

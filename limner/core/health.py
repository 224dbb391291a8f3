"""One line of a health report, as doctor prints it and the health page shows it."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and what mends it."""

    name: str
    status: Status
    detail: str = ""
    mend: str = ""

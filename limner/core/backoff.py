"""Waiting between attempts: exponential back-off with full jitter.

"Full jitter" after Brooker, *Exponential Backoff And Jitter* (AWS Architecture Blog, 2015):
a uniform draw between 0 and the capped exponential.
"""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds: ``first_s``, doubled at each attempt, never over ``cap_s``."""

    first_s: float = 1.0
    cap_s: float = 60.0

    def ceiling_s(self, attempt: int) -> float:
        """Give the longest wait after the given attempt, which counts from 1."""
        return min(self.cap_s, self.first_s * float(1 << min(attempt - 1, 32)))

    def delay_s(self, attempt: int) -> float:
        """Draw the wait after the given attempt: uniform in [0, ceiling]."""
        return random.uniform(0.0, self.ceiling_s(attempt))  # noqa: S311 - jitter, not a secret

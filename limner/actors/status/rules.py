"""When to ask a provider next."""

LONGEST_EXPONENT = 32
SHORTEST_WAIT_S = 1.0


def check_delay_s(
    n: int, first_s: float, max_s: float, retry_after_s: float | None = None
) -> float:
    """Give the seconds before check ``n`` of a round, which counts from 1.

    ``first_s``, doubled before every further check, never over ``max_s``. What the provider asked
    us to wait takes its place; below a second it counts as one, so that "at once" costs no tries.
    """
    own_s = min(max_s, first_s * float(1 << min(max(n, 1) - 1, LONGEST_EXPONENT)))
    if retry_after_s is None:
        return own_s
    return max(retry_after_s, min(own_s, SHORTEST_WAIT_S))

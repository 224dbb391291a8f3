"""One tree of errors: what may be tried again, what never will work, and what nobody can know.

Adapters translate driver errors into these at their edge; the actor loop turns them into the fate
of a message and the web front into problem details.
"""

from collections.abc import Mapping, Sequence


class LimnerError(Exception):
    """The root of all errors that cross a folder."""

    code = "internal"
    status = 500

    def __init__(self, detail: str = "", *, code: str | None = None) -> None:
        super().__init__(detail or type(self).__doc__ or "")
        self.detail = detail or (type(self).__doc__ or "").rstrip(".")
        if code is not None:
            self.code = code


class Transient(LimnerError):
    """The same attempt may succeed later.

    ``retry_after_s`` is what the other side asked us to wait, in seconds, if it did.
    """

    code = "temporarily_unavailable"
    status = 503

    def __init__(
        self, detail: str = "", *, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail, code=code)
        self.retry_after_s = retry_after_s


class EngineUnavailable(Transient):
    """A database, broker, cache or store is out of reach: work pauses, no attempt is counted."""

    code = "engine_unavailable"


class TimedOut(Transient):
    """The time limit of a handler or an outgoing call has passed."""

    code = "timed_out"


class Busy(Transient):
    """Someone else holds what this needs."""

    code = "busy"


class Permanent(LimnerError):
    """Trying again cannot help."""

    code = "permanent"
    status = 400


class Invalid(Permanent):
    """The request or the stored data does not fit its schema.

    ``faults`` are (JSON Pointer, sentence) pairs, all that were found (RFC 6901).
    """

    code = "invalid"
    status = 422

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        faults: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail, code=code)
        self.faults = tuple(faults)


class NotFound(Permanent):
    """No such object, or not the caller's."""

    code = "not_found"
    status = 404


class Conflict(Permanent):
    """The object is not in a state that allows this."""

    code = "conflict"
    status = 409


class LastAdmin(Permanent):
    """The last account that may administer the service stays as it is."""

    code = "last_admin"
    status = 409


class Unauthenticated(Permanent):
    """No credential, or one that is not valid."""

    code = "unauthenticated"
    status = 401


class Forbidden(Permanent):
    """The credential does not allow this."""

    code = "forbidden"
    status = 403


class TooLarge(Permanent):
    """A body, picture or answer is over its limit."""

    code = "too_large"
    status = 413


class TooMany(Transient):
    """A rate limit is reached; ``retry_after_s`` says when to come back."""

    code = "rate_limited"
    status = 429


class NotConfigured(Permanent):
    """The operator has not set up what this needs."""

    code = "not_configured"
    status = 503


class Refused(Permanent):
    """The outside world said no for good: a mailbox, a provider, an address guard."""

    code = "refused"
    status = 422

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail, code=code)
        self.context = dict(context or {})


class Ambiguous(LimnerError):
    """An effect may or may not have happened outside; it must not be repeated blindly."""

    code = "ambiguous"


class Stale(LimnerError):
    """A guarded update found the row in another state; the unit changed nothing."""

    code = "stale"
    status = 409


class LeaseLost(LimnerError):
    """Another worker holds the lease now: the fencing token is no longer the newest."""

    code = "lease_lost"
    status = 409


class FailpointReached(LimnerError):
    """Raised by a failpoint that was set to ``raise``; handled like any bug, on purpose."""

    code = "failpoint"

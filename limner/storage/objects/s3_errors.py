"""What an S3 store's refusals mean to us, and what the operator can mend.

The sentences may reach a client: they name settings, never hosts, keys or buckets.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from botocore import exceptions

from limner.core.errors import EngineUnavailable, Invalid, LimnerError, NotFound

_NO_SUCH = {
    "NoSuchKey": "No such object",
    "NoSuchUpload": "No such upload",
    "404": "No such object",
}
_KEYS_UNKNOWN = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
)
_OTHER_REGION = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_SLOW = frozenset({"SlowDown", "ServiceUnavailable", "Throttling", "TooManyRequests", "503", "429"})
_FIRST_REDIRECT = 300
_FIRST_ERROR = 400
_FORBIDDEN = 403
_RANGE = 416

_NO_BUCKET = "The object store has no such bucket: make it, or mend LIMNER_OBJECTS_URL"
_NO_KEYS = "The object store knows no keys: set LIMNER_OBJECTS_ACCESS_KEY and _SECRET_KEY"
_BAD_KEYS = (
    "The object store does not accept the keys: mend LIMNER_OBJECTS_ACCESS_KEY and _SECRET_KEY"
)
_NOT_ALLOWED = (
    "The object store refuses us: its keys must be allowed to get, put, delete and list objects "
    "and to list and abort multipart uploads"
)
_REGION = "The bucket is in another region: set region in LIMNER_OBJECTS_URL"
_CLOCK = "The object store refuses this machine's clock: set the clock"


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the driver raises into errors of ours.

    Raises:
        NotFound: no such object or upload.
        Invalid: code ``range_not_satisfiable``.
        EngineUnavailable: everything else.
    """
    try:
        yield
    except exceptions.ClientError as error:
        raise _refusal(error) from error
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
    ) as error:
        raise EngineUnavailable(_NO_KEYS) from error
    except (TimeoutError, exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError) as error:
        raise EngineUnavailable("The object store does not answer in time") from error
    except exceptions.IncompleteReadError as error:
        raise broken_off() from error
    except (exceptions.BotoCoreError, aiohttp.ClientError, OSError) as error:
        raise EngineUnavailable("The object store is out of reach") from error


def code_of(error: exceptions.ClientError) -> str:
    """Give the store's code; where an answer has no body (HEAD), the status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def broken_off() -> EngineUnavailable:
    """Give the error for a body that ended before its length."""
    return EngineUnavailable("The object store broke off in the middle of an object")


def no_bucket() -> EngineUnavailable:
    """Give the error for a bucket that is not there."""
    return EngineUnavailable(_NO_BUCKET)


def _refusal(error: exceptions.ClientError) -> LimnerError:
    code = code_of(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _NO_SUCH:
        return NotFound(_NO_SUCH[code])
    if code == "NoSuchBucket":
        return no_bucket()
    if status == _RANGE or code == "InvalidRange":
        return Invalid("The object has no such range", code="range_not_satisfiable")
    if code in _KEYS_UNKNOWN:
        return EngineUnavailable(_BAD_KEYS)
    if code == "RequestTimeTooSkewed":
        return EngineUnavailable(_CLOCK)
    if code in _OTHER_REGION or _FIRST_REDIRECT <= status < _FIRST_ERROR:
        return EngineUnavailable(_REGION)
    if status == _FORBIDDEN:
        return EngineUnavailable(_NOT_ALLOWED)
    if code in _SLOW:
        return EngineUnavailable("The object store asks to slow down")
    return EngineUnavailable(f"The object store fails: {code[:60]}")

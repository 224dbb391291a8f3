"""Where to go after signing in: a path of ours, and never another site."""

from urllib.parse import urlsplit

START = "/tasks"
LIMIT_CHARACTERS = 500


def local_path(wanted: str, default: str = START) -> str:
    """Give ``wanted`` if it is a path on this host, else ``default``.

    Browsers take a backslash for a slash and drop tabs and line ends (WHATWG URL standard,
    section 4.4), so that none of these may occur.
    """
    if len(wanted) > LIMIT_CHARACTERS or not wanted.isprintable() or "\\" in wanted:
        return default
    if not wanted.startswith("/") or wanted.startswith("//"):
        return default
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return default
    return default if parts.scheme or parts.netloc else wanted

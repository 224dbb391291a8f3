"""Where to go after signing in: a path of ours, and never another site."""

START = "/tasks"
LIMIT_CHARACTERS = 500


def local_path(wanted: str, default: str = START) -> str:
    """Give ``wanted`` if it is a path on this host, else ``default``.

    Browsers take a backslash for a slash and drop tabs and line ends (WHATWG URL standard,
    section 4.4), so that none of these may occur.
    """
    if len(wanted) > LIMIT_CHARACTERS or not wanted.isprintable() or "\\" in wanted:
        return default
    is_path = wanted.startswith("/") and not wanted.startswith("//")
    return wanted if is_path else default

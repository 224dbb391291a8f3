"""What a User-Agent header says in words: enough for a person to know their own devices."""

import re

# The first that fits counts: later ones call themselves by the names of earlier ones too.
PROGRAMS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser", "Samsung Internet"),
    ("Firefox", "Firefox"),
    ("FxiOS", "Firefox"),
    ("CriOS", "Chrome"),
    ("Chrome", "Chrome"),
    ("Safari", "Safari"),
)
SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)
PRODUCT = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,39}")
UNKNOWN = "an unknown program"


def device_of(user_agent: str) -> str:
    """Give e.g. ``Firefox on Linux``; for programs that are no browser their own name."""
    program = _first(PROGRAMS, user_agent)
    if program is None:
        product = PRODUCT.match(user_agent)
        program = product[0] if product and product[0] != "Mozilla" else UNKNOWN
    system = _first(SYSTEMS, user_agent)
    return f"{program} on {system}" if system else program


def _first(names: tuple[tuple[str, str], ...], text: str) -> str | None:
    return next((name for mark, name in names if mark in text), None)

"""The doctor: what is installed, reachable and misconfigured, and what mends it."""

import platform
import sys
from collections.abc import Awaitable, Callable
from importlib import metadata

from limner.core.health import Check, Status
from limner.core.settings import Loaded, Settings

PYTHON = (3, 11)
PACKAGES = ("aiohttp", "tortoise-orm", "onnxruntime", "numpy", "pillow", "av", "uvloop")

Probe = Callable[[], Awaitable[list[Check]]]


async def examine(loaded: Loaded, probes: Probe) -> list[Check]:
    """Give every line: the machine, the packages, the settings, then what ``probes`` finds."""
    checks = [_python(), *_packages(), _settings(loaded), _secret(loaded.settings)]
    checks += [_mail(loaded.settings), _llm(loaded.settings)]
    return checks + await probes()


def _python() -> Check:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < PYTHON:
        return Check("python", "fail", detail, "install Python 3.11 or newer")
    return Check("python", "pass", detail)


def _packages() -> list[Check]:
    checks = []
    for name in PACKAGES:
        try:
            checks.append(Check(name, "pass", metadata.version(name)))
        except metadata.PackageNotFoundError:
            status: Status = "warn" if name == "uvloop" else "fail"
            checks.append(Check(name, status, "not installed", "make setup"))
    return checks


def _settings(loaded: Loaded) -> Check:
    changed = [name for name, source in loaded.sources.items() if source != "default"]
    if loaded.warnings:
        return Check("settings", "warn", "; ".join(loaded.warnings), "run.py settings")
    detail = f"set: {', '.join(changed)}" if changed else "all at their defaults"
    return Check("settings", "pass", detail)


def _secret(settings: Settings) -> Check:
    if settings.secret_key.get_secret_value():
        return Check("secret key", "pass", "set")
    path = settings.home / "secret_key"
    if path.exists():
        return Check("secret key", "pass", f"in {path}; back it up with the data")
    return Check("secret key", "pass", f"will be made in {path} at the first start")


def _mail(settings: Settings) -> Check:
    url = settings.mail_url.get_secret_value()
    if url.startswith("mailbox:"):
        return Check(
            "mail",
            "warn" if settings.environment == "production" else "pass",
            "kept in the mailbox, nothing is sent",
            "set LIMNER_MAIL_URL=smtp://user:password@host:587?tls=starttls",
        )
    if "tls=none" in url:
        return Check("mail", "warn", "sent without encryption", "use tls=starttls")
    return Check("mail", "pass", "sent by SMTP")


def _llm(settings: Settings) -> Check:
    if not settings.llm_url:
        return Check("language model", "pass", "none: the rules decide alone")
    if not settings.llm_model:
        return Check("language model", "fail", "no model", "set LIMNER_LLM_MODEL")
    return Check("language model", "pass", settings.llm_model)

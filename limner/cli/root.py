"""What every command needs: settings, the adapters, errors as sentences and exit codes."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from limner.core import logs
from limner.core import settings as settings_module
from limner.core.errors import Invalid, LimnerError
from limner.core.settings import Loaded

T = TypeVar("T")
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def read(flags: dict[str, Any] | None = None) -> Loaded:
    """Read the settings, or say what is wrong with them and exit with 2."""
    try:
        return settings_module.load(os.environ, env_file=Path(".env"), flags=flags)
    except Invalid as error:
        raise click.UsageError(str(error)) from None


def load() -> Loaded:
    """Read the settings and print what the operator should be told."""
    loaded = read()
    for warning in loaded.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    return loaded


def run(work: Awaitable[T]) -> T:
    """Run to the end; an error of ours becomes a sentence and exit 1 (2 for settings)."""

    async def main() -> T:
        return await work

    try:
        if sys.platform != "win32":
            import uvloop

            return uvloop.run(main())
        return asyncio.run(main())
    except Invalid as error:
        faults = [f"{pointer}: {sentence}" for pointer, sentence in error.faults]
        raise click.UsageError("\n  ".join([error.detail, *faults])) from None
    except LimnerError as error:
        if error.code in {"settings", "usage"}:
            raise click.UsageError(error.detail) from None
        raise click.ClickException(error.detail) from None


def with_ports(work: Callable[[Any], Awaitable[T]]) -> T:
    """Open the adapters, without actors, and do ``work`` with them; works beside a server."""
    from limner import app

    settings = load().settings

    async def opened() -> T:
        async with app.open_engines(settings) as engines:
            return await work(engines.ports)

    return run(opened())


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Set up quiet logs for a command that is not the server."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        logs.configure("warning")
        return function(*args, **kwargs)

    return call


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Limner turns requests into finished media and carries them to people."""

"""The commands of run.py, each a thin call into app or ops; exit 0 fine, 1 failed, 2 usage."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from limner.core import logs
from limner.core import settings as settings_module
from limner.core.errors import Invalid, LimnerError
from limner.core.locks import home_lock
from limner.core.settings import Loaded
from limner.storage.sql.accounts import ROLE_SCOPES

T = TypeVar("T")
log = logs.get_logger("cli")
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _read(flags: dict[str, Any] | None = None) -> Loaded:
    """Read the settings, or say what is wrong with them and exit with 2."""
    try:
        return settings_module.load(os.environ, env_file=Path(".env"), flags=flags)
    except Invalid as error:
        raise click.UsageError(str(error)) from None


def _load() -> Loaded:
    """Read the settings and print what the operator should be told."""
    loaded = _read()
    for warning in loaded.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    return loaded


def _run(work: Awaitable[T]) -> T:
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


def _with_ports(work: Callable[[Any], Awaitable[T]]) -> T:
    """Open the adapters, without actors, and do ``work`` with them; works beside a server."""
    from limner import app

    settings = _load().settings

    async def opened() -> T:
        async with app.open_engines(settings) as engines:
            return await work(engines.ports)

    return _run(opened())


def _command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Set up quiet logs for a command that is not the server."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        logs.configure("warning")
        return function(*args, **kwargs)

    return call


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Limner turns requests into finished media and carries them to people."""


@cli.command()
@click.option("--actors", default="all", show_default=True, help="all, none, or names with commas")
@click.option("--no-http", is_flag=True, help="Run actors without the web front.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.")
def serve(actors: str, no_http: bool, host: str | None, port: int | None) -> None:
    """Run actors and the web front until SIGTERM."""
    from limner import app
    from limner.actors import registry

    flags = {"LIMNER_HTTP__HOST": host, "LIMNER_HTTP__PORT": port}
    loaded = _read({name: value for name, value in flags.items() if value is not None})
    settings = loaded.settings
    logs.configure(settings.log_level)
    for warning in loaded.warnings:
        log.warning("a setting needs a look", warning=warning)
    try:
        names = registry.chosen(actors)
    except Invalid as error:
        raise click.UsageError(error.detail) from None

    async def started(service: app.Service) -> None:
        if service.url:
            await _welcome(service)

    async def main() -> int:
        if not settings.embedded:
            return await app.serve(settings, names, http=not no_http, started=started)
        with home_lock(settings.home):
            return await app.serve(settings, names, http=not no_http, started=started)

    sys.exit(_run(main()))


async def _welcome(service: Any) -> None:
    """Print where the front is and a link that signs the owner in once."""
    link = await service.sign_in_link()
    click.echo(f"\n  Limner runs at {service.url}")
    click.echo(f"  Sign in as the owner, once, within 30 minutes: {link}\n")


@cli.command()
@as_json_option
@_command
def migrate(as_json: bool) -> None:
    """Bring the database's tables up to date; the first time also makes the owner account."""
    from limner import app
    from limner.ops import migration

    settings = _load().settings

    async def work() -> list[str]:
        with home_lock(settings.home) if settings.embedded else nullcontext():
            async with app.open_engines(settings, check_schema=False) as engines:
                return await migration.migrate(engines.ports.database, engines.ports.units)

    done = _run(work())
    if as_json:
        click.echo(json.dumps({"applied": done}))
    elif done:
        click.echo(f"Applied {len(done)}: {', '.join(done)}.")
    else:
        click.echo("The database is up to date.")


@cli.command()
@as_json_option
@_command
def doctor(as_json: bool) -> None:
    """Say what is installed, reachable and misconfigured, and what mends it."""
    from limner import app
    from limner.ops import doctor as examination

    loaded = _load()
    checks = _run(examination.examine(loaded, lambda: app.probe(loaded.settings)))
    if as_json:
        click.echo(json.dumps([vars_of(check) for check in checks], indent=2))
    else:
        colours = {"pass": "green", "warn": "yellow", "fail": "red"}
        for check in checks:
            mark = click.style(f"{check.status:4}", fg=colours[check.status])
            click.echo(f"{mark}  {check.name:22} {check.detail}")
            if check.mend and check.status != "pass":
                click.echo(f"      {'':22} -> {check.mend}")
    sys.exit(1 if any(check.status == "fail" for check in checks) else 0)


def vars_of(check: Any) -> dict[str, str]:
    """Give a check as JSON shows it."""
    return {
        "name": check.name,
        "status": check.status,
        "detail": check.detail,
        "mend": check.mend,
    }


@cli.command()
@as_json_option
@_command
def settings(as_json: bool) -> None:
    """Print every setting, its value and where it comes from; secrets are masked."""
    from limner.ops.settings import table

    rows = table(_load())
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        source = click.style(row["source"], fg="cyan" if row["source"] != "default" else None)
        click.echo(f"{row['name']:{width}}  {row['value']!s:32}  {source}")
        click.echo(click.style(f"{'':{width}}  {row['description']}", dim=True))


@cli.command()
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the demo's data here.")
def demo(keep: Path | None) -> None:
    """Run the main job once: comments in, pictures drawn, mails delivered; prints one row each."""
    from limner.demo import run

    logs.configure("error")
    sys.exit(_run(run(keep)))


@cli.group()
def key() -> None:
    """Make API keys."""


@key.command("create")
@click.argument("email", required=False)
@click.option("--scopes", default="admin", show_default=True, help="Names with commas.")
@click.option("--name", default="command line", show_default=True, help="What it is for.")
@_command
def key_create(email: str | None, scopes: str, name: str) -> None:
    """Make an API key for EMAIL, or for the owner; prints the key alone."""
    from limner.ops import keys

    names = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    click.echo(_with_ports(lambda ports: keys.create(ports.units, email, names, name)))


@cli.group()
def user() -> None:
    """Make accounts and give roles."""


ROLES = click.Choice(tuple(ROLE_SCOPES))


@user.command("create")
@click.argument("email")
@click.option("--role", type=ROLES, default="user", show_default=True, help="What they may do.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@as_json_option
@_command
def user_create(email: str, role: str, password_stdin: bool, as_json: bool) -> None:
    """Make an account for EMAIL, verified; without a password, "forgot" at the sign-in sets one."""
    from limner.http.auth import passwords
    from limner.ops import users

    password = _password() if password_stdin else None
    rules = users.Passwords(passwords.check_new, passwords.hash_password)
    made = _with_ports(lambda ports: users.create(ports.units, email, role, password, rules))
    click.echo(json.dumps(made) if as_json else f"Made {made['email']} ({role}): {made['id']}")


def _password() -> str:
    """Read one line from standard input, without its end."""
    line = sys.stdin.readline(4096).rstrip("\r\n")
    if not line:
        raise click.UsageError("there is no password on standard input")
    return line


@user.command("promote")
@click.argument("email")
@click.argument("role", type=ROLES)
@as_json_option
@_command
def user_promote(email: str, role: str, as_json: bool) -> None:
    """Give the account of EMAIL another ROLE; the last administrator stays one."""
    from limner.ops import users

    now = _with_ports(lambda ports: users.promote(ports.units, email, role))
    click.echo(json.dumps(now) if as_json else f"{now['email']} is {role}.")


@cli.group()
def dead() -> None:
    """Look at messages that could not be handled, and send or discard them."""


@dead.command("list")
@click.option("--all", "settled_too", is_flag=True, help="Show settled ones too.")
@as_json_option
@_command
def dead_list(settled_too: bool, as_json: bool) -> None:
    """List dead letters, newest first."""
    from limner.ops import dead as morgue

    rows = _with_ports(lambda _: morgue.listing(settled_too=settled_too))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo("No dead letters.")
    for row in [] if as_json else rows:
        state = "" if row["state"] == "open" else f" [{row['state']}]"
        click.echo(f"{row['id']}  {row['created_at']}  {row['topic']}{state}")
        click.echo(f"    {row['reason']}: {row['detail']}")


@dead.command("show")
@click.argument("ident")
@_command
def dead_show(ident: str) -> None:
    """Print one dead letter with its body, as JSON."""
    from limner.ops import dead as morgue

    click.echo(json.dumps(_with_ports(lambda _: morgue.show(ident)), indent=2))


@dead.command("retry")
@click.argument("ident")
@_command
def dead_retry(ident: str) -> None:
    """Send a dead letter's message again, as a first attempt (ID, or all)."""
    from limner.ops import dead as morgue

    count = _with_ports(lambda ports: morgue.retry(ports.units, ident))
    click.echo(f"Sent {count} again.")


@dead.command("discard")
@click.argument("ident")
@_command
def dead_discard(ident: str) -> None:
    """Settle a dead letter without sending it again."""
    from limner.ops import dead as morgue

    _with_ports(lambda ports: morgue.discard(ports.units, ident))
    click.echo("Discarded.")


@cli.group()
def audit() -> None:
    """Check the audit log."""


@audit.command("verify")
@as_json_option
@_command
def audit_verify(as_json: bool) -> None:
    """Check the hash chain of the audit log from its first line to its last."""
    from limner.ops import auditing

    verdict = _with_ports(lambda ports: auditing.verify(ports.database))
    if as_json:
        click.echo(
            json.dumps(
                {
                    "lines": verdict.lines,
                    "broken_at": verdict.broken_at,
                    "unsealed": verdict.unsealed,
                }
            )
        )
    elif verdict.broken_at is None:
        click.echo(f"The chain holds: {verdict.lines} lines, {verdict.unsealed} not sealed yet.")
    else:
        click.echo(
            f"The chain is broken at line {verdict.broken_at}: it or one before it was changed, "
            "removed or put in.",
            err=True,
        )
    sys.exit(0 if verdict.broken_at is None else 1)


@cli.command()
@_command
def openapi() -> None:
    """Print the OpenAPI document of the REST interface."""
    from limner import app
    from limner.http.openapi import document
    from limner.http.table import ROUTES

    click.echo(json.dumps(document(ROUTES, app.version()), indent=2, ensure_ascii=False))


@cli.command()
@_command
def asyncapi() -> None:
    """Print the AsyncAPI document of commands and events."""
    from limner import app
    from limner.actors import registry
    from limner.http.asyncapi import document

    described = document(registry.messages(), app.version())
    click.echo(json.dumps(described, indent=2, ensure_ascii=False))


def main() -> None:
    """Run the command line."""
    cli(prog_name="run.py")

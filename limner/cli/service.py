"""Starting it, its tables, and what is the matter with it."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from limner.cli.root import as_json_option, cli, command, load, read, run
from limner.core import logs
from limner.core.errors import Invalid
from limner.core.locks import home_lock

log = logs.get_logger("cli")


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
    loaded = read({name: value for name, value in flags.items() if value is not None})
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

    sys.exit(run(main()))


async def _welcome(service: Any) -> None:
    """Print where the front is and a link that signs the owner in once, if there still is one."""
    link = await service.sign_in_link()
    click.echo(f"\n  Limner runs at {service.url}")
    if link:
        click.echo(f"  Sign in as the owner, once, within 30 minutes: {link}\n")


@cli.command()
@as_json_option
@command
def migrate(as_json: bool) -> None:
    """Bring the database's tables up to date; the first time also makes the owner account."""
    from limner import app
    from limner.ops import migration

    settings = load().settings

    async def work() -> list[str]:
        with home_lock(settings.home) if settings.embedded else nullcontext():
            async with app.open_engines(settings, check_schema=False) as engines:
                return await migration.migrate(engines.ports.database, engines.ports.units)

    done = run(work())
    if as_json:
        click.echo(json.dumps({"applied": done}))
    elif done:
        click.echo(f"Applied {len(done)}: {', '.join(done)}.")
    else:
        click.echo("The database is up to date.")


@cli.command()
@as_json_option
@command
def doctor(as_json: bool) -> None:
    """Say what is installed, reachable and misconfigured, and what mends it."""
    from limner import app
    from limner.ops import doctor as examination

    loaded = load()
    checks = run(examination.examine(loaded, lambda: app.probe(loaded.settings)))
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
@command
def settings(as_json: bool) -> None:
    """Print every setting, its value and where it comes from; secrets are masked."""
    from limner.ops.settings import table

    rows = table(load())
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
    from limner import demo as throw_away

    logs.configure("error")
    sys.exit(run(throw_away.run(keep)))

"""What is kept of the past: dead letters and the audit log."""

import json
import sys

import click

from limner.cli.root import as_json_option, cli, command, with_ports


@cli.group()
def dead() -> None:
    """Look at messages that could not be handled, and send or discard them."""


@dead.command("list")
@click.option("--all", "settled_too", is_flag=True, help="Show settled ones too.")
@as_json_option
@command
def dead_list(settled_too: bool, as_json: bool) -> None:
    """List dead letters, newest first."""
    from limner.ops import dead as morgue

    rows = with_ports(lambda _: morgue.listing(settled_too=settled_too))
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
@command
def dead_show(ident: str) -> None:
    """Print one dead letter with its body, as JSON."""
    from limner.ops import dead as morgue

    click.echo(json.dumps(with_ports(lambda _: morgue.show(ident)), indent=2))


@dead.command("retry")
@click.argument("ident")
@command
def dead_retry(ident: str) -> None:
    """Send a dead letter's message again, as a first attempt (ID, or all)."""
    from limner.ops import dead as morgue

    count = with_ports(lambda ports: morgue.retry(ports.units, ident))
    click.echo(f"Sent {count} again.")


@dead.command("discard")
@click.argument("ident")
@command
def dead_discard(ident: str) -> None:
    """Settle a dead letter without sending it again."""
    from limner.ops import dead as morgue

    with_ports(lambda ports: morgue.discard(ports.units, ident))
    click.echo("Discarded.")


@cli.group()
def audit() -> None:
    """Check the audit log."""


@audit.command("verify")
@as_json_option
@command
def audit_verify(as_json: bool) -> None:
    """Check the hash chain of the audit log from its first line to its last."""
    from limner.ops import auditing

    verdict = with_ports(lambda ports: auditing.verify(ports.database))
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

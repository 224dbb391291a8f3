"""API keys and accounts."""

import json
import sys

import click

from limner.cli.root import as_json_option, cli, command, with_ports
from limner.storage.sql.accounts import ROLE_SCOPES


@cli.group()
def key() -> None:
    """Make API keys."""


@key.command("create")
@click.argument("email", required=False)
@click.option("--scopes", default="admin", show_default=True, help="Names with commas.")
@click.option("--name", default="command line", show_default=True, help="What it is for.")
@command
def key_create(email: str | None, scopes: str, name: str) -> None:
    """Make an API key for EMAIL, or for the owner; prints the key alone."""
    from limner.ops import keys

    names = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    click.echo(with_ports(lambda ports: keys.create(ports.units, email, names, name)))


@cli.group()
def user() -> None:
    """Make accounts, give roles, help who lost a second factor."""


ROLES = click.Choice(tuple(ROLE_SCOPES))


@user.command("create")
@click.argument("email")
@click.option("--role", type=ROLES, default="user", show_default=True, help="What they may do.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@as_json_option
@command
def user_create(email: str, role: str, password_stdin: bool, as_json: bool) -> None:
    """Make an account for EMAIL, verified; without a password, "forgot" at the sign-in sets one."""
    from limner.http.auth import passwords
    from limner.ops import users

    password = _password() if password_stdin else None
    rules = users.Passwords(passwords.check_new, passwords.hash_password)
    made = with_ports(lambda ports: users.create(ports.units, email, role, password, rules))
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
@command
def user_promote(email: str, role: str, as_json: bool) -> None:
    """Give the account of EMAIL another ROLE; the last administrator stays one."""
    from limner.ops import users

    now = with_ports(lambda ports: users.promote(ports.units, email, role))
    click.echo(json.dumps(now) if as_json else f"{now['email']} is {role}.")


@user.command("drop-second-factor")
@click.argument("email")
@as_json_option
@command
def user_drop_second_factor(email: str, as_json: bool) -> None:
    """Take the second factor of EMAIL away, for somebody who lost it, and mail them that."""
    from limner.http.auth.notices import tell_owner
    from limner.ops import users

    now = with_ports(lambda ports: users.drop_factor(ports.units, email, tell_owner))
    click.echo(
        json.dumps(now) if as_json else f"{now['email']} signs in with the password alone now."
    )

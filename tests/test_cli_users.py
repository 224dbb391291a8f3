"""The user commands: accounts and roles from the command line."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from limner.cli import cli
from limner.http.auth.passwords import verify
from tests.fakes.command_line import CommandLine, command_line

PASSWORD = "a heron at the window"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated_file: Path
) -> Iterator[CommandLine]:
    """Give a command line over a migrated home."""
    with command_line(tmp_path, monkeypatch) as commands:
        commands.home.mkdir()
        shutil.copyfile(migrated_file, commands.home / "limner.db")
        commands.migrate()
        yield commands


def typed(run: CommandLine, text: str, *arguments: str) -> Result:
    """Run a command with ``text`` on its standard input."""
    return CliRunner().invoke(cli, arguments, env={"LIMNER_HOME": str(run.home)}, input=text)


def row(run: CommandLine, email: str) -> dict[str, Any]:
    ((role, state, password, verified),) = run.rows(
        "SELECT role, state, password_hash, verified_at FROM users WHERE email = ?", email
    )
    return {"role": role, "state": state, "password": password, "verified": verified}


def test_an_account_is_made_with_a_role_and_its_address_counts_as_verified(
    run: CommandLine,
) -> None:
    result = run("user", "create", "Anna@Example.com", "--role", "tutor")
    assert result.exit_code == 0, result.output
    assert "anna@example.com (tutor)" in result.stdout
    made = row(run, "anna@example.com")
    assert (made["role"], made["state"], made["password"]) == ("tutor", "active", None)
    assert made["verified"]
    assert run.rows("SELECT actor FROM audit WHERE event = 'user.created'") == [("cli",)]


async def test_a_password_is_read_from_standard_input_and_stored_as_its_hash(
    run: CommandLine,
) -> None:
    result = await asyncio.to_thread(
        typed, run, f"{PASSWORD}\r\n", "user", "create", "a@example.com", "--password-stdin"
    )
    assert result.exit_code == 0, result.output
    stored = row(run, "a@example.com")["password"]
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await verify(stored, PASSWORD)).ok
    assert PASSWORD not in result.output


def test_json_is_for_programs(run: CommandLine) -> None:
    made = json.loads(run("user", "create", "a@example.com", "--json").stdout)
    assert made["id"].startswith("user_")
    assert {**made, "id": ""} == {
        "id": "",
        "email": "a@example.com",
        "role": "user",
        "state": "active",
        "has_password": False,
    }
    now = json.loads(run("user", "promote", "a@example.com", "admin", "--json").stdout)
    assert (now["id"], now["role"]) == (made["id"], "admin")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["create"], 2, "Missing argument"),
        (["create", "nobody"], 2, "is not a mail address"),
        (["create", "a@example.com", "--role", "god"], 2, "'god' is not one of"),
        (["create", "there@example.com"], 1, "there is an account there@example.com already"),
        (["promote", "nobody@example.com", "admin"], 1, "there is no account nobody@example.com"),
        (["promote", "there@example.com", "god"], 2, "'god' is not one of"),
        (["promote", "there@example.com"], 2, "Missing argument"),
        (["drop-second-factor", "nobody@example.com"], 1, "there is no account nobody@example.com"),
        (["drop-second-factor", "there@example.com"], 1, "there@example.com has no second factor"),
        (["drop-second-factor", "nobody"], 2, "is not a mail address"),
        (["demote", "there@example.com"], 2, "No such command"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(
    run: CommandLine, arguments: list[str], code: int, says: str
) -> None:
    assert run("user", "create", "there@example.com").exit_code == 0
    result = run("user", *arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert says in result.stderr
    assert len(run.rows("SELECT id FROM users")) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "no password on standard input"), ("short\n", "8"), ("a@example.com\n", "password")],
)
def test_a_password_that_nobody_should_have_is_a_usage_error(
    run: CommandLine, text: str, says: str
) -> None:
    result = typed(run, text, "user", "create", "a@example.com", "--password-stdin")
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(run.rows("SELECT id FROM users")) == 1


def test_a_role_is_given_and_taken_but_never_the_last_administrators(run: CommandLine) -> None:
    run.rows("UPDATE users SET email = 'owner@example.com'")
    last = run("user", "promote", "owner@example.com", "user")
    assert (last.exit_code, "last administrator" in last.stderr) == (1, True)
    run("user", "create", "a@example.com")
    assert "is admin" in run("user", "promote", "a@example.com", "admin").stdout
    assert run("user", "promote", "Owner@example.com", "user").exit_code == 0
    assert row(run, "owner@example.com")["role"] == "user"
    assert row(run, "a@example.com")["role"] == "admin"
    told = run.rows(
        "SELECT email, kind, data FROM notifications JOIN users "
        "ON users.id = notifications.user_id ORDER BY notifications.id"
    )
    assert [(email, kind, json.loads(data)) for email, kind, data in told] == [
        ("a@example.com", "user.role_changed", {"role": "admin"}),
        ("owner@example.com", "user.role_changed", {"role": "user"}),
    ]


def test_the_same_role_again_changes_nothing(run: CommandLine) -> None:
    run("user", "create", "a@example.com")
    assert run("user", "promote", "a@example.com", "user").exit_code == 0
    assert run.rows("SELECT id FROM audit WHERE event = 'user.changed'") == []
    assert run.rows("SELECT id FROM notifications") == []


def test_who_lost_the_second_factor_signs_in_without_one_and_hears_of_it(run: CommandLine) -> None:
    ident = json.loads(run("user", "create", "a@example.com", "--json").stdout)["id"]
    run.rows(
        "UPDATE users SET totp_sealed = x'00', totp_enabled_at = created_at, totp_last_step = 7 "
        "WHERE id = ?",
        ident,
    )
    run.rows(
        "INSERT INTO recovery_codes (id, user_id, sha256, created_at) "
        "SELECT 'c', id, '00', created_at FROM users WHERE id = ?",
        ident,
    )
    result = run("user", "drop-second-factor", "A@example.com")
    assert result.exit_code == 0, result.output
    assert "a@example.com" in result.stdout
    factor = "SELECT totp_sealed, totp_enabled_at, totp_last_step FROM users WHERE id = ?"
    assert run.rows(factor, ident) == [(None, None, 0)]
    assert run.rows("SELECT id FROM recovery_codes") == []
    assert run.rows("SELECT user_id, kind FROM notifications") == [(ident, "user.totp_disabled")]
    assert run.rows("SELECT actor, subject FROM audit WHERE event = 'user.totp_disabled'") == [
        ("cli", ident)
    ]
    ((topic, body),) = run.rows("SELECT topic, body FROM outbox")
    assert topic == "mailer.account"
    assert {"user_id": ident, "kind": "second-factor-changed"}.items() <= json.loads(body).items()

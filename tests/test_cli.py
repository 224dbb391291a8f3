"""The commands: what they print, for people and as JSON, and how they exit."""

import json
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from limner.cli import cli
from limner.core.locks import home_lock
from tests.fakes.command_line import CommandLine, command_line
from tests.journeys.process import free_port

LIMIT_S = 20.0
LOOK_S = 0.05
SECRET = "canary-6a1f0c7ce0b54d0f9f1e2d3c4b5a6978"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """Give a command line over a home that is not there yet."""
    with command_line(tmp_path, monkeypatch) as commands:
        yield commands


@pytest.fixture
def home(run: CommandLine, migrated_file: Path) -> Path:
    """Give the command line's home, migrated."""
    run.home.mkdir()
    shutil.copyfile(migrated_file, run.home / "limner.db")
    run.migrate()
    return run.home


# Usage


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command"),
        (["serve", "--port", "99999"], "99999"),
        (["serve", "--port", "http"], "not a valid"),
        (["serve", "--actors", "mailer,painter"], "no such actor: painter"),
        (["dead", "show"], "Missing argument"),
        (["dead", "nonsense"], "No such command"),
        (["key", "create", "--colour"], "No such option"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_what_is_wrong(
    arguments: list[str], says: str, home: Path, run: CommandLine
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments", [["serve"], ["migrate"], ["doctor"], ["settings"], ["key", "create"]]
)
def test_an_unknown_setting_is_a_usage_error_of_every_command(
    arguments: list[str], home: Path, run: CommandLine
) -> None:
    result = run(*arguments, LIMNER_LOG_LEVLE="debug")
    assert result.exit_code == 2
    assert "Did you mean LIMNER_LOG_LEVEL?" in result.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMNER_BROKER_URL", "carrier-pigeon:"),
        ("LIMNER_CACHE_URL", "pocket:"),
        ("LIMNER_OBJECTS_URL", "drawer:"),
        ("LIMNER_DATABASE_URL", "ledger://x"),
    ],
)
def test_a_url_without_an_adapter_is_a_usage_error_that_names_the_setting(
    name: str, value: str, home: Path, run: CommandLine
) -> None:
    result = run("key", "create", **{name: value})
    assert result.exit_code == 2
    assert name in result.stderr


def test_help_lists_every_command(run: CommandLine) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in cli.commands:
        assert name in result.stdout


# migrate


def test_migrate_makes_tables_and_owner_once(tmp_path: Path, run: CommandLine) -> None:
    first, second = run("migrate"), run("migrate")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "Applied 2: 0001_initial, 0002_front" in first.stdout
    assert "up to date" in second.stdout
    assert run.rows("SELECT role, is_owner FROM users") == [("admin", 1)]


def test_migrate_prints_json(run: CommandLine) -> None:
    assert json.loads(run("migrate", "--json").stdout)["applied"][0].startswith("0001")
    assert json.loads(run("migrate", "--json").stdout) == {"applied": []}


def test_migrate_refuses_a_home_that_is_in_use(home: Path, run: CommandLine) -> None:
    with home_lock(home):
        result = run("migrate")
    assert result.exit_code == 1
    assert f"in use by process {os.getpid()}" in result.stderr


def test_a_command_on_an_old_schema_exits_with_1_and_names_migrate(run: CommandLine) -> None:
    result = run("dead", "list")
    assert result.exit_code == 1
    assert "python run.py migrate" in result.stderr


# key create


def test_key_create_prints_the_key_alone_and_stores_only_its_hash(
    home: Path, run: CommandLine
) -> None:
    result = run("key", "create", "--scopes", "tasks:read, ops:read", "--name", "probe")
    assert result.exit_code == 0
    key = result.stdout.removesuffix("\n")
    assert key.startswith("lim_")
    assert "\n" not in key
    assert result.stderr == ""
    ((name, prefix, scopes),) = run.rows("SELECT name, prefix, scopes FROM api_keys")
    assert (name, json.loads(scopes)) == ("probe", ["ops:read", "tasks:read"])
    assert key.startswith(prefix)
    assert key.encode() not in (home / "limner.db").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nobody@example.com"], 1, "there is no account nobody@example.com"),
        (["--scopes", "everything"], 2, "everything is no scope"),
        (["--scopes", " , "], 2, "at least one is needed"),
    ],
)
def test_key_create_says_why_it_cannot(
    arguments: list[str], code: int, says: str, home: Path, run: CommandLine
) -> None:
    result = run("key", "create", *arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stdout == ""


def test_key_create_finds_an_account_by_its_address_in_any_case(
    home: Path, run: CommandLine
) -> None:
    run.rows("UPDATE users SET email = 'owner@example.com'")
    assert run("key", "create", "Owner@Example.com").exit_code == 0
    run.rows("UPDATE users SET state = 'disabled'")
    assert run("key", "create", "owner@example.com").exit_code == 1


# settings


def test_settings_shows_every_setting_with_its_source(home: Path, run: CommandLine) -> None:
    result = run("settings", LIMNER_CONCURRENCY="7")
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if "LIMNER_CONCURRENCY" in line)
    assert line.split() == ["LIMNER_CONCURRENCY", "7", "environment"]
    table = {row["name"]: row for row in json.loads(run("settings", "--json").stdout)}
    assert table["LIMNER_CONCURRENCY"]["source"] == "default"
    assert table["LIMNER_HTTP__PORT"]["value"] == 8080
    assert all(row["description"] for row in table.values())


def test_settings_masks_secrets(home: Path, run: CommandLine, tmp_path: Path) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET)
    secrets = {
        "LIMNER_SECRET_KEY_FILE": str(secret_file),
        "LIMNER_LLM_KEY": SECRET,
        "LIMNER_MAIL_URL": f"smtp://me:{SECRET}@127.0.0.1:25?tls=none",
        "LIMNER_OBJECTS_SECRET_KEY": SECRET,
        "LIMNER_CACHE_URL": f"redis://:{SECRET}@127.0.0.1/0",
    }
    for arguments in (["settings"], ["settings", "--json"]):
        result = run(*arguments, **secrets)
        assert result.exit_code == 0
        assert SECRET not in result.output
        assert "********" in result.stdout


def test_settings_reads_the_env_file_of_the_folder(
    home: Path, run: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("LIMNER_CONCURRENCY=9\n")
    table = {row["name"]: row for row in json.loads(run("settings", "--json").stdout)}
    assert table["LIMNER_CONCURRENCY"]["value"] == 9
    assert table["LIMNER_CONCURRENCY"]["source"] == ".env"


def test_a_warning_goes_to_stderr_and_leaves_the_output_clean(home: Path, run: CommandLine) -> None:
    result = run("settings", "--json", LIMNER_ALLOW_PRIVATE_HOSTS="127.0.0.1:9")
    assert json.loads(result.stdout)
    assert "for development only" in result.stderr


# Documents


def test_openapi_prints_a_valid_document_of_openapi_3_1(home: Path, run: CommandLine) -> None:
    result = run("openapi")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["openapi"].startswith("3.1")
    validate(document)
    assert "/api/tasks/{id}" in document["paths"]


def test_asyncapi_prints_a_document_with_a_channel_for_every_command(
    home: Path, run: CommandLine
) -> None:
    result = run("asyncapi")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["asyncapi"].startswith("3.0")
    for topic in ("mailer.send", "generator.generate"):
        assert topic in result.stdout


# demo and serve


@pytest.mark.journey
@pytest.mark.timeout(120)
def test_the_demo_ends_as_expected_and_leaves_pictures_and_mails(
    tmp_path: Path, run: CommandLine
) -> None:
    kept = tmp_path / "kept"
    result = run("demo", "--keep", str(kept))
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "17 comments, 9 mails" in result.stdout
    assert "A second poll added 0." in result.stdout
    pictures = sorted(path.name for path in (kept / "pictures").iterdir())
    assert len(pictures) == 9
    assert "demo-08.webm" in pictures
    assert len(list((kept / "mails").glob("*.eml"))) == 9


@pytest.mark.journey
def test_serve_prints_where_it_is_and_a_link_that_signs_in_once_and_ends_at_sigterm(
    home: Path, run: CommandLine
) -> None:
    port, opened = free_port(), list[int]()

    def visit() -> None:
        # Only a server that answers has its signal handlers; any other process would die of it.
        if _answers(f"http://127.0.0.1:{port}/readyz", LIMIT_S):
            # It listens a moment before it makes the link that it prints.
            until, links = time.monotonic() + LIMIT_S, 0
            while not links and time.monotonic() < until:
                ((links,),) = run.rows("SELECT COUNT(*) FROM sign_in_links")
                time.sleep(LOOK_S)
            opened.append(links)
            os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=visit)
    visitor.start()
    result = run("serve", "--port", str(port), LIMNER_ALLOW_PRIVATE_HOSTS="127.0.0.1:9")
    visitor.join()
    assert opened == [1]
    assert result.exit_code == 0, result.output
    assert f"Limner runs at http://127.0.0.1:{port}\n" in result.stdout
    assert f"http://127.0.0.1:{port}/sign-in/" in result.stdout
    told = [json.loads(line) for line in result.stderr.splitlines()]
    assert told[0]["event"] == "a setting needs a look"
    assert {"started", "stopping"} <= {one["event"] for one in told}


def _answers(url: str, limit_s: float) -> bool:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=limit_s) as answer:  # noqa: S310 - our own
                return bool(answer.status == 200)
        except OSError:
            time.sleep(LOOK_S)
    return False

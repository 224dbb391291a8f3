"""The commands: what they print, for people and as JSON, and how they exit."""

import asyncio
import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result
from openapi_spec_validator import validate

from limner.actors.mailer.messages import Deliver
from limner.app import Service, open_engines
from limner.cli import cli
from limner.core.locks import home_lock
from limner.core.settings import Settings
from limner.ops import migration
from limner.storage.sql.messaging import DeadLetter
from tests.journeys.process import until

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 20.0
SECRET = "canary-6a1f0c7ce0b54d0f9f1e2d3c4b5a6978"

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a migrated database; copy it, never open it."""
    home = tmp_path_factory.mktemp("migrated")

    async def make() -> None:
        async with open_engines(Settings(home=home), check_schema=False) as engines:
            await migration.migrate(engines.ports.database, engines.ports.units)

    asyncio.run(make())
    return home


@pytest.fixture
def home(migrated: Path, tmp_path: Path) -> Path:
    """Give a migrated home."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("limner.db", "secret_key"):
        (folder / name).write_bytes((migrated / name).read_bytes())
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command in an empty folder, over ``tmp_path/home`` and no other setting."""
    for name in os.environ:
        if name.startswith("LIMNER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    runner = CliRunner()

    def call(*arguments: str, **settings: str) -> Result:
        environment = {"LIMNER_HOME": str(tmp_path / "home"), **settings}
        return runner.invoke(cli, arguments, env=environment)

    yield call
    # The commands set up logging to the stream that the runner has closed since.
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def dead_letter(home: Path) -> dict[str, str]:
    """Have the mailer bury a real message: one about a delivery that there is not."""

    async def bury() -> dict[str, str]:
        async with open_engines(Settings(home=home)) as engines:
            service = Service(engines, ("mailer",), {})
            await service.start(http=False)
            try:
                work = engines.ports.units.open("test")
                work.send(Deliver(delivery_id="delivery_none"))
                await engines.ports.units.commit(work)
                await until(DeadLetter.exists, LIMIT_S, "a dead letter")
            finally:
                await service.stop()
            letter = await DeadLetter.get()
            return {"id": letter.id, "body": bytes(letter.body).decode()}

    return asyncio.run(bury())


def rows(home: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run a statement on a home's database."""
    connection = sqlite3.connect(home / "limner.db")
    try:
        with connection:
            return connection.execute(query, values).fetchall()
    finally:
        connection.close()


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
    arguments: list[str], says: str, home: Path, run: Run
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments", [["serve"], ["migrate"], ["doctor"], ["settings"], ["key", "create"]]
)
def test_an_unknown_setting_is_a_usage_error_of_every_command(
    arguments: list[str], home: Path, run: Run
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
    name: str, value: str, home: Path, run: Run
) -> None:
    result = run("key", "create", **{name: value})
    assert result.exit_code == 2
    assert name in result.stderr


def test_help_lists_every_command(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in cli.commands:
        assert name in result.stdout


# migrate


def test_migrate_makes_tables_and_owner_once(tmp_path: Path, run: Run) -> None:
    first, second = run("migrate"), run("migrate")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "Applied 1: 0001_initial" in first.stdout
    assert "up to date" in second.stdout
    assert rows(tmp_path / "home", "SELECT role, is_owner FROM users") == [("admin", 1)]


def test_migrate_prints_json(run: Run) -> None:
    assert json.loads(run("migrate", "--json").stdout)["applied"][0].startswith("0001")
    assert json.loads(run("migrate", "--json").stdout) == {"applied": []}


def test_migrate_refuses_a_home_that_is_in_use(home: Path, run: Run) -> None:
    with home_lock(home):
        result = run("migrate")
    assert result.exit_code == 1
    assert f"in use by process {os.getpid()}" in result.stderr


def test_a_command_on_an_old_schema_exits_with_1_and_names_migrate(run: Run) -> None:
    result = run("dead", "list")
    assert result.exit_code == 1
    assert "python run.py migrate" in result.stderr


# key create


def test_key_create_prints_the_key_alone_and_stores_only_its_hash(home: Path, run: Run) -> None:
    result = run("key", "create", "--scopes", "tasks:read, ops:read", "--name", "probe")
    assert result.exit_code == 0
    key = result.stdout.removesuffix("\n")
    assert key.startswith("lim_")
    assert "\n" not in key
    assert result.stderr == ""
    ((name, prefix, scopes),) = rows(home, "SELECT name, prefix, scopes FROM api_keys")
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
    arguments: list[str], code: int, says: str, home: Path, run: Run
) -> None:
    result = run("key", "create", *arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stdout == ""


def test_key_create_finds_an_account_by_its_address_in_any_case(home: Path, run: Run) -> None:
    rows(home, "UPDATE users SET email = 'owner@example.com'")
    assert run("key", "create", "Owner@Example.com").exit_code == 0
    rows(home, "UPDATE users SET state = 'disabled'")
    assert run("key", "create", "owner@example.com").exit_code == 1


# dead


def test_dead_list_says_that_there_are_none(home: Path, run: Run) -> None:
    assert run("dead", "list").stdout == "No dead letters.\n"
    assert json.loads(run("dead", "list", "--json").stdout) == []


def test_dead_list_and_show_tell_what_could_not_be_handled_and_why(
    dead_letter: dict[str, str], run: Run
) -> None:
    ident = dead_letter["id"]
    text = run("dead", "list").stdout
    assert ident in text
    assert "mailer.deliver" in text
    assert "not_found: there is no delivery delivery_none" in text
    (row,) = json.loads(run("dead", "list", "--json").stdout)
    assert (row["id"], row["state"], row["attempt"]) == (ident, "open", 1)
    shown = json.loads(run("dead", "show", ident).stdout)
    assert shown["body"] == dead_letter["body"]
    assert shown["encoding"] == "utf-8"


def test_dead_show_gives_a_body_that_is_no_text_as_base64(
    home: Path, dead_letter: dict[str, str], run: Run
) -> None:
    rows(home, "UPDATE dead_letters SET body = ?", b"\xff\xfe")
    shown = json.loads(run("dead", "show", dead_letter["id"]).stdout)
    assert (shown["body"], shown["encoding"]) == ("//4=", "base64")


def test_dead_retry_sends_the_message_anew_once(
    home: Path, dead_letter: dict[str, str], run: Run
) -> None:
    ident = dead_letter["id"]
    result = run("dead", "retry", ident)
    assert (result.exit_code, result.stdout) == (0, "Sent 1 again.\n")
    sent = rows(home, "SELECT topic, attempt, body FROM outbox")
    assert sent == [("mailer.deliver", 1, dead_letter["body"].encode())]
    assert run("dead", "list").stdout == "No dead letters.\n"
    assert f"{ident}" in run("dead", "list", "--all").stdout
    assert "[retried]" in run("dead", "list", "--all").stdout
    again = run("dead", "retry", ident)
    assert again.exit_code == 1
    assert "settled before" in again.stderr
    assert rows(home, "SELECT COUNT(*) FROM outbox") == [(1,)]


def test_dead_retry_all_sends_every_open_one(
    home: Path, dead_letter: dict[str, str], run: Run
) -> None:
    assert run("dead", "retry", "all").stdout == "Sent 1 again.\n"
    assert run("dead", "retry", "all").stdout == "Sent 0 again.\n"
    assert rows(home, "SELECT COUNT(*) FROM outbox") == [(1,)]


def test_dead_discard_settles_without_sending(
    home: Path, dead_letter: dict[str, str], run: Run
) -> None:
    assert run("dead", "discard", dead_letter["id"]).stdout == "Discarded.\n"
    assert rows(home, "SELECT COUNT(*) FROM outbox") == [(0,)]
    assert rows(home, "SELECT state FROM dead_letters") == [("discarded",)]
    assert run("dead", "discard", dead_letter["id"]).exit_code == 1


@pytest.mark.parametrize("verb", ["show", "retry", "discard"])
def test_a_dead_letter_that_there_is_not_exits_with_1(verb: str, home: Path, run: Run) -> None:
    result = run("dead", verb, "dead_none")
    assert result.exit_code == 1
    assert "there is no dead letter dead_none" in result.stderr


# audit


def test_audit_verify_holds_for_an_untouched_log(home: Path, run: Run) -> None:
    run("key", "create")
    run("key", "create")
    result = run("audit", "verify")
    assert result.exit_code == 0
    assert "The chain holds: 2 lines, 0 not sealed yet." in result.stdout
    told = json.loads(run("audit", "verify", "--json").stdout)
    assert told == {"lines": 2, "broken_at": None, "unsealed": 0}


@pytest.mark.parametrize(
    ("tampering", "broken_at"),
    [
        ("UPDATE audit SET data = '{}' WHERE seq = 2", 2),
        ("UPDATE audit SET actor = 'somebody' WHERE seq = 1", 1),
        ("DELETE FROM audit WHERE seq = 2", 2),
        ("UPDATE audit SET at = '2001-01-01 00:00:00+00:00' WHERE seq = 3", 3),
    ],
)
def test_audit_verify_finds_tampering_and_exits_with_1(
    tampering: str, broken_at: int, home: Path, run: Run
) -> None:
    for _ in range(3):
        run("key", "create")
    assert run("audit", "verify").exit_code == 0
    rows(home, tampering)
    result = run("audit", "verify")
    assert result.exit_code == 1
    assert f"broken at line {broken_at}" in result.stderr
    assert json.loads(run("audit", "verify", "--json").stdout)["broken_at"] == broken_at


# doctor


def test_doctor_finds_nothing_wrong_with_a_fresh_home(home: Path, run: Run) -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.stdout
    assert "fail" not in result.stdout
    checks = {one["name"]: one for one in json.loads(run("doctor", "--json").stdout)}
    for name in ("python", "schema", "database", "broker", "objects", "cache", "generator"):
        assert checks[name]["status"] == "pass", checks[name]


def test_doctor_says_what_to_do_on_a_fresh_machine_and_makes_nothing(
    tmp_path: Path, run: Run
) -> None:
    result = run("doctor")
    assert result.exit_code == 0
    assert "limner.db yet" in result.stdout
    assert "-> python run.py migrate" in result.stdout
    assert not (tmp_path / "home").exists()


def test_doctor_tells_of_an_old_schema_and_what_mends_it(home: Path, run: Run) -> None:
    (home / "limner.db").write_bytes(b"")
    result = run("doctor")
    assert result.exit_code == 0
    assert "1 migrations are pending" in result.stdout
    assert "-> python run.py migrate" in result.stdout


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"LIMNER_MAIL_URL": "smtp://127.0.0.1:1?tls=none"}, "mail server"),
        ({"LIMNER_GENERATOR__MODEL": "/nowhere"}, "generator"),
        ({"LIMNER_LLM_URL": "http://127.0.0.1:1/v1"}, "language model"),
        ({"LIMNER_CACHE_URL": "pocket:"}, "engines"),
    ],
)
def test_doctor_exits_with_1_and_names_what_is_broken_and_the_mend(
    settings: dict[str, str], name: str, home: Path, run: Run
) -> None:
    result = run("doctor", "--json", **settings)
    assert result.exit_code == 1
    failed = [one for one in json.loads(result.stdout) if one["status"] == "fail"]
    assert [one["name"] for one in failed] == [name]
    assert failed[0]["detail"]
    assert failed[0]["mend"]


# settings


def test_settings_shows_every_setting_with_its_source(home: Path, run: Run) -> None:
    result = run("settings", LIMNER_CONCURRENCY="7")
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if "LIMNER_CONCURRENCY" in line)
    assert line.split() == ["LIMNER_CONCURRENCY", "7", "environment"]
    table = {row["name"]: row for row in json.loads(run("settings", "--json").stdout)}
    assert table["LIMNER_CONCURRENCY"]["source"] == "default"
    assert table["LIMNER_HTTP__PORT"]["value"] == 8080
    assert all(row["description"] for row in table.values())


def test_settings_masks_secrets(home: Path, run: Run, tmp_path: Path) -> None:
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


def test_settings_reads_the_env_file_of_the_folder(home: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LIMNER_CONCURRENCY=9\n")
    table = {row["name"]: row for row in json.loads(run("settings", "--json").stdout)}
    assert table["LIMNER_CONCURRENCY"]["value"] == 9
    assert table["LIMNER_CONCURRENCY"]["source"] == ".env"


def test_a_warning_goes_to_stderr_and_leaves_the_output_clean(home: Path, run: Run) -> None:
    result = run("settings", "--json", LIMNER_ALLOW_PRIVATE_HOSTS="127.0.0.1:9")
    assert json.loads(result.stdout)
    assert "for development only" in result.stderr


# Documents


def test_openapi_prints_a_valid_document_of_openapi_3_1(home: Path, run: Run) -> None:
    result = run("openapi")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["openapi"].startswith("3.1")
    validate(document)
    assert "/api/tasks/{id}" in document["paths"]


def test_asyncapi_prints_a_document_with_a_channel_for_every_command(home: Path, run: Run) -> None:
    result = run("asyncapi")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["asyncapi"].startswith("3.0")
    for topic in ("mailer.send", "generator.generate"):
        assert topic in result.stdout


# demo


@pytest.mark.journey
@pytest.mark.timeout(120)
def test_the_demo_ends_as_expected_and_leaves_pictures_and_mails(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIMNER_")}
    ended = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "demo", "--keep", str(kept)],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert "17 comments, 9 mails" in ended.stdout
    assert "A second poll added 0." in ended.stdout
    pictures = sorted(path.name for path in (kept / "pictures").iterdir())
    assert len(pictures) == 9
    assert "demo-08.webm" in pictures
    assert len(list((kept / "mails").glob("*.eml"))) == 9

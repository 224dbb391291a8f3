"""The commands of whoever operates the service: dead letters, the audit log, the doctor."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from limner.ops import doctor
from tests.fakes.command_line import CommandLine, command_line
from tests.fakes.smtp import FakeSmtp


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


@pytest.fixture
def dead_letter(home: Path, run: CommandLine) -> tuple[str, str]:
    """Give id and body of a real dead letter."""
    return run.bury()


# dead


def test_dead_list_says_that_there_are_none(home: Path, run: CommandLine) -> None:
    assert run("dead", "list").stdout == "No dead letters.\n"
    assert json.loads(run("dead", "list", "--json").stdout) == []


def test_dead_list_and_show_tell_what_could_not_be_handled_and_why(
    dead_letter: tuple[str, str], run: CommandLine
) -> None:
    ident = dead_letter[0]
    text = run("dead", "list").stdout
    assert ident in text
    assert "mailer.deliver" in text
    assert "not_found: there is no delivery delivery_none" in text
    (row,) = json.loads(run("dead", "list", "--json").stdout)
    assert (row["id"], row["state"], row["attempt"]) == (ident, "open", 1)
    shown = json.loads(run("dead", "show", ident).stdout)
    assert shown["body"] == dead_letter[1]
    assert shown["encoding"] == "utf-8"


def test_dead_show_gives_a_body_that_is_no_text_as_base64(
    home: Path, dead_letter: tuple[str, str], run: CommandLine
) -> None:
    run.rows("UPDATE dead_letters SET body = ?", b"\xff\xfe")
    shown = json.loads(run("dead", "show", dead_letter[0]).stdout)
    assert (shown["body"], shown["encoding"]) == ("//4=", "base64")


def test_dead_retry_sends_the_message_anew_once(
    home: Path, dead_letter: tuple[str, str], run: CommandLine
) -> None:
    ident = dead_letter[0]
    result = run("dead", "retry", ident)
    assert (result.exit_code, result.stdout) == (0, "Sent 1 again.\n")
    sent = run.rows("SELECT topic, attempt, body FROM outbox")
    assert sent == [("mailer.deliver", 1, dead_letter[1].encode())]
    assert run("dead", "list").stdout == "No dead letters.\n"
    assert f"{ident}" in run("dead", "list", "--all").stdout
    assert "[retried]" in run("dead", "list", "--all").stdout
    again = run("dead", "retry", ident)
    assert again.exit_code == 1
    assert "settled before" in again.stderr
    assert run.rows("SELECT COUNT(*) FROM outbox") == [(1,)]


def test_dead_retry_all_sends_every_open_one(
    home: Path, dead_letter: tuple[str, str], run: CommandLine
) -> None:
    assert run("dead", "retry", "all").stdout == "Sent 1 again.\n"
    assert run("dead", "retry", "all").stdout == "Sent 0 again.\n"
    assert run.rows("SELECT COUNT(*) FROM outbox") == [(1,)]


def test_dead_discard_settles_without_sending(
    home: Path, dead_letter: tuple[str, str], run: CommandLine
) -> None:
    assert run("dead", "discard", dead_letter[0]).stdout == "Discarded.\n"
    assert run.rows("SELECT COUNT(*) FROM outbox") == [(0,)]
    assert run.rows("SELECT state FROM dead_letters") == [("discarded",)]
    assert run("dead", "discard", dead_letter[0]).exit_code == 1


@pytest.mark.parametrize("verb", ["show", "retry", "discard"])
def test_a_dead_letter_that_there_is_not_exits_with_1(
    verb: str, home: Path, run: CommandLine
) -> None:
    result = run("dead", verb, "dead_none")
    assert result.exit_code == 1
    assert "there is no dead letter dead_none" in result.stderr


# audit


def test_audit_verify_holds_for_an_untouched_log(home: Path, run: CommandLine) -> None:
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
    tampering: str, broken_at: int, home: Path, run: CommandLine
) -> None:
    for _ in range(3):
        run("key", "create")
    assert run("audit", "verify").exit_code == 0
    run.rows(tampering)
    result = run("audit", "verify")
    assert result.exit_code == 1
    assert f"broken at line {broken_at}" in result.stderr
    assert json.loads(run("audit", "verify", "--json").stdout)["broken_at"] == broken_at


# doctor


def test_doctor_finds_nothing_wrong_with_a_fresh_home(home: Path, run: CommandLine) -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.stdout
    assert "fail" not in result.stdout
    checks = {one["name"]: one for one in json.loads(run("doctor", "--json").stdout)}
    for name in ("python", "schema", "database", "broker", "objects", "cache", "generator"):
        assert checks[name]["status"] == "pass", checks[name]


def test_doctor_says_what_to_do_on_a_fresh_machine_and_makes_nothing(
    tmp_path: Path, run: CommandLine
) -> None:
    result = run("doctor")
    assert result.exit_code == 0
    assert "limner.db yet" in result.stdout
    assert "-> python run.py migrate" in result.stdout
    assert not (tmp_path / "home").exists()


def test_doctor_tells_of_an_old_schema_and_what_mends_it(home: Path, run: CommandLine) -> None:
    (home / "limner.db").write_bytes(b"")
    result = run("doctor")
    assert result.exit_code == 0
    assert "2 migrations are pending" in result.stdout
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
    settings: dict[str, str], name: str, home: Path, run: CommandLine
) -> None:
    result = run("doctor", "--json", **settings)
    assert result.exit_code == 1
    failed = [one for one in json.loads(result.stdout) if one["status"] == "fail"]
    assert [one["name"] for one in failed] == [name]
    assert failed[0]["detail"]
    assert failed[0]["mend"]


@pytest.mark.parametrize(
    ("settings", "name", "detail"),
    [
        ({"LIMNER_ALLOW_PRIVATE_HOSTS": "127.0.0.1:9"}, "settings", "for development only"),
        ({"LIMNER_ENVIRONMENT": "production"}, "mail", "nothing is sent"),
    ],
)
def test_doctor_warns_of_what_a_service_for_others_should_not_have(
    settings: dict[str, str], name: str, detail: str, home: Path, run: CommandLine
) -> None:
    result = run("doctor", "--json", LIMNER_SECRET_KEY="k" * 32, **settings)
    assert result.exit_code == 0
    (warned,) = [one for one in json.loads(result.stdout) if one["status"] == "warn"]
    assert (warned["name"], bool(warned["mend"])) == (name, True)
    assert detail in warned["detail"]


async def test_doctor_reaches_a_mail_server_and_warns_of_mails_in_the_clear(
    home: Path, run: CommandLine
) -> None:
    async with FakeSmtp() as smtp:
        settings = {
            "LIMNER_MAIL_URL": smtp.url,
            "LIMNER_LLM_URL": "http://127.0.0.1:1/v1",
            "LIMNER_LLM_MODEL": "a-model",
        }
        result = await asyncio.to_thread(run, "doctor", "--json", **settings)
    assert result.exit_code == 0, result.stdout
    checks = {one["name"]: one for one in json.loads(result.stdout)}
    assert checks["mail server"]["status"] == "pass"
    assert checks["mail"]["detail"] == "sent without encryption"
    assert checks["language model"]["detail"] == "a-model"


def test_doctor_tells_of_a_package_that_is_missing(
    home: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("uvloop-of-nobody", "aiohttp"))
    result = run("doctor", "--json")
    assert result.exit_code == 1
    checks = {one["name"]: one for one in json.loads(result.stdout)}
    assert checks["uvloop-of-nobody"]["mend"] == "make setup"


def test_doctor_and_health_tell_of_dead_letters(
    dead_letter: tuple[str, str], run: CommandLine
) -> None:
    checks = {one["name"]: one for one in json.loads(run("doctor", "--json").stdout)}
    assert checks["dead letters"]["detail"] == "1 open"
    assert "run.py dead list" in checks["dead letters"]["mend"]

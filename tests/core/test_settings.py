"""Settings: where each comes from, what is refused and how, and what the operator is told."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.core.errors import Invalid
from limner.core.settings import ALIASES, LOG_LEVELS, Loaded, Settings, field_names, load

KEY = "k" * 32


def loaded(**environ: str) -> Loaded:
    return load(environ)


def refusal(environ: dict[str, str], **options: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        load(environ, **options)
    assert caught.value.code == "settings" or not caught.value.faults
    return caught.value


def test_without_anything_the_defaults_hold_and_say_so() -> None:
    found = loaded()
    settings = found.settings
    assert settings == Settings()
    assert set(found.sources.values()) == {"default"}
    assert found.warnings == []
    assert settings.database == "sqlite://var/limner.db"
    assert settings.objects == "file://var/objects"
    assert settings.base_url == "http://127.0.0.1:8080"
    assert settings.embedded


def test_other_variables_of_the_environment_are_none_of_ours() -> None:
    assert loaded(PATH="/bin", HOME="/root", LIMNERX="1").settings == Settings()


def test_later_sources_win_and_each_is_remembered(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(
        "LIMNER_CONCURRENCY=2\nLIMNER_MAX_RETRIES=2\nLIMNER_LLM_MODEL=a\nLIMNER_LLM_URL\n"
    )
    found = load(
        {"LIMNER_MAX_RETRIES": "5", "LIMNER_LLM_MODEL": "b"},
        env_file=env_file,
        flags={"LIMNER_LLM_MODEL": "c", "LIMNER_HTTP__PORT": 0},
    )
    settings, sources = found.settings, found.sources
    assert (settings.concurrency, settings.max_retries, settings.llm_model) == (2, 5, "c")
    assert (settings.http.port, settings.llm_url) == (0, "")
    assert sources["LIMNER_CONCURRENCY"] == str(env_file)
    assert sources["LIMNER_MAX_RETRIES"] == "environment"
    assert sources["LIMNER_LLM_MODEL"] == sources["LIMNER_HTTP__PORT"] == "flag"
    assert sources["LIMNER_HOME"] == "default"


def test_a_file_that_is_not_there_is_no_source(tmp_path: Path) -> None:
    assert load({}, env_file=tmp_path / "none").settings == Settings()


def test_nested_settings_have_two_underscores() -> None:
    found = loaded(
        LIMNER_HTTP__HOST="0.0.0.0",
        LIMNER_HTTP__PORT="9000",
        LIMNER_HTTP__TRUSTED_PROXIES="10.0.0.0/8, 192.168.0.0/16,,",
        LIMNER_GENERATOR__DEVICE="cpu",
    )
    assert (found.settings.http.host, found.settings.http.port) == ("0.0.0.0", 9000)
    assert found.settings.http.trusted_proxies == ("10.0.0.0/8", "192.168.0.0/16")
    assert found.settings.generator.device == "cpu"
    assert found.settings.base_url == "http://0.0.0.0:9000"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300", 300),
        ("1.5", 1.5),
        ("250ms", 0.25),
        ("90s", 90),
        ("5m", 300),
        ("0.5h", 1800),
        (" 5m ", 300),
    ],
)
def test_durations_may_carry_a_unit(text: str, seconds: float) -> None:
    assert loaded(LIMNER_JOB_TIMEOUT_S=text).settings.job_timeout_s == seconds


@given(st.floats(min_value=0.001, max_value=1e6), st.sampled_from(["ms", "s", "m", "h", ""]))
def test_every_duration_means_its_number_of_units(number: float, unit: str) -> None:
    each = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}[unit]
    text = f"{number:.3f}"
    found = loaded(LIMNER_JOB_TIMEOUT_S=text + unit).settings.job_timeout_s
    assert found == pytest.approx(float(text) * each)


def test_values_that_are_no_text_stay_what_they_are() -> None:
    settings = Settings(job_timeout_s=7, allow_private_hosts=("a:1",))
    assert (settings.job_timeout_s, settings.allow_private_hosts) == (7, ("a:1",))


@pytest.mark.parametrize("text", ["", "fast", "5 m", "-1", "0", "1d", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    error = refusal({"LIMNER_JOB_TIMEOUT_S": text})
    assert [name for name, _ in error.faults] == ["LIMNER_JOB_TIMEOUT_S"]


def test_all_faults_are_told_at_once_each_by_its_name() -> None:
    error = refusal(
        {
            "LIMNER_CONCURRENCY": "0",
            "LIMNER_HTTP__PORT": "99999",
            "LIMNER_LOG_LEVEL": "loud",
            "LIMNER_CONCURENCY": "4",
        }
    )
    assert sorted(name for name, _ in error.faults) == [
        "LIMNER_CONCURENCY",
        "LIMNER_CONCURRENCY",
        "LIMNER_HTTP__PORT",
        "LIMNER_LOG_LEVEL",
    ]
    assert str(error).count("\n") == 3
    assert "LIMNER_HTTP__PORT: " in str(error)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LIMNER_CONCURENCY", "Did you mean LIMNER_CONCURRENCY?"),
        ("LIMNER_HTTP_HOST", "Did you mean LIMNER_HTTP__HOST?"),
        ("LIMNER_ZZZZZZZZ", "See: run.py settings."),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name: str, hint: str) -> None:
    error = refusal({name: "1"})
    assert str(error).startswith(f"{name} is no setting. {hint}")
    assert "Kubernetes" not in str(error)


@pytest.mark.parametrize(
    "name",
    [
        "LIMNER_SERVICE_HOST",
        "LIMNER_SERVICE_PORT",
        "LIMNER_SERVICE_PORT_HTTP",
        "LIMNER_PORT",
        "LIMNER_PORT_8080_TCP",
        "LIMNER_PORT_8080_TCP_ADDR",
    ],
)
def test_names_that_kubernetes_sets_are_refused_with_the_way_out(name: str) -> None:
    assert "enableServiceLinks: false" in str(refusal({name: "x"}))


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text(KEY + "\n")
    found = loaded(LIMNER_SECRET_KEY_FILE=str(secret))
    assert found.settings.secret_key.get_secret_value() == KEY
    assert found.sources["LIMNER_SECRET_KEY"] == "environment"
    both = loaded(LIMNER_SECRET_KEY_FILE=str(secret), LIMNER_SECRET_KEY="s" * 32)
    assert both.settings.secret_key.get_secret_value() == "s" * 32


def test_a_secret_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    assert "LIMNER_LLM_KEY_FILE: cannot read" in str(
        refusal({"LIMNER_LLM_KEY_FILE": str(tmp_path / "none")})
    )
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert "cannot read" in str(refusal({"LIMNER_LLM_KEY_FILE": str(binary)}))


def test_only_secrets_come_from_files(tmp_path: Path) -> None:
    assert "is no setting" in str(refusal({"LIMNER_CONCURRENCY_FILE": str(tmp_path)}))


def test_other_peoples_names_are_understood() -> None:
    values = dict.fromkeys(ALIASES, "x")
    values |= {
        "WORKER_CONCURRENCY": "7",
        "JOB_TIMEOUT": "2m",
        "MAX_RETRIES": "1",
        "LOG_LEVEL": "debug",
        "JWT_SECRET": KEY,
        "REDIS_URL": "redis://r:6379",
        "SMTP_URL": "smtp://m:25",
    }
    found = load(values)
    settings = found.settings
    assert (settings.concurrency, settings.job_timeout_s, settings.max_retries) == (7, 120, 1)
    assert (settings.log_level, settings.cache_url) == ("debug", "redis://r:6379")
    assert settings.secret_key.get_secret_value() == KEY
    assert settings.mail_url.get_secret_value() == "smtp://m:25"
    assert settings.database == "x"
    assert settings.objects_access_key.get_secret_value() == "x"
    assert found.warnings == []
    assert found.sources["LIMNER_CONCURRENCY"] == "environment"
    assert set(ALIASES.values()) <= set(field_names())


def test_names_that_disagree_are_told_and_ours_is_used() -> None:
    found = loaded(LIMNER_CONCURRENCY="2", WORKER_CONCURRENCY="9", LOG_LEVEL="info")
    assert found.settings.concurrency == 2
    (warning,) = found.warnings
    assert warning == (
        "WORKER_CONCURRENCY and LIMNER_CONCURRENCY disagree in the environment; "
        "LIMNER_CONCURRENCY is used"
    )
    assert loaded(LIMNER_CONCURRENCY="2", WORKER_CONCURRENCY="2").warnings == []


def test_production_wants_a_secret_key_and_no_failpoints() -> None:
    production = {"LIMNER_ENVIRONMENT": "production"}
    assert "LIMNER_SECRET_KEY is required" in str(refusal(production))
    assert "LIMNER_FAILPOINT is refused" in str(
        refusal({**production, "LIMNER_SECRET_KEY": KEY, "LIMNER_FAILPOINT": "db.commit"})
    )
    found = load({**production, "LIMNER_SECRET_KEY": KEY})
    assert found.settings.environment == "production"


def test_a_short_secret_key_is_refused_everywhere_without_being_told() -> None:
    error = refusal({"LIMNER_SECRET_KEY": "hunter2hunter2"})
    assert "shorter than 32" in str(error)
    assert "hunter2" not in str(error)


def test_private_hosts_are_allowed_with_a_warning() -> None:
    found = loaded(LIMNER_ALLOW_PRIVATE_HOSTS="localhost:9000,10.0.0.1:80")
    assert found.settings.allow_private_hosts == ("localhost:9000", "10.0.0.1:80")
    assert "localhost:9000, 10.0.0.1:80" in found.warnings[0]


def test_secrets_are_not_shown() -> None:
    found = loaded(LIMNER_SECRET_KEY=KEY, LIMNER_LLM_KEY="sk-123", LIMNER_MAIL_URL="smtp://u:p@h")
    shown = repr(found) + str(found) + found.model_dump_json()
    assert not any(secret in shown for secret in (KEY, "sk-123", "u:p@h"))


def test_what_is_set_is_used_instead_of_what_follows_from_the_home(tmp_path: Path) -> None:
    found = loaded(
        LIMNER_HOME=str(tmp_path),
        LIMNER_PUBLIC_URL="https://limner.test/",
        LIMNER_DATABASE_URL="mysql://db/limner",
        LIMNER_BROKER_URL="amqp://mq",
        LIMNER_OBJECTS_URL="s3://bucket",
    )
    settings = found.settings
    assert settings.base_url == "https://limner.test"
    assert (settings.database, settings.objects) == ("mysql://db/limner", "s3://bucket")
    assert not settings.embedded
    at_home = loaded(LIMNER_HOME=str(tmp_path)).settings
    assert at_home.database == f"sqlite://{tmp_path}/limner.db"
    assert at_home.objects == f"file://{tmp_path}/objects"


@pytest.mark.parametrize(
    "environ",
    [{"LIMNER_BROKER_URL": "amqp://mq"}, {"LIMNER_DATABASE_URL": "mysql://db/limner"}],
)
def test_one_embedded_engine_is_enough_to_be_embedded(environ: dict[str, str]) -> None:
    assert load(environ).settings.embedded


def test_every_setting_has_a_name_and_a_description() -> None:
    names = field_names()
    assert names["LIMNER_HTTP__CORS_ORIGINS"] == ("http", "cors_origins")
    assert names["LIMNER_HOME"] == ("home",)
    for path in names.values():
        model: Any = Settings
        for part in path[:-1]:
            model = model.model_fields[part].annotation
        assert model.model_fields[path[-1]].description
    assert LOG_LEVELS == ("debug", "info", "warning", "error")


@pytest.mark.parametrize(
    ("broker", "timeout", "warned"),
    [("amqp://h/", "31m", True), ("amqp://h/", "25m", False), ("embedded:", "2h", False)],
)
def test_a_job_longer_than_rabbitmq_waits_for_is_warned_about(
    broker: str, timeout: str, warned: bool
) -> None:
    loaded = load({"LIMNER_BROKER_URL": broker, "LIMNER_JOB_TIMEOUT_S": timeout})
    assert any("LIMNER_JOB_TIMEOUT_S" in one for one in loaded.warnings) is warned

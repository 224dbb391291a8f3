"""Settings of a process: defaults < ``.env`` < environment ``LIMNER_*`` < flags.

Nothing here reads ``os.environ``: the composition root passes the environment in. Every value
remembers where it came from, and a name nobody knows is an error that says which one was meant.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from limner.core.errors import Invalid

PREFIX = "LIMNER_"
DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h)?$")
DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}

ALIASES = {
    "WORKER_CONCURRENCY": "LIMNER_CONCURRENCY",
    "JOB_TIMEOUT": "LIMNER_JOB_TIMEOUT_S",
    "MAX_RETRIES": "LIMNER_MAX_RETRIES",
    "LOG_LEVEL": "LIMNER_LOG_LEVEL",
    "JWT_SECRET": "LIMNER_SECRET_KEY",
    "DATABASE_URL": "LIMNER_DATABASE_URL",
    "REDIS_URL": "LIMNER_CACHE_URL",
    "MINIO_ACCESS_KEY": "LIMNER_OBJECTS_ACCESS_KEY",
    "MINIO_SECRET_KEY": "LIMNER_OBJECTS_SECRET_KEY",
    "SMTP_FROM": "LIMNER_MAIL_FROM",
    "SMTP_URL": "LIMNER_MAIL_URL",
    "GOOGLE_CLIENT_ID": "LIMNER_OAUTH__GOOGLE_CLIENT_ID",
    "GOOGLE_CLIENT_SECRET": "LIMNER_OAUTH__GOOGLE_CLIENT_SECRET",
    "GITHUB_CLIENT_ID": "LIMNER_OAUTH__GITHUB_CLIENT_ID",
    "GITHUB_CLIENT_SECRET": "LIMNER_OAUTH__GITHUB_CLIENT_SECRET",
}


URLS = frozenset({"database_url", "broker_url", "documents_url", "objects_url", "cache_url"})


def _seconds(value: Any) -> Any:
    match = DURATION.match(value.strip()) if isinstance(value, str) else None
    return float(match[1]) * DURATION_UNITS_S[match[2]] if match else value


def _words(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


Seconds = Annotated[float, BeforeValidator(_seconds)]
Names = Annotated[tuple[str, ...], BeforeValidator(_words)]


class GeneratorSettings(BaseModel):
    """``LIMNER_GENERATOR__*``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("builtin", description="builtin, or a folder in the Optimum ONNX layout")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs")


class HttpSettings(BaseModel):
    """``LIMNER_HTTP__*``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on")
    trusted_proxies: Names = Field((), description="Networks whose X-Forwarded-For is believed")
    cors_origins: Names = Field((), description="Origins that may call the API from a browser")


class OAuthSettings(BaseModel):
    """``LIMNER_OAUTH__*``: where people may sign in by an account of theirs elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    google_client_id: str = Field("", description="Client id at Google; empty: not offered")
    google_client_secret: SecretStr = Field(SecretStr(""), description="Client secret at Google")
    github_url: str = Field("https://github.com", description="GitHub, or an Enterprise Server")
    github_client_id: str = Field("", description="Client id at GitHub; empty: not offered")
    github_client_secret: SecretStr = Field(SecretStr(""), description="Client secret at GitHub")
    oidc_issuer: str = Field("", description="Any OpenID provider's issuer; empty: not offered")
    oidc_name: str = Field("OpenID", description="What its button says")
    oidc_client_id: str = Field("", description="Client id at that provider")
    oidc_client_secret: SecretStr = Field(
        SecretStr(""), description="Client secret at that provider; empty for a public client"
    )


class Settings(BaseModel):
    """Everything a process needs to know before it starts; see ``run.py settings``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(Path("var"), description="Folder of the data that this process keeps itself")
    environment: Literal["development", "production"] = Field(
        "development", description="production demands a secret key and refuses failpoints"
    )
    public_url: str = Field("", description="What links begin with; default http://host:port")
    database_url: str = Field(
        "", repr=False, description="sqlite://PATH or mysql://USER:PASSWORD@HOST:3306/NAME"
    )
    database_pool: int = Field(20, ge=1, le=500, description="Connections per process to mysql://")
    broker_url: str = Field(
        "embedded:", repr=False, description="embedded: or amqp://USER:PASSWORD@HOST:5672/VHOST"
    )
    documents_url: str = Field("embedded:", repr=False, description="Not used yet")
    objects_url: str = Field("", repr=False, description="file://FOLDER or s3://BUCKET?endpoint=…")
    objects_access_key: SecretStr = Field(SecretStr(""), description="Access key of the S3 store")
    objects_secret_key: SecretStr = Field(SecretStr(""), description="Secret key of the S3 store")
    cache_url: str = Field("memory:", repr=False, description="memory: or redis://HOST:6379/0")
    mail_url: SecretStr = Field(SecretStr("mailbox:"), description="mailbox: or smtp://…")
    mail_from: str = Field("Limner <limner@localhost.localdomain>", description="Sender of mails")
    llm_url: str = Field("", description="Base URL of an OpenAI-compatible endpoint")
    llm_key: SecretStr = Field(SecretStr(""), description="Its key")
    llm_model: str = Field("", description="Its model")
    generator: GeneratorSettings = GeneratorSettings()
    http: HttpSettings = HttpSettings()
    oauth: OAuthSettings = OAuthSettings()
    concurrency: int = Field(4, ge=1, le=1000, description="Messages in hand per actor")
    job_timeout_s: Seconds = Field(300, gt=0, description="Time limit of one message")
    max_retries: int = Field(3, ge=0, le=100, description="Attempts after the first")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged"
    )
    allow_private_hosts: Names = Field(
        (), description="host:port that may be called although private; development only"
    )
    secret_key: SecretStr = Field(SecretStr(""), description="Key of links and stored secrets")
    failpoint: str = Field("", description="name[:nth][:kill|raise|sleep|execute-then-raise]")

    @property
    def embedded(self) -> bool:
        """Whether the database or the broker lives in this process, so that only one may serve."""
        return self.database.startswith("sqlite:") or self.broker_url.startswith("embedded:")

    @property
    def database(self) -> str:
        """The database URL with the default filled in."""
        return self.database_url or f"sqlite://{self.home / 'limner.db'}"

    @property
    def objects(self) -> str:
        """The object store URL with the default filled in."""
        return self.objects_url or f"file://{self.home / 'objects'}"

    @property
    def base_url(self) -> str:
        """What links begin with, without a slash at the end."""
        return (self.public_url or f"http://{self.http.host}:{self.http.port}").rstrip("/")


class Loaded(BaseModel):
    """Settings, where each came from, and what the operator should be told."""

    settings: Settings
    sources: dict[str, str]
    warnings: list[str]


def field_names(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """Map each ``LIMNER_*`` name to the path of its field."""
    names: dict[str, tuple[str, ...]] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            for env, path in field_names(inner, f"{prefix}{name.upper()}__").items():
                names[env] = (name, *path)
        else:
            names[f"{PREFIX}{prefix}{name.upper()}"] = (name,)
    return names


def _secret_names() -> set[str]:
    """Give the names that may hold a secret, alone or in a URL: those that take ``_FILE``."""
    return {
        env
        for env, path in field_names().items()
        if path[0] in URLS or _annotation(path) is SecretStr
    }


def _annotation(path: tuple[str, ...]) -> Any:
    """Give the type of the field at a path."""
    found: Any = Settings
    for name in path:
        found = found.model_fields[name].annotation
    return found


def _normal_aliases(values: Mapping[str, str], source: str) -> tuple[dict[str, str], list[str]]:
    """Give the ``LIMNER_*`` names in ``values`` with aliases and ``_FILE`` names resolved."""
    result = {name: value for name, value in values.items() if name.startswith(PREFIX)}
    warnings = []
    for alias, name in ALIASES.items():
        if alias not in values:
            continue
        if name in result and result[name] != values[alias]:
            warnings.append(f"{alias} and {name} disagree in the {source}; {name} is used")
        result.setdefault(name, values[alias])
    for secret in _secret_names():
        path = result.pop(f"{secret}_FILE", None)
        if path is not None:
            try:
                result.setdefault(secret, Path(path).read_text(encoding="utf-8").strip())
            except (OSError, UnicodeDecodeError) as error:
                raise Invalid(f"{secret}_FILE: cannot read {path}: {error}") from None
    return result, warnings


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]}?" if near else " See: run.py settings."
    kubernetes = (
        " Kubernetes sets such names for services: put enableServiceLinks: false in the pod spec."
        if re.search(r"_(SERVICE_(HOST|PORT)|PORT(_\d+_(TCP|UDP).*)?)(_.*)?$", name)
        else ""
    )
    return f"{name} is no setting.{hint}{kubernetes}"


def load(
    environ: Mapping[str, str],
    *,
    env_file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read the settings.

    ``flags`` maps ``LIMNER_*`` names to values given on the command line.

    Raises:
        Invalid: an unknown name or a bad value; ``faults`` lists all of them.
    """
    known = field_names()
    layers: list[tuple[str, Mapping[str, str]]] = []
    if env_file is not None and env_file.is_file():
        layers.append((str(env_file), {k: v or "" for k, v in dotenv_values(env_file).items()}))
    layers += [("environment", environ), ("flag", {k: str(v) for k, v in (flags or {}).items()})]
    values: dict[str, Any] = {}
    sources = dict.fromkeys(known, "default")
    warnings: list[str] = []
    faults: list[tuple[str, str]] = []
    for source, layer in layers:
        named, told = _normal_aliases(layer, source)
        warnings += told
        for name, value in named.items():
            if name not in known:
                faults.append((name, _unknown(name, list(known))))
                continue
            _put(values, known[name], value)
            sources[name] = source
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        by_path = {path: name for name, path in known.items()}
        for fault in error.errors(include_url=False, include_input=False):
            path = tuple(str(part) for part in fault["loc"])
            faults.append((by_path.get(path, ".".join(path)), fault["msg"]))
    if faults:
        raise Invalid(
            "\n".join(f"{name}: {text}" if name not in text else text for name, text in faults),
            code="settings",
            faults=faults,
        )
    warnings += _concerns(settings)
    return Loaded(settings=settings, sources=sources, warnings=warnings)


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value


def _concerns(settings: Settings) -> list[str]:
    """Give warnings, or refuse what production must not have."""
    if settings.environment == "production":
        if not settings.secret_key.get_secret_value():
            raise Invalid(
                "LIMNER_SECRET_KEY is required in production. Make one with: openssl rand -hex 32",
                code="settings",
            )
        if settings.failpoint:
            raise Invalid("LIMNER_FAILPOINT is refused in production.", code="settings")
    key = settings.secret_key.get_secret_value()
    if key and len(key) < MIN_SECRET_LENGTH:
        raise Invalid(
            f"LIMNER_SECRET_KEY is shorter than {MIN_SECRET_LENGTH} characters. "
            "Make one with: openssl rand -hex 32",
            code="settings",
        )
    warnings = []
    if settings.allow_private_hosts:
        hosts = ", ".join(settings.allow_private_hosts)
        warnings.append(
            f"LIMNER_ALLOW_PRIVATE_HOSTS lets users reach {hosts}: for development only"
        )
    if settings.broker_url.startswith("amqp") and settings.job_timeout_s > HELD_MAX_S:
        warnings.append(
            f"LIMNER_JOB_TIMEOUT_S is over {HELD_MAX_S:.0f} s: RabbitMQ takes back a message that "
            "was not acknowledged for 30 minutes, unless its consumer_timeout says otherwise"
        )
    return warnings


MIN_SECRET_LENGTH = 32
HELD_MAX_S = 1_500.0
LOG_LEVELS = get_args(Settings.model_fields["log_level"].annotation)

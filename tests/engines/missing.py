"""Why a real engine cannot be used here, each with its mend; None where it can."""

import importlib.util
import shutil

from tests.engines import rabbitmq


def _absent(program: str | None, name: str, package: str) -> str | None:
    return None if program else f"{name} is not installed: apt-get install {package}"


def no_rabbitmq() -> str | None:
    """Say why there is no RabbitMQ."""
    if shutil.which("epmd") is None:
        return "epmd is not installed: apt-get install erlang-base"
    return _absent(rabbitmq.program(), "rabbitmq-server", "rabbitmq-server")


def no_mariadb() -> str | None:
    """Say why there is no MariaDB."""
    both = shutil.which("mariadbd") and shutil.which("mariadb-install-db")
    return _absent(both, "mariadbd", "mariadb-server")


def no_redis() -> str | None:
    """Say why there is no Redis."""
    return _absent(shutil.which("redis-server"), "redis-server", "redis-server")


def no_moto() -> str | None:
    """Say why there is no S3."""
    found = importlib.util.find_spec("moto") and importlib.util.find_spec("flask")
    return None if found else "moto is not installed: make setup"


def no_engines() -> str | None:
    """Say why not all of them are here."""
    return no_rabbitmq() or no_mariadb() or no_redis() or no_moto()

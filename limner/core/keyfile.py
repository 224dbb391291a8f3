"""The secret key of a home: made at the first start and kept in a file only its owner reads."""

import os
import secrets

from limner.core.settings import Settings

SECRET_BYTES = 32


def secret_key(settings: Settings) -> bytes:
    """Give the secret key: the setting's, else the one in ``{home}``, made at the first start."""
    configured = settings.secret_key.get_secret_value()
    if configured:
        return configured.encode()
    path = settings.home / "secret_key"
    settings.home.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_text(encoding="ascii").strip().encode()

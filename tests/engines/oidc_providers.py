"""Two private OpenID providers that others wrote: one in Python, one in Node that demands PKCE."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.engines.server import HOST, Server, exchange

NPM = Path(__file__).with_name("oidc_provider_npm")
INSTALL_LIMIT_S = 180.0
OFFLINE = re.compile(r"E(NOTFOUND|CONNREFUSED|CONNRESET|TIMEDOUT|AI_AGAIN|NETUNREACH|OFFLINE|404)")
READY = b"GET /.well-known/openid-configuration HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"


class Unavailable(Exception):
    """The provider cannot be had on this machine; the message says what is missing."""


def node_package() -> Path:
    """Give the folder of the Node provider; it is installed once, into the user's cache.

    What is installed is what ``package-lock.json`` names by its hashes; no script of it is run.

    Raises:
        Unavailable: there is no npm or no Node, or their registry is out of reach.
        subprocess.CalledProcessError: npm failed for another reason.
    """
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise Unavailable("npm is not installed: apt-get install npm")
    lock = (NPM / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limner-tests"
    folder = cache / f"oidc-provider-{hashlib.sha256(lock).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as only_one:
        fcntl.flock(only_one, fcntl.LOCK_EX)
        if not folder.exists():
            _install(folder)
    return folder / "node_modules" / "oidc-provider"


def _install(folder: Path) -> None:
    """Install beside ``folder`` and move it there when it is whole."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        half = Path(name)
        for each in ("package.json", "package-lock.json"):
            shutil.copyfile(NPM / each, half / each)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress"]
        done = subprocess.run(
            command, cwd=half, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False
        )
        if done.returncode and OFFLINE.search(done.stderr):
            raise Unavailable(f"npm cannot reach its registry: {done.stderr.splitlines()[0]}")
        if done.returncode:
            raise subprocess.CalledProcessError(
                done.returncode, command, done.stdout, done.stderr[-2000:]
            )
        half.rename(folder)
        half.mkdir()


class PythonProvider(Server):
    """``oidc-provider-mock``: any client, any secret, any redirect_uri; does not look at PKCE."""

    name: ClassVar[str] = "oidc-provider-mock"
    port_names: ClassVar[Sequence[str]] = ("port",)

    def command(self) -> list[str]:
        port = str(self.port)
        return [sys.executable, "-m", "oidc_provider_mock", "-H", HOST, "-p", port, "-n", "true"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONWARNINGS": "ignore"}

    def ready(self) -> bool:
        return b" 200 " in exchange(self.port, READY, 32, limit_s=5.0)

    @property
    def issuer(self) -> str:
        """What it calls itself."""
        return f"http://{HOST}:{self.port}"


class NodeProvider(Server):
    """``oidc-provider``: certified, and refuses what has no PKCE.

    ``methods`` are the ways in which its clients may prove themselves.
    """

    name: ClassVar[str] = "oidc-provider"
    port_names: ClassVar[Sequence[str]] = ("port",)

    def __init__(self, package: Path, redirect_uris: Sequence[str], methods: Sequence[str]) -> None:
        super().__init__()
        self._package = package
        self._redirect_uris = redirect_uris
        self._methods = methods

    def command(self) -> list[str]:
        return ["node", str(NPM / "provider.mjs")]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "OIDC_PROVIDER": str(self._package),
            "PORT": str(self.port),
            "REDIRECT_URIS": " ".join(self._redirect_uris),
            "METHODS": " ".join(self._methods),
        }

    def ready(self) -> bool:
        return b" 200 " in exchange(self.port, READY, 32, limit_s=5.0)

    @property
    def issuer(self) -> str:
        """What it calls itself."""
        return f"http://{HOST}:{self.port}"

"""A copy of the tree, in which a reader's words are typed and a reader's processes run."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT, apply, blocks

LIMIT_S = 50.0
LOOK_S = 0.05
URL = "http://127.0.0.1:8080"
# A reader has no settings yet, and what this run measures is not the reader's business.
OURS = ("LIMNER_", "COV_", "COVERAGE_", "PYTEST_", "PYTHONPATH")


class Tree:
    """A copy of what a reader has after ``make setup``, with a page's files in it."""

    def __init__(self, root: Path, page: str) -> None:
        self.root = root
        root.mkdir()
        for name in ("limner", "tests", "setup.cfg", "pyproject.toml", "run.py"):
            source, target = ROOT / name, root / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)
        (root / ".venv").symlink_to(sys.prefix)
        self.blocks = blocks(ROOT / page)
        for block in self.blocks:
            if block.path:
                apply(block, root)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.environment = kept | {"PYTHONDONTWRITEBYTECODE": "1"}

    def typed(self, words: str) -> str:
        """Give the one ``sh`` block that contains ``words``."""
        (block,) = [one.text for one in self.blocks if one.language == "sh" and words in one.text]
        return block

    def shell(self, script: str, **environment: str) -> str:
        """Type a script and give what it prints; the errors of all its lines count."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.root,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, command: str, name: str = "output") -> Iterator[Path]:
        """Run a command until the block ends, then as with Ctrl-C; gives the file of its output."""
        log = self.root / f"{name}.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.root,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                yield log
                assert process.poll() is None, log.read_text()
                process.send_signal(signal.SIGINT)
                assert process.wait(LIMIT_S) == 0, log.read_text()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait(LIMIT_S)

    @contextmanager
    def serving(self) -> Iterator[tuple[str, Path]]:
        """Do what ``make run`` does, on a free port; gives the URL and the file of the output."""
        self.shell(".venv/bin/python run.py migrate")
        port = free_port()
        with self.running(f".venv/bin/python run.py serve --port {port}") as log:
            wait_for("the front", lambda: is_ready(port), log)
            yield f"http://127.0.0.1:{port}", log

    def samples(self, *ends: str) -> int:
        """Give how many sample comments end so, with the provider that is the default."""
        path = self.root / "limner" / "actors" / "poller" / "demo" / "comments.json"
        unique = {one["id"]: one for one in json.loads(path.read_text(encoding="utf-8"))}
        return sum(one["expect"] in ends and "provider" not in one for one in unique.values())

    def rows(self, query: str) -> list[Any]:
        """Give the rows of a query; none while the database is not there yet."""
        try:
            with closing(
                sqlite3.connect(f"file:{self.root}/var/limner.db?mode=ro", uri=True)
            ) as it:
                return it.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []


def wait_for(what: str, is_so: Callable[[], bool], log: Path) -> None:
    """Wait until something is so, or fail with what the process has printed."""
    until = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < until, f"{what} did not come about:\n{log.read_text()}"
        time.sleep(LOOK_S)


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_ready(port: int) -> bool:
    """Say whether the front answers that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False

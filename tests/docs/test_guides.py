"""The two guides with code, and the first steps of the README, work as they stand.

They run in a copy of the tree, in processes of their own.
"""

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

import pytest

from tests.docs.pages import ROOT, Block, apply, blocks

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
    def running(self, command: str) -> Iterator[Path]:
        """Run a command until the block ends, then as with Ctrl-C; gives the file of its output."""
        log = self.root / "output.txt"
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


@pytest.fixture
def actor_tree(tmp_path: Path) -> Tree:
    """Give a tree in which a reader has followed the guide to a new actor."""
    return Tree(tmp_path / "limner", "docs/guides/new-actor.md")


@pytest.fixture
def connector_tree(tmp_path: Path) -> Tree:
    """Give a tree in which a reader has followed the guide to a new connector."""
    return Tree(tmp_path / "limner", "docs/guides/new-connector.md")


def test_a_copy_of_the_tree_runs_its_own_code(actor_tree: Tree) -> None:
    said = actor_tree.shell('.venv/bin/python -c "import limner.core; print(limner.core.__file__)"')
    assert Path(said.strip()).is_relative_to(actor_tree.root)


def test_the_actor_of_the_guide_passes_the_test_of_the_guide(actor_tree: Tree) -> None:
    said = actor_tree.shell(actor_tree.typed("tests/actors/test_echo.py"))
    assert "1 passed" in said


@pytest.mark.journey
@pytest.mark.timeout(180)
def test_the_actor_of_the_guide_hears_what_is_said_before_and_while_it_runs(
    actor_tree: Tree,
) -> None:
    migrate, say, serve = actor_tree.typed("say.py").splitlines()
    actor_tree.shell(f"{migrate}\n{say}")
    heard = "SELECT data FROM audit WHERE event = 'echo.said' ORDER BY id"
    with actor_tree.running(serve) as log:
        wait_for("the first word", lambda: len(actor_tree.rows(heard)) == 1, log)
        assert "heard" in log.read_text()
        actor_tree.shell(say.replace("Hello", "Again"))
        wait_for("the second word", lambda: len(actor_tree.rows(heard)) == 2, log)
    assert [row[0] for row in actor_tree.rows(heard)] == ['{"text":"Hello"}', '{"text":"Again"}']
    assert actor_tree.rows("SELECT id FROM outbox WHERE topic = 'echo.say'") == []


def test_the_connector_of_the_guide_passes_the_tests_of_the_guide(connector_tree: Tree) -> None:
    said = connector_tree.shell(connector_tree.typed("tests/actors/poller/test_csvfile.py"))
    assert "passed" in said
    assert "failed" not in said


@pytest.mark.journey
@pytest.mark.timeout(180)
def test_the_connector_of_the_guide_polls_a_real_file_into_comments_and_a_mail(
    connector_tree: Tree,
) -> None:
    connector_tree.shell(connector_tree.typed("wishes.csv <<"))
    with connector_tree.serving() as (url, log):
        ask = connector_tree.typed("/api/sources")
        connector_tree.shell(ask.replace(URL, url))
        states = "SELECT external_id, author, state FROM comments ORDER BY external_id"
        expected = [("1", "Ada", "task"), ("2", "Ben", "ignored")]
        wait_for("both comments", lambda: connector_tree.rows(states) == expected, log)
        mails = "SELECT recipient FROM mailbox"
        wait_for("the mail", lambda: connector_tree.rows(mails) == [("ada@example.com",)], log)
        key = connector_tree.shell(".venv/bin/python run.py key create").strip()
        listed = connector_tree.shell(connector_tree.typed("/api/comments"), URL=url, KEY=key)
        assert "What a lovely day" in listed


@pytest.mark.journey
@pytest.mark.timeout(180)
def test_the_first_steps_of_the_readme_end_in_mails(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "limner", "README.md")
    with tree.serving() as (url, log):
        tree.shell(tree.typed("/api/sources").replace(URL, url))
        ended = "SELECT COUNT(*) FROM tasks WHERE state IN ('emailed', 'needs_review')"
        expected = [(tree.samples("emailed", "needs_review"),)]
        wait_for("the ends", lambda: tree.rows(ended) == expected, log)
        assert tree.rows("SELECT COUNT(*) FROM mailbox") == [(tree.samples("emailed"),)]


def test_a_diff_whose_lines_the_file_lacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one\ntwo\n")
    with pytest.raises(LookupError):
        apply(Block("diff", "a.py", " three\n+four\n"), tmp_path)
    apply(Block("diff", "a.py", " one\n+and a half\n two\n"), tmp_path)
    assert (tmp_path / "a.py").read_text() == "one\nand a half\ntwo\n"


@pytest.mark.parametrize("guide", ["new-actor.md", "new-connector.md"])
def test_the_code_of_a_guide_keeps_to_the_style(tmp_path: Path, guide: str) -> None:
    tree = Tree(tmp_path / "limner", f"docs/guides/{guide}")
    paths = " ".join({block.path for block in tree.blocks if block.path})
    ruff = ".venv/bin/python -m ruff"
    tree.shell(f"{ruff} check --no-cache {paths}; {ruff} format --no-cache --diff {paths}")


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

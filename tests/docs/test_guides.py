"""The two guides with code, and the first steps of the README, work as they stand.

They run in a copy of the tree, in processes of their own.
"""

from pathlib import Path

import pytest

from tests.docs.pages import Block, apply
from tests.docs.tree import URL, Tree, wait_for


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

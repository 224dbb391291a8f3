"""Every import contract holds, and turns red when somebody breaks it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]

VIOLATIONS = {
    "dependencies point inward": (
        "limner/core/ids.py",
        "import limner.storage.sql.tasks\n",
    ),
    "dependencies point inward: the front does no actor's work": (
        "limner/http/call.py",
        "import limner.actors.mailer.actor\n",
    ),
    "actors, front and ops see ports, never adapters": (
        "limner/actors/mailer/actor.py",
        "import limner.storage.cache.memory\n",
    ),
    "an actor knows another actor only by its messages and rules": (
        "limner/actors/intent/actor.py",
        "import limner.actors.mailer.letters\n",
    ),
    "each driver has one home": (
        "limner/actors/status/actor.py",
        "import onnxruntime\n",
    ),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package with its contracts."""
    skipped = shutil.ignore_patterns("__pycache__", "*.onnx", "builtin")
    shutil.copytree(ROOT / "limner", tmp_path / "limner", ignore=skipped)
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    return tmp_path


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(LINT, cwd=tree, capture_output=True, text=True, check=False, timeout=50)


def test_the_contracts_hold_as_the_tree_is(tree: Path) -> None:
    result = lint(tree)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_planted_violation_breaks_its_contract(tree: Path, contract: str) -> None:
    name, line = VIOLATIONS[contract]
    path = tree / name
    docstring, _, rest = path.read_text("utf-8").partition('"""\n')
    path.write_text(f'{docstring}"""\n{line}{rest}', "utf-8")
    result = lint(tree)
    assert result.returncode == 1, result.stdout
    assert f"{contract.partition(':')[0]} BROKEN" in result.stdout

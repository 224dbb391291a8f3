"""The project's Markdown pages, and their code as a reader would use it.

A fenced block with ``title="PATH"`` is a file: its whole content, or with the language ``diff``
lines to add to it, between lines that it has. A block of the language ``sh`` is what the reader
types into a terminal.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; ``path`` is empty if it is no file."""

    language: str
    path: str
    text: str


def pages() -> list[Path]:
    """Give every Markdown file of the project."""
    found = [*ROOT.glob("*.md"), *ROOT.glob(".github/**/*.md")]
    for folder in ("docs", "limner", "tools", "examples", "benchmarks", "tests"):
        found += (ROOT / folder).rglob("*.md")
    return sorted(found)


def name_of(page: Path) -> str:
    """Give a page's path in the project."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Give the fenced blocks of a page, in order."""
    return [Block(*found) for found in _FENCE.findall(page.read_text(encoding="utf-8"))]


def prose(page: Path) -> str:
    """Give a page without its fenced blocks."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def apply(block: Block, root: Path) -> None:
    """Do to the tree at ``root`` what the reader does with a block that is a file.

    Raises:
        LookupError: the lines that a diff names are not in the file, or are there twice.
        FileExistsError: a new file is there already.
    """
    path = root / block.path
    if block.language != "diff":
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(block.text)
        return
    lines = block.text.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line.startswith(" "))
    after = "".join(line[1:] for line in lines if line.startswith((" ", "+")))
    text = path.read_text(encoding="utf-8")
    if text.count(before) != 1:
        raise LookupError(f"{block.path} has {text.count(before)} times:\n{before}")
    path.write_text(text.replace(before, after), encoding="utf-8")

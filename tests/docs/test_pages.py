"""What the pages say is there: links, names, commands, routes, states, settings, failpoints."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel, SecretStr

import limner
from limner.cli import cli
from limner.core import failpoints
from limner.core.metrics import Metrics
from limner.core.settings import ALIASES, URLS, Settings, field_names
from limner.core.tunables import Tunables
from limner.http.table import ROUTES
from limner.storage.sql.aggregate import Aggregate
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.tasks import Task
from tests.docs.pages import ROOT, blocks, name_of, pages, prose

PAGES = pytest.mark.parametrize("page", pages(), ids=name_of)

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SETTING = re.compile(r"\bLIMNER_[A-Z][A-Z_]*[A-Z]")
COMMAND = re.compile(r"run\.py ([a-z][^\n`|]*)")
TARGET = re.compile(r"\bmake ([a-z]+)")
SPAN = re.compile(r"`([^`\n]+)`")
ROUTE = re.compile(
    r"(?:\b(GET|PUT|POST|PATCH|DELETE)\s+|\$URL)?(/api/[A-Za-z0-9/{}$_-]*[A-Za-z0-9}])"
)
PLACE = re.compile(r"\{[^}]*\}|\$[A-Za-z_]+")
METRIC = re.compile(r"(?<!cookie )`limner_([a-z_]+)")
TOLD_DEFAULT = re.compile(r"`([a-z_]+)`\s+\((\d[\d,.]*)(?: s)?\)")
ROW = re.compile(r"^\| `([^`]+)` \|(.*)\|$", re.MULTILINE)


def read(page: Path | str) -> str:
    """Give a page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


def cells(page: Path | str) -> Iterator[tuple[str, list[str]]]:
    """Give each table row that begins with a name in code: the name and the other cells."""
    for name, rest in ROW.findall(read(page)):
        yield name, [cell.strip() for cell in re.split(r"(?<!\\)\|", rest)]


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in HEADING.findall(prose(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@PAGES
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_there = target.exists() and target.is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_of_the_documentation_can_be_reached_from_the_readme() -> None:
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen:
            continue
        seen.add(page)
        links = [link.partition("#")[0] for link in LINK.findall(prose(page))]
        ahead += [
            (page.parent / link).resolve()
            for link in links
            if link.endswith(".md") and not link.startswith("http")
        ]
    assert {name_of(page) for page in (ROOT / "docs").rglob("*.md")} <= {
        name_of(page) for page in seen
    }


@PAGES
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = set(field_names())
    known |= {f"{name}_FILE" for name in secret_names()}
    assert set(SETTING.findall(read(page))) <= known


@PAGES
def test_every_command_that_is_named_exists_with_its_options(page: Path) -> None:
    for text in COMMAND.findall(read(page)):
        command: click.Command = cli
        words = text.split()
        while isinstance(command, click.Group) and words and re.fullmatch("[a-z]+", words[0]):
            assert words[0] in command.commands, f"run.py {text}"
            command = command.commands[words.pop(0)]
        options = {option for each in command.params for option in each.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= options, f"run.py {text}"


@PAGES
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    typed = [block.text for block in blocks(page) if block.language == "sh"]
    told = TARGET.findall("\n".join([*SPAN.findall(prose(page)), *typed]))
    assert set(told) <= targets


@PAGES
def test_every_route_that_is_named_is_served(page: Path) -> None:
    served = {(route.method, PLACE.sub("{}", route.path)) for route in ROUTES}
    for method, path in ROUTE.findall(read(page)):
        plain = PLACE.sub("{}", path)
        # A secret is named in the path itself.
        plain = re.sub(r"(/secrets/)\w+$", r"\1{}", plain)
        methods = {known for known, its_path in served if its_path == plain}
        assert methods, path
        assert not method or method in methods, f"{method} {path}"


@PAGES
def test_every_metric_that_is_named_is_published(page: Path) -> None:
    published = set(re.findall(r"^# TYPE limner_(\w+)", Metrics().render().decode(), re.MULTILINE))
    assert set(METRIC.findall(read(page))) <= published


@PAGES
def test_every_default_that_is_told_is_the_default(page: Path) -> None:
    for name, told in TOLD_DEFAULT.findall(read(page)):
        if name in Tunables.model_fields:
            assert float(told.replace(",", "")) == getattr(Tunables(), name), name


def kind_of(path: tuple[str, ...]) -> Any:
    """Give the type of the setting at a path."""
    found: Any = Settings
    for name in path:
        found = found.model_fields[name].annotation
    return found


def secret_names() -> list[str]:
    """Give the names of the settings that are secrets, or URLs with a password in them."""
    return [
        name
        for name, path in field_names().items()
        if path[0] in URLS or kind_of(path) is SecretStr
    ]


def shown(value: Any) -> str:
    """Give a default as the tables write it."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return "" if value in ("", ()) else f"`{f'{value:g}' if isinstance(value, float) else value}`"


def setting_cells() -> dict[str, list[str]]:
    """Give the rows that the table of settings must have: default and description by name."""
    settings, rows = Settings(), {}
    effective = {
        "LIMNER_DATABASE_URL": settings.database,
        "LIMNER_OBJECTS_URL": settings.objects,
        "LIMNER_PUBLIC_URL": settings.base_url,
    }
    for name, path in field_names().items():
        model: BaseModel = settings
        for part in path[:-1]:
            model = getattr(model, part)
        description = type(model).model_fields[path[-1]].description or ""
        value = effective.get(name, getattr(model, path[-1]))
        rows[name] = [shown(value), description.replace("|", r"\|")]
    return rows


def tunable_cells() -> dict[str, list[str]]:
    """Give the rows of what changes while it runs; word lists are too long for a table."""
    defaults = Tunables()
    return {
        name: [
            "see below" if name in {"keywords", "deny_words"} else shown(getattr(defaults, name)),
            field.description or "",
        ]
        for name, field in Tunables.model_fields.items()
    }


def test_the_page_of_settings_has_exactly_the_settings() -> None:
    told = dict(cells("docs/settings.md"))
    aliases = {alias: [f"`{name}`"] for alias, name in ALIASES.items()}
    assert told == setting_cells() | tunable_cells() | aliases
    assert {f"{name}_FILE" for name in secret_names()} <= set(
        SETTING.findall(read("docs/settings.md"))
    )


@pytest.mark.parametrize(("heading", "kind"), [("a task", Task), ("a delivery", Delivery)])
def test_the_page_of_tasks_has_exactly_the_states_and_what_may_follow(
    heading: str, kind: type[Aggregate]
) -> None:
    section = read("docs/tasks.md").partition(f"## States of {heading}\n")[2].partition("\n## ")[0]
    told = {
        state: frozenset(re.findall(r"`(\w+)`", rest.rpartition("|")[2]))
        for state, rest in ROW.findall(section)
    }
    assert told == kind.transitions


def test_the_diagram_of_tasks_shows_only_transitions_that_there_are() -> None:
    diagram = re.findall(r"^ +(\w+) --> (\w+)", read("docs/tasks.md"), re.MULTILINE)
    assert len(diagram) > 10
    assert all(after in Task.transitions[before] for before, after in diagram)


def test_the_page_of_failpoints_has_exactly_the_steps() -> None:
    for module in pkgutil.walk_packages(limner.__path__, "limner."):
        if ".migrations." not in module.name:
            importlib.import_module(module.name)
    actions = {"raise", "kill", "sleep", "execute-then-raise"}
    assert {name for name, _ in cells("docs/failpoints.md")} - actions == failpoints.steps()

"""The guide to pictures over REST: its commands, typed one after the other, do what it says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from limner.actors.submitter.rules import price
from limner.http.api.generate import ImageIn
from limner.storage.sql.jobs import Job
from tests.docs.pages import ROOT
from tests.docs.tree import URL, Tree

PAGE = "docs/generate.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
ROW = re.compile(r"^\| (`[^|]+`) \| ([^|]*) \|(?: ?([^|]*?) ?\|)?$", re.MULTILINE)


def section(heading: str) -> str:
    """Give what stands below a heading."""
    return TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.journey
@pytest.mark.timeout(180)
def test_the_commands_of_the_guide_paint_follow_open_and_stop(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "limner", PAGE)
    typed = "\n".join(block.text for block in tree.blocks if block.language == "sh")
    with tree.serving() as (url, _):
        said = tree.shell(typed.replace(URL, url))
    ident, _, rest = said.partition("\n")
    assert ident.startswith("job_")
    events = re.findall(r"^event: (\w+)$", rest, re.MULTILINE)
    assert (events[0], events[-1]) == ("snapshot", "done")
    job = json.loads((tree.root / "job.json").read_text())
    assert (job["id"], job["state"], job["seed"]) == (ident, "succeeded", 7)
    with Image.open(tree.root / "picture.png") as picture:
        assert picture.size == (512, 512)
    both = json.loads((tree.root / "both.json").read_text())
    assert (both["state"], len(both["outputs"])) == ("succeeded", 2)
    *_, waited, stopped, lists = rest.strip().splitlines()
    assert (waited, stopped) == ("succeeded", "cancelled")
    # Neither answer of the last two commands ends its line.
    listed, end = json.JSONDecoder().raw_decode(lists)
    assert {one["id"] for one in listed["data"]} == {ident, both["id"]}
    assert [one["id"] for one in json.loads(lists[end:])["data"]] == ["builtin"]


def test_the_table_of_the_guide_has_every_field_with_its_bounds_and_its_default() -> None:
    schema = ImageIn.model_json_schema()["properties"]
    told: dict[str, tuple[str, str]] = {}
    for names, bounds, default in ROW.findall(section("Asking")):
        told |= dict.fromkeys(re.findall(r"`(\w+)`", names), (bounds, default))
    assert set(told) == set(schema)
    for name, (bounds, default) in told.items():
        fields: dict[str, Any] = schema[name]
        fields |= next((one for one in fields.get("anyOf", []) if one["type"] != "null"), {})
        for bound in ("minimum", "maximum", "multipleOf", "minLength"):
            if bound in fields:
                assert re.search(rf"\b{fields[bound]:g}\b|\b{fields[bound]}\b", bounds), (
                    name,
                    bound,
                )
        if isinstance(fields.get("default"), int | float):
            assert float(default) == fields["default"], name


def test_the_states_of_the_guide_are_those_of_a_job() -> None:
    told = [names.strip("`") for names, _, _ in ROW.findall(section("Following it"))]
    assert told == list(Job.transitions)


def test_the_price_of_the_guide_is_the_price() -> None:
    (told,) = re.findall(r"The picture above costs (\d+)", TEXT)
    asked = json.loads(re.findall(r"-d '(\{.*?\})'", TEXT)[0])
    assert price("image", width=asked["width"], height=asked["height"], steps=8) == int(told)

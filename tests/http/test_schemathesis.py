"""Every operation that the description names, called with what it allows and what it forbids.

Schemathesis makes the requests from the description that is served: its examples, every bound of
every field from both sides, and random bodies. No answer may be a 5xx but the documented 503, no
status, header or body may be other than described, and what the schema forbids must be refused.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from limner.core.clock import HeldClock
from tests.fakes.front import PROVIDER, Stage, staged

SEED = 7
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "8"))
LIMIT_S = 480.0
CHECKS = ",".join(
    (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "missing_required_header",
        "unsupported_method",
        "ignored_auth",
    )
)
# Not among them: allow_header_conformance, because where a word and an id share a place in a path,
# Allow tells the methods of both; positive_data_acceptance, because a cursor or a JSONPath can fit
# its schema and still be none.
ENDLESS = r"/stream$"
"""Streams end when their client goes; they have tests of their own."""
COUNTS = re.compile(r"Test cases:\s+(?P<line>.+)")
GENERATED = re.compile(r"(\d+) generated")


@dataclass(frozen=True)
class Outcome:
    """What Schemathesis said."""

    code: int
    text: str

    @property
    def cases(self) -> int:
        """How many requests were made."""
        found = COUNTS.search(self.text)
        counted = GENERATED.search(found["line"]) if found else None
        return int(counted[1]) if counted else 0


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def attacked(stage: Stage, folder: Path, *options: str) -> Outcome:
    """Run Schemathesis against the stage, as an administrator."""
    url = stage.front.settings.base_url
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *("--header", f"Authorization: Bearer {await stage.key('admin')}"),
        *("--checks", CHECKS, "--seed", str(SEED), "--max-examples", str(EXAMPLES)),
        *("--exclude-path-regex", ENDLESS, "--warnings", "off", "--no-color", "--no-shrink"),
        *("--generation-database", "none", "--request-timeout", "30", "--continue-on-failure"),
        *options,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Outcome(process.returncode or 0, out.decode(errors="replace"))


@pytest.mark.journey
@pytest.mark.timeout(LIMIT_S + 20)
async def test_nothing_but_what_is_described_comes_back(stage: Stage, tmp_path: Path) -> None:
    admin = await stage.admin()
    await stage.task()
    await admin.post("/api/sources", json={"name": "feed", "connector": "demo"})
    await admin.post("/api/providers", json=PROVIDER)
    outcome = await attacked(stage, tmp_path, "--phases", "examples,coverage,fuzzing")
    assert outcome.code == 0, outcome.text[-20_000:]
    assert outcome.cases > 2_000
    # For whoever reads the report: pytest -rP shows it.
    print(f"{outcome.cases} requests")

"""Benchmarks: ``python -m benchmarks [--only NAME] [--json] [--quick]``.

Every speed is a ratio against a ceiling measured in the same run; see docs/benchmarks.md.
"""

import argparse
import asyncio
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from benchmarks import machine, table
from benchmarks.child import ChildFailed
from benchmarks.result import Result
from benchmarks.servers import EnginesMissing

NAMES = (
    "units",
    "comments",
    "rounds",
    "lag",
    "painting",
    "jobs",
    "chain5",
    "chain",
    "workers",
    "backlog",
    "streams",
    "requests",
)
BUSY_PERCENT = 15
OTHERS = "others use % of the processors"


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, help="this one (repeatable)")
    parser.add_argument("--json", action="store_true", help="print JSON, progress to stderr")
    parser.add_argument(
        "--quick", action="store_true", help="tiny numbers: shows that it runs, measures nothing"
    )
    return parser.parse_args(given)


async def _run(
    names: Sequence[str], console: Console, *, quick: bool, demanded: bool
) -> list[Result]:
    results = []
    for name in names:
        console.print(f"running {name} ...", style="dim")
        module: Any = importlib.import_module(f"benchmarks.{name}")
        others = machine.Others()
        try:
            result: Result = await module.run(module.QUICK if quick else module.FULL)
        except EnginesMissing as missing:
            # Asked for by name it is a failure; among all the others it is left out.
            if demanded:
                raise
            console.print(f"  left out: {missing}", style="yellow")
            continue
        percent = round(others.percent())
        told = replace(result, numbers={**result.numbers, OTHERS: percent})
        results.append(told)
        table.print_result(console, told)
        if percent > BUSY_PERCENT:
            console.print("  Others use this machine: do not trust these figures.", style="yellow")
    return results


def main(given: Sequence[str]) -> int:
    """Run what is asked for; 1 if a benchmark could not be run, whatever the figures are."""
    chosen = _arguments(given)
    # JSON has stdout for itself; whoever waits for it may still watch.
    console = Console(file=sys.stderr if chosen.json else sys.stdout)
    facts = machine.facts()
    table.print_machine(console, facts)
    try:
        results = asyncio.run(
            _run(
                chosen.only or NAMES, console, quick=chosen.quick, demanded=chosen.only is not None
            )
        )
    except (ChildFailed, EnginesMissing) as error:
        print(error, file=sys.stderr)
        return 1
    if chosen.json:
        told = {"machine": facts, "results": [result.as_json() for result in results]}
        print(json.dumps(told, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Prints machine facts and results as tables."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.result import Figure, Result


def print_machine(console: Console, facts: Mapping[str, Any]) -> None:
    """Print what the figures were taken on."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), str(value))
    console.print(table)


def print_result(console: Console, result: Result) -> None:
    """Print a benchmark: one line per figure, with its spread and what it should be."""
    numbers = ", ".join(f"{name}: {value}" for name, value in result.numbers.items())
    console.print(f"\n[bold]{result.name}[/bold]  {result.title}", highlight=False)
    console.print(numbers, style="dim", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    # On a narrow terminal names take another line; a figure is never cut.
    table.add_column("figure", overflow="fold")
    for name in ("median", "least", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("unit", "should be", ""):
        table.add_column(name, no_wrap=True)
    for figure in result.figures:
        table.add_row(
            figure.name,
            shown(figure.median),
            shown(min(figure.samples)),
            shown(max(figure.samples)),
            figure.unit,
            bounds(figure),
            {None: "", True: "[green]met[/green]", False: "[red]missed[/red]"}[figure.met],
        )
    console.print(table)
    for note in result.notes:
        console.print(f"  {note}", style="dim", highlight=False)


def shown(value: float) -> str:
    """Give a number with about three significant digits and no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def bounds(figure: Figure) -> str:
    """Give what a figure should be, or nothing."""
    parts = []
    if figure.at_least is not None:
        parts.append(f"≥ {shown(figure.at_least)}")
    if figure.at_most is not None:
        parts.append(f"≤ {shown(figure.at_most)}")
    return " ".join(parts)

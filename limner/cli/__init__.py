"""The commands of run.py, each a thin call into app or ops; exit 0 fine, 1 failed, 2 usage."""

from limner.cli import accounts, descriptions, records, service
from limner.cli.root import cli

__all__ = ["accounts", "cli", "descriptions", "main", "records", "service"]


def main() -> None:
    """Run the command line."""
    cli(prog_name="run.py")

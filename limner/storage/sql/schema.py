"""The schema: which migrations are pending, and applying them.

Tortoise's migration API calls itself experimental; tests migrate databases with rows in them
forward and back, so that a defect of it shows here and not at a user's.
"""

from tortoise.migrations.executor import MigrationExecutor, MigrationTarget

from limner.storage.sql.database import APP, Database

RECORD_TABLE = "tortoise_migrations"


def _executor(database: Database) -> MigrationExecutor:
    apps = {APP: database.config["apps"][APP]}
    return MigrationExecutor(database.write().client, apps)


async def pending(database: Database) -> list[str]:
    """Give the names of the migrations that have not been applied, in order."""
    executor = _executor(database)
    await executor.loader.build_graph()
    if RECORD_TABLE not in await _tables(database):
        return sorted(key.name for key in executor.loader.graph.nodes)
    return [step.migration.name for step in await executor.plan(None)]


async def migrate(database: Database, target: str | None = None) -> list[str]:
    """Apply what is pending, or go forward or back to ``target``; give the names that ran.

    ``target`` is a migration's name, or ``__first__`` to undo all.
    """
    done: list[str] = []

    def progress(event: str, _: str, name: str) -> None:
        if event.endswith("_done"):
            done.append(name)

    targets = [MigrationTarget(app_label=APP, name=target)] if target else None
    await _executor(database).migrate(targets, progress=progress)
    return done


async def _tables(database: Database) -> set[str]:
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        if database.dialect == "sqlite"
        else "SELECT table_name AS name FROM information_schema.tables "
        "WHERE table_schema = DATABASE()"
    )
    return {str(row["name"]) for row in await database.read().query(query)}

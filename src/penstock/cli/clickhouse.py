"""`penstock clickhouse`: the tables of the usage ledger, of traces, logs and metrics in ClickHouse."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import UsageError, epilog, out, say

if TYPE_CHECKING:
    from penstock.core.config import ClickHouseConfig
    from penstock.store.clickhouse.migrations import Migration

CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not all migrations are applied"
EXIT_PENDING = 3


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Make and look at Penstock's tables in ClickHouse (`[clickhouse]`).",
        epilog=CODES,
    )
    group.command(
        "migrate",
        help="Make the tables that are not there yet.",
        epilog=epilog("penstock clickhouse migrate", codes=CODES),
    )(migrate)
    group.command(
        "status",
        help="Show which migrations are applied, and how many rows wait.",
        epilog=epilog("penstock clickhouse status --json", codes=CODES),
    )(status)
    group.command(
        "sql",
        help="Print the migrations as SQL, with the retention of the configuration; nothing is asked.",
        epilog=epilog("penstock clickhouse sql | clickhouse-client --multiquery", codes=CODES),
    )(sql)
    app.add_typer(group, name="clickhouse")


def migrate(context: typer.Context) -> None:
    """Applies what is pending."""
    done = asyncio.run(_migrate(_config(invocation(context))))
    out(f"{done} applied." if done else "All migrations are applied already.")


def status(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Prints it, and ends with an exit code that says it."""
    here = invocation(context)
    config = _config(here)
    pending, unsent = asyncio.run(_pending(config)), _unsent(here)
    if as_json:
        out(json.dumps({"pending": [one.name for one in pending], "unsent_rows": unsent}))
    else:
        names = ", ".join(f"{one.number:04d} {one.name}" for one in pending)
        out(
            f"Migrations: {f'not applied yet: {names}' if names else 'all applied'}. Rows that wait: {unsent}."
        )
    raise typer.Exit(EXIT_PENDING if pending else 0)


def sql(context: typer.Context) -> None:
    """Prints all of them."""
    from penstock.store.clickhouse.migrations import migrations

    for migration in migrations(invocation(context).load().config.clickhouse):
        out(f"-- {migration.number:04d} {migration.name}\n{migration.text}")


def _config(here: Invocation) -> ClickHouseConfig:
    config = here.load().config.clickhouse
    if config.url is None:
        raise UsageError("clickhouse.url is not set", hint='[clickhouse] url = "http://127.0.0.1:8123"')
    return config


async def _migrate(config: ClickHouseConfig) -> int:
    from penstock.assembly.clickhouse import ClickHouse

    server = ClickHouse(config)
    try:
        pending = await server.pending()
        for migration in pending:
            await server.apply(migration)
            say(f"applied {migration.number:04d} {migration.name}")
        return len(pending)
    finally:
        server.close()


async def _pending(config: ClickHouseConfig) -> tuple[Migration, ...]:
    from penstock.assembly.clickhouse import ClickHouse

    server = ClickHouse(config)
    try:
        return await server.pending()
    finally:
        server.close()


def _unsent(here: Invocation) -> int:
    """Rows that wait in this home's ledger."""
    import sqlite3
    import time
    from contextlib import suppress

    from penstock.store.ledger_file import LedgerFile
    from penstock.store.outbox import COUNT

    found = []
    with suppress(sqlite3.Error):  # nothing has been noted yet
        found = LedgerFile(here.home.ledger, time.time).rows(COUNT)
    return int(found[0][0]) if found else 0

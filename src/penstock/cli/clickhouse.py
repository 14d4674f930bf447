"""`penstock clickhouse`: the tables of the usage ledger, of traces, logs and metrics in ClickHouse."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import EXIT_FAILED, EXIT_OK, UsageError, epilog, out, say

if TYPE_CHECKING:
    from penstock.core.config import ClickHouseConfig

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
        help="Show whether ClickHouse answers, which migrations are applied, how many rows wait and for how long; "
        "if it takes none, since when, why, and when it is tried again.",
        epilog=epilog("penstock clickhouse status --json", codes=CODES),
    )(status)
    group.command(
        "resend",
        help="After ClickHouse was restored from a backup or has lost rows: send what it lacks of those that it had.",
        epilog=epilog("penstock clickhouse resend --since 2026-11-01", codes=CODES),
    )(resend)
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
    from penstock.cli.clickhouse_view import look, text

    here = invocation(context)
    found = asyncio.run(look(_config(here), here.home.ledger, time.time()))
    out(json.dumps(found) if as_json else text(found))
    raise typer.Exit(EXIT_FAILED if found["problem"] else EXIT_PENDING if found["pending"] else EXIT_OK)


def resend(
    context: typer.Context,
    since: Annotated[
        str, typer.Option(metavar="DAY", help="First day, UTC, of the requests to look at: 2026-11-01.")
    ],
) -> None:
    """Notes rows anew; the gateway asks ClickHouse which of them it lacks."""
    from penstock.assembly.clickhouse import send_again

    here = invocation(context)
    _config(here)
    noted = send_again(here.home.ledger, _day_s(since))
    out(f"{noted} rows are looked at again; the gateway sends those that ClickHouse lacks, within the hour.")


def sql(context: typer.Context) -> None:
    """Prints all of them."""
    from penstock.store.clickhouse.migrations import migrations

    for migration in migrations(invocation(context).load().config.clickhouse):
        statements = ";\n\n".join(migration.statements)
        out(f"-- {migration.number:04d} {migration.name}\n{statements};\n")


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


def _day_s(day: str) -> float:
    """When a day began, in seconds since the epoch."""
    try:
        return datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp()
    except ValueError:
        raise UsageError(f"--since {day}: expected a day", hint="--since 2026-11-01") from None

"""ClickHouse over HTTP: its migrations, and the delivery of rows in a process of its own.

Run as `python -m penstock.assembly.clickhouse LEDGER`, with a `Delivery` as JSON on standard input, for the key is
not for a command line; prints one JSON object.
"""

from __future__ import annotations

import asyncio
import sqlite3
import ssl
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlsplit

import msgspec

from penstock.assembly.delivering import Delivery, DeliveryReport
from penstock.core.config import Address, ClickHouseConfig
from penstock.core.config_clickhouse import PORTS
from penstock.core.errors import PenstockError
from penstock.engines.client import Dialling, EngineClient, Reply, TlsError
from penstock.store.clickhouse.delivery import TOO_LARGE, Delivered, deliver
from penstock.store.clickhouse.migrations import APPLIED, APPLIED_TABLE, Migration, migrations
from penstock.store.ledger_file import LedgerFile, unusable
from penstock.store.ledger_keeper import Problem, serve_parent
from penstock.store.outbox import Outbox

ERROR_CHARS_MAX = 300
LEDGER_WAIT_S = 5.0

# What a web server says that knows nothing of queries.
_OF_OTHERS = (HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
_HINTS = (
    (b"UNKNOWN_TABLE", "penstock clickhouse migrate"),
    (b"UNKNOWN_DATABASE", "make the database, or set clickhouse.database"),
    (b"AUTHENTICATION_FAILED", "set clickhouse.user and clickhouse.password"),
    (b"REQUIRED_PASSWORD", "set clickhouse.user and clickhouse.password"),
    (b"ACCESS_DENIED", "give clickhouse.user the right to INSERT and SELECT, and to CREATE for migrations"),
    (b"NOT_ENOUGH_SPACE", "make room on ClickHouse's disk; the rows wait here meanwhile"),
    (b"TOO_MANY_PARTS", "ClickHouse is behind with merging; the rows wait here meanwhile"),
)


class ClickHouse:
    """One server.

    Args:
        config: its `url` is set.
    """

    def __init__(self, config: ClickHouseConfig) -> None:
        assert config.url is not None
        self._config = config
        url = urlsplit(config.url)
        self._address = Address(url.hostname or "", url.port or PORTS[url.scheme])
        self._client = EngineClient()
        if url.scheme == "https":
            self._client.reach(self._address, Dialling(tls=ssl.create_default_context()))

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    async def ask(self, query: str, body: bytes = b"", settings: Mapping[str, str] | None = None) -> bytes:
        """The answer to a query.

        Args:
            body: what it inserts.

        Raises:
            PenstockError: it is out of reach, or refuses.
        """
        # without the first of them an answer may begin with 200 and end with an error
        named = {"wait_end_of_query": "1", "database": self._config.database, **(settings or {})}
        if body:
            named["query"] = query
        target = "/?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in named.items())
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if self._config.user is not None:
            headers.append((b"x-clickhouse-user", self._config.user.get_secret_value().encode()))
        if self._config.password is not None:
            headers.append((b"x-clickhouse-key", self._config.password.get_secret_value().encode()))
        if body:
            headers.append((b"content-encoding", b"deflate"))
        try:
            reply = await self._client.fetch(
                self._address,
                b"POST",
                target.encode(),
                headers=headers,
                body=zlib.compress(body, 1) if body else query.encode(),
                timeout_s=self._config.timeout_s,
            )
        except PenstockError as error:
            raise PenstockError(
                f"ClickHouse at {self._config.url} does not answer: {error.message.replace('the engine', 'it')}",
                code="clickhouse_away",
                hint="SSL_CERT_FILE names an authority of your own; rows wait in the ledger meanwhile"
                if isinstance(error, TlsError)
                else "rows wait in the ledger, and are sent once it is back",
            ) from error
        return self._checked(reply)

    def _checked(self, reply: Reply) -> bytes:
        """What it says; a page of something else that answers 200 is nothing that has taken rows."""
        told = dict(reply.headers)
        its_own = any(name.startswith(b"x-clickhouse-") for name in told)
        if (
            reply.status == HTTPStatus.OK
            and its_own
            and told.get(b"x-clickhouse-exception-code", b"0") == b"0"
        ):
            return reply.body
        said = f"says {reply.status}: {self._words(reply.body)}"
        if not its_own and reply.status in _OF_OTHERS:
            raise PenstockError(
                f"{self._config.url} is not ClickHouse: it {said}",
                code="clickhouse_refuses",
                hint="set clickhouse.url to its HTTP interface, port 8123 as a rule",
            )
        too_large = reply.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        raise PenstockError(
            f"ClickHouse at {self._config.url} {said}",
            code=TOO_LARGE if too_large else "clickhouse_refuses",
            hint=next((hint for mark, hint in _HINTS if mark in reply.body), ""),
        )

    def _words(self, body: bytes) -> str:
        """The beginning of an answer, for people; never with the password, whoever repeats it."""
        text = " ".join(body.decode(errors="replace").split())
        if self._config.password is not None:
            text = text.replace(self._config.password.get_secret_value(), "***")
        return text[:ERROR_CHARS_MAX]

    async def applied(self) -> frozenset[int]:
        """The numbers of the migrations that were applied; changes nothing.

        Raises:
            PenstockError: it is out of reach, or refuses.
        """
        if (await self.ask(f"EXISTS TABLE {APPLIED_TABLE} FORMAT TSV")).strip() != b"1":
            return frozenset()
        return frozenset(map(int, (await self.ask(f"{APPLIED} FORMAT TSV")).split()))

    async def pending(self) -> tuple[Migration, ...]:
        """The migrations that were not applied yet; changes nothing.

        Raises:
            PenstockError: it is out of reach, or refuses; or its tables are of a newer Penstock.
        """
        applied = await self.applied()
        known = migrations(self._config)
        newer = applied - {migration.number for migration in known}
        if newer:
            raise PenstockError(
                f"the tables at {self._config.url} are of a newer Penstock (migration {max(newer)})",
                code="clickhouse_version",
                hint="update this Penstock, or use another clickhouse.database",
            )
        return tuple(migration for migration in known if migration.number not in applied)

    async def require_tables(self) -> None:
        """Sees whether rows would find their tables and all views that are fed from them.

        Raises:
            PenstockError: a migration was not applied; or it is out of reach, or refuses.
        """
        applied = await self.applied()
        missing = [f"{one.number:04d}" for one in migrations(self._config) if one.number not in applied]
        if missing:
            raise PenstockError(
                f"ClickHouse at {self._config.url} lacks tables in {self._config.database}: "
                f"migrations {', '.join(missing)} are not applied",
                code="clickhouse_tables",
                hint="penstock clickhouse migrate; rows wait in the ledger meanwhile",
            )

    async def apply(self, migration: Migration) -> None:
        """Applies a migration; one that was cut off amid it can be applied again.

        Raises:
            PenstockError: it is out of reach, or refuses.
        """
        for statement in migration.statements:
            await self.ask(statement)


def send_again(ledger: Path, since_s: float) -> int:
    """Has rows looked at again that were sent; returns how many.

    Args:
        since_s: those that ended then or later, in seconds since the epoch.

    Raises:
        PenstockError: the ledger can't be written, or is being written for long.
    """
    with _outbox(ledger) as box:
        if box is None:
            raise unusable(ledger, "another process is at it")
        return box.send_again(since_s)


@contextmanager
def _outbox(ledger: Path) -> Iterator[Outbox | None]:
    """It, for a moment; None where another process has the ledger."""
    file = LedgerFile(ledger, time.time)
    try:
        with file.alone(LEDGER_WAIT_S) as alone:
            if not alone:
                yield None
                return
            with file.writing() as db:
                yield Outbox(db)
    except (sqlite3.Error, OSError) as error:
        raise unusable(ledger, str(error)) from error


async def _deliver(ledger: Path, config: ClickHouseConfig) -> DeliveryReport:
    outbox = partial(_outbox, ledger)
    done, problem, unsent, busy = Delivered(), None, None, False
    server = ClickHouse(config)
    try:
        # workers come at the same moment: one of them sends
        with LedgerFile(ledger.with_name(f"{ledger.name}.delivery"), time.time).alone(0.0) as alone:
            busy = not alone
            if alone:
                await server.require_tables()
                await deliver(outbox, server.ask, time.time, done)
    except PenstockError as error:
        problem = Problem(error.message, error.hint)
    finally:
        server.close()
    with suppress(PenstockError), outbox() as box:
        unsent = box.count() if box is not None else None
    return DeliveryReport(done.sent, done.left_out, unsent, problem, busy)


def main() -> None:
    """Does what standard input says; never outlives who asked for it."""
    delivery = msgspec.json.decode(sys.stdin.buffer.read(), type=Delivery)
    if not serve_parent(delivery.parent):
        return
    config = ClickHouseConfig.model_validate(delivery.section)
    report = asyncio.run(_deliver(Path(sys.argv[1]), config))
    sys.stdout.buffer.write(msgspec.json.encode(report))


if __name__ == "__main__":
    main()

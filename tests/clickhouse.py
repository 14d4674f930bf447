"""A ClickHouse over HTTP: the real engine (chdb) behind the smallest server, which fails when a test says so."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from chdb import session

from penstock.assembly.clickhouse import ClickHouse
from penstock.assembly.delivering import DeliveryReport, deliver_apart
from penstock.core.config import ClickHouseConfig
from penstock.store.ledger import Ledger
from tests.store.journals import NOON

LONG_AGO = NOON - 2500 * 86_400
KEPT = {
    **{f"{what}_keep": "1825d" for what in ("requests", "traces", "logs", "metrics")},
    **{f"{what}_keep": "3650d" for what in ("minutes", "usage")},
}
"""Long enough for the tests' day, which may be past. Rows of requests of `LONG_AGO` are not kept."""

_SETTINGS = (
    "insert_deduplication_token",
    "deduplicate_blocks_in_dependent_materialized_views",
    "async_insert",
)
_ITS_OWN = {"X-ClickHouse-Server-Display-Name": "look-alike"}


@dataclass
class Trouble:
    """What goes wrong.

    Args:
        refuse: answers the next inserts with these texts and status 500.
        refuse_late: answers the next inserts so, but after it has said 200.
        lose_answers: takes the next so many inserts, and hangs up without a word.
        body_bytes_max: of an insert as it is sent; 413 above it.
        page: what it answers to everything, as a server that is no ClickHouse.
        password: what must be given.
    """

    refuse: list[str] = field(default_factory=list)
    refuse_late: list[str] = field(default_factory=list)
    lose_answers: int = 0
    body_bytes_max: int = 2**30
    page: bytes = b""
    password: str = ""


@dataclass
class ClickHouseServer:
    """The server."""

    database: Any
    port: int = 0
    trouble: Trouble = field(default_factory=Trouble)
    inserts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def query(self, text: str) -> list[list[str]]:
        """The rows of an answer, as text."""
        return [line.split("\t") for line in self.run(f"{text} FORMAT TSV").decode().splitlines()]

    def run(self, text: str) -> bytes:
        with self.lock:
            answer: bytes = self.database.query(text).bytes()
            return answer


class _Handler(BaseHTTPRequestHandler):
    """Of one connection."""

    its: ClickHouseServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        given = dict(parse_qsl(urlsplit(self.path).query))
        if self.its.trouble.page:
            self.answer(200, self.its.trouble.page, {})
        elif self.headers.get("x-clickhouse-key", "") != self.its.trouble.password:
            self.refuse(403, "Code: 516. DB::Exception: wrong password. (AUTHENTICATION_FAILED)")
        elif given.get("query", "").startswith("INSERT"):
            self.insert(given, body)
        else:
            self.run(body.decode())

    def insert(self, given: dict[str, str], body: bytes) -> None:
        self.its.inserts += 1
        if len(body) > self.its.trouble.body_bytes_max:
            self.answer(413, b"<html>413 Request Entity Too Large</html>", {})
        elif self.its.trouble.refuse:
            self.refuse(500, self.its.trouble.refuse.pop())
        elif self.its.trouble.refuse_late:
            self.refuse(200, self.its.trouble.refuse_late.pop())
        else:
            told = ", ".join(f"{name} = '{given[name]}'" for name in _SETTINGS if name in given)
            text = given["query"].replace(" FORMAT", f" SETTINGS {told} FORMAT") + "\n"
            self.run(text + zlib.decompress(body).decode())

    def run(self, text: str) -> None:
        try:
            found = self.its.run(text)
        except Exception as error:
            self.refuse(500, str(error))
            return
        if text.startswith("INSERT INTO llm") and self.its.trouble.lose_answers:
            self.its.trouble.lose_answers -= 1
            self.close_connection = True
            return
        self.answer(200, found)

    def refuse(self, status: int, text: str) -> None:
        code = text.removeprefix("Code: ").partition(".")[0]
        self.answer(status, text.encode(), {**_ITS_OWN, "X-ClickHouse-Exception-Code": code})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] = _ITS_OWN) -> None:
        with suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def clickhouse(folder: Path) -> Iterator[ClickHouseServer]:
    """Serves a database in this folder; there is one at a time in a process."""
    server = ClickHouseServer(session.Session(str(folder / "clickhouse")))

    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"its": server}))
    http.daemon_threads = True
    server.port = http.server_port
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(10)
        server.database.close()


def settings(server: ClickHouseServer, **given: object) -> ClickHouseConfig:
    """The section that leads there."""
    return ClickHouseConfig.model_validate({"url": server.url, **KEPT, **given})


async def migrate(config: ClickHouseConfig) -> int:
    """Makes the tables; how many migrations it took."""
    server = ClickHouse(config)
    try:
        pending = await server.pending()
        for migration in pending:
            await server.apply(migration)
        return len(pending)
    finally:
        server.close()


def ingest(home: Path) -> None:
    """Takes the journal into the ledger, from which rows are to be sent."""
    Ledger(home / "usage.sqlite", home / "journal", lambda: NOON, outbox=True).ingest()


def deliver(home: Path, server: ClickHouseServer, **given: object) -> DeliveryReport:
    """Sends the ledger's rows."""
    return asyncio.run(deliver_apart(home / "usage.sqlite", settings(server, **given)))


def counted(server: ClickHouseServer) -> tuple[int, int, int]:
    """Requests by their rows, by day, and by minute."""
    tables = (
        "sum(sign) FROM llm_requests",
        "sum(requests) FROM llm_usage_daily",
        "sum(requests) FROM llm_minutes",
    )
    one, two, three = (int(server.query(f"SELECT {table}")[0][0]) for table in tables)
    return one, two, three

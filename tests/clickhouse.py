"""A ClickHouse over HTTP: the real engine (chdb) behind the smallest server, which fails when a test says so."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from chdb import session

_SETTINGS = (
    "insert_deduplication_token",
    "deduplicate_blocks_in_dependent_materialized_views",
    "async_insert",
)


@dataclass
class ClickHouseServer:
    """The server.

    Args:
        refuse: answers the next so many inserts with this text and status 500.
        lose_answers: takes the next so many inserts, and hangs up without a word.
        password: what must be given.
    """

    database: Any
    port: int = 0
    refuse: list[str] = field(default_factory=list)
    lose_answers: int = 0
    password: str = ""
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


@contextmanager
def clickhouse(folder: Path) -> Iterator[ClickHouseServer]:
    """Serves a database in this folder; there is one at a time in a process."""
    server = ClickHouseServer(session.Session(str(folder / "clickhouse")))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "deflate":
                body = zlib.decompress(body)
            given = dict(parse_qsl(urlsplit(self.path).query))
            if self.headers.get("x-clickhouse-key", "") != server.password:
                self.answer(403, b"Code: 516. DB::Exception: wrong password. (AUTHENTICATION_FAILED)")
                return
            text = given.get("query", "")
            if text.startswith("INSERT"):
                server.inserts += 1
                if server.refuse:
                    self.answer(500, server.refuse.pop().encode())
                    return
                told = ", ".join(f"{name} = '{given[name]}'" for name in _SETTINGS if name in given)
                text = text.replace(" FORMAT", f" SETTINGS {told} FORMAT") + "\n"
            try:
                found = server.run(text + body.decode())
            except Exception as error:
                self.answer(500, str(error).encode())
                return
            if given.get("query", "").startswith("INSERT") and server.lose_answers:
                server.lose_answers -= 1
                self.close_connection = True
                return
            self.answer(200, found)

        def answer(self, status: int, body: bytes) -> None:
            with suppress(OSError):
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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

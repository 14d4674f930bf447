"""A run is marked in Grafana: when it began and ended, and what it came to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.bench.annotating import TAG, annotate
from penstock.core.errors import PenstockError
from penstock.render.grafana import MARKS
from tests.bench.reports import report


@contextmanager
def grafana(status: int = 200) -> Iterator[SimpleNamespace]:
    """Takes annotations."""
    seen: list[tuple[str, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, self.headers.get("authorization", ""), json.loads(body)))
            self.send_response(status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", seen=seen)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_run_is_told_with_its_times_and_its_verdict() -> None:
    made = report()
    with grafana() as server:
        asyncio.run(annotate(server.url, "its-token", made))

    ((path, authorization, told),) = server.seen
    assert path == "/api/annotations"
    assert authorization == "Bearer its-token"
    assert told["time"] == round(made.meta.started_at * 1000)
    assert told["timeEnd"] == told["time"] + round(made.meta.wall_s * 1000)
    assert told["tags"] == [TAG, made.meta.model]
    assert made.summary.verdict is not None
    assert made.summary.verdict.says in told["text"]


def test_its_tag_is_the_one_that_the_dashboards_look_for() -> None:
    assert TAG in [tag for _, _, tag in MARKS]


@pytest.mark.parametrize(("status", "hint"), [(401, "GRAFANA_TOKEN"), (500, "")])
def test_a_refusal_is_told(status: int, hint: str) -> None:
    with grafana(status) as server, pytest.raises(PenstockError, match=str(status)) as raised:
        asyncio.run(annotate(server.url, "", report()))

    assert hint in raised.value.hint


def test_nobody_there_is_told() -> None:
    with pytest.raises(PenstockError, match="annotate"):
        asyncio.run(annotate("http://127.0.0.1:9", "", report()))

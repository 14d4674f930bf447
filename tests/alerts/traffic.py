"""Requests, one after the other by each of some clients, for as long as a drill needs them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any

from tests.e2e.processes import Server

BODY = {"model": "m", "prompt": "Tell me.", "max_tokens": 8, "stream": True}
PAUSE_S = 0.2


@contextmanager
def traffic(
    server: Server,
    clients: int = 2,
    *,
    pause_s: float = PAUSE_S,
    headers: Mapping[str, str] | None = None,
    **body: Any,
) -> Iterator[None]:
    """Streams, until it is left; what becomes of them is not looked at."""
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            with suppress(OSError, HTTPException):
                server.request("POST", "/v1/completions", {**BODY, **body}, headers)
            over.wait(pause_s)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()

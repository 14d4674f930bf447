"""Requests, one after the other by each of some clients, for as long as a drill needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any

from tests.e2e.processes import Server

BODY = {"model": "m", "prompt": "Tell me.", "max_tokens": 8, "stream": True}
PAUSE_S = 0.2


def _alike(_: int) -> Mapping[str, Any]:
    return {}


@contextmanager
def traffic(
    server: Server,
    clients: int = 2,
    *,
    pause_s: float = PAUSE_S,
    headers: Mapping[str, str] | None = None,
    each: Callable[[int], Mapping[str, Any]] = _alike,
    **body: Any,
) -> Iterator[None]:
    """Streams, until it is left; what becomes of them is not looked at.

    Args:
        each: what a client's nth request has beside `body`; clients begin one after the other in it.
    """
    over = threading.Event()

    def client(number: int) -> None:
        while not over.is_set():
            with suppress(OSError, HTTPException):
                server.request("POST", "/v1/completions", {**BODY, **body, **each(number)}, headers, 300.0)
            number += 1
            over.wait(pause_s)

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()

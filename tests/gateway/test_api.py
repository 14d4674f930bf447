"""What FastAPI answers by itself has our shape."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from fastapi import FastAPI
from tests.gateway.test_asgi import GET, asked

from penstock.gateway.api import answer_errors


def test_a_bug_behind_a_route_is_told_as_every_error_is_and_its_traceback_is_for_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()
    answer_errors(app)

    @app.get("/")
    def fails() -> None:
        raise ValueError("boom")

    head, _, body = asyncio.run(asked(app, GET)).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"x-penstock-fault: gateway" in head
    assert msgspec.json.decode(body)["error"]["code"] == "internal_error"
    assert [str(one.exc_info and one.exc_info[1]) for one in caplog.records] == ["boom"]

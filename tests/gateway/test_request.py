"""A request as it comes in: what is read of its head, and its body in pieces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.core.errors import ClientError
from penstock.engines.exchange import Headers
from penstock.gateway.body import read_body
from penstock.gateway.request import UNREAD_BYTES_MAX, Request


class Connection:
    """The connection's side: told when more may come."""

    def __init__(self) -> None:
        self.fed = 0

    def feed(self) -> None:
        self.fed += 1


def request(headers: Headers | None = None, connection: Connection | None = None) -> Request:
    given: Any = connection or Connection()
    return Request(given, "/v1/completions", headers or [], http_1_1=True, keep_alive=True)


def test_of_a_header_that_comes_twice_the_first_counts() -> None:
    given = request([(b"idempotency-key", b"one"), (b"idempotency-key", b"two")])

    assert given.header(b"idempotency-key") == b"one"
    assert given.header(b"last-event-id") == b""


def test_forwarded_addresses_are_one_list_however_many_lines_they_come_in() -> None:
    given = request(
        [(b"x-forwarded-for", b"1.1.1.1"), (b"x", b""), (b"x-forwarded-for", b"2.2.2.2, 3.3.3.3")]
    )

    assert given.header(b"x-forwarded-for") == b"1.1.1.1,2.2.2.2, 3.3.3.3"


def test_credentials_keep_their_order_and_do_not_go_on() -> None:
    headers = [(b"x-api-key", b"a"), (b"accept", b"*/*"), (b"authorization", b"Bearer b")]
    given = request(headers)

    assert given.credentials == [headers[0], headers[2]]
    assert given.onward == [headers[1]]


def test_a_head_that_was_let_go_of_holds_nothing() -> None:
    given = request([(b"x-api-key", b"a"), (b"content-type", b"text/plain"), (b"accept", b"*/*")])
    given.release()

    assert (given.credentials, given.onward, given.header(b"content-type")) == ([], [], b"")


def test_a_body_that_is_there_is_read_at_once_and_not_kept() -> None:
    async def scene() -> None:
        connection = Connection()
        given = request(connection=connection)
        given.add(b'{"a"')
        given.add(b":1}")
        given.complete()

        assert await read_body(given, bytes_max=100, timeout_s=1.0) == b'{"a":1}'
        assert connection.fed == 0
        assert await given.read(100) == b""

    asyncio.run(scene())


@pytest.mark.parametrize("early", [0, 1, 2])
def test_a_body_that_comes_in_pieces_is_waited_for(early: int) -> None:
    async def scene() -> None:
        connection = Connection()
        given = request(connection=connection)
        pieces = [b"one ", b"two ", b"three"]
        for piece in pieces[:early]:
            given.add(piece)
        reading = asyncio.create_task(read_body(given, bytes_max=100, timeout_s=10.0))
        await asyncio.sleep(0)
        assert connection.fed == 1
        for piece in pieces[early:]:
            assert given.add(piece)
        assert not reading.done()
        given.complete()

        assert await reading == b"one two three"

    asyncio.run(scene())


def test_a_body_that_grows_too_large_is_refused_before_its_end() -> None:
    async def scene() -> None:
        given = request()
        reading = asyncio.create_task(read_body(given, bytes_max=10, timeout_s=10.0))
        await asyncio.sleep(0)
        assert given.add(b"0123456789")
        assert not given.add(b"x")

        with pytest.raises(ClientError) as refused:
            await reading
        assert refused.value.status == 413

    asyncio.run(scene())


def test_a_body_that_is_announced_as_too_large_is_not_waited_for() -> None:
    connection = Connection()
    given = request([(b"content-length", b"11")], connection)

    with pytest.raises(ClientError) as refused:
        asyncio.run(read_body(given, bytes_max=10, timeout_s=10.0))

    assert (refused.value.status, connection.fed) == (413, 0)


def test_a_body_that_nobody_waits_for_is_held_back() -> None:
    given = request()

    assert given.add(b"x" * UNREAD_BYTES_MAX)
    assert not given.add(b"x")

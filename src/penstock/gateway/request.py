"""One inference request as it comes in: its head, looked through once, and its body, as far as it has arrived."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from penstock.core.errors import PenstockError
from penstock.engines.exchange import Headers
from penstock.gateway.forwarding import NOT_TO_ENGINE, named_by_connection

if TYPE_CHECKING:
    from penstock.gateway.protocol import GatewayProtocol

# What the gateway itself reads; `credentials` has the two that name a key.
_READ = frozenset(
    {
        b"content-length",
        b"content-type",
        b"idempotency-key",
        b"last-event-id",
        b"x-forwarded-for",
        b"x-priority",
        b"x-request-id",
        b"x-request-timeout",
        b"x-session-id",
    }
)
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_LOOKED_AT = _READ | _CREDENTIALS | NOT_TO_ENGINE

# A body that nobody waits for yet is held back beyond this.
UNREAD_BYTES_MAX = 64 * 1024

# What is left of a head that was let go of; never written to.
_NOTHING_NAMED: dict[bytes, bytes] = {}
_NO_HEADERS: Headers = []


class Request:
    """A request for an engine.

    `onward` are the headers that go on to the engine, `credentials` those that may hold a key, in their order.
    `keep_alive`, `more_body` and `response_complete` are the connection's own account of it.

    Args:
        connection: on which it comes.
        path: the route, without its query.
        headers: all of them, with lower-case names.
    """

    __slots__ = (
        "_arrived",
        "_body",
        "_broken",
        "_bytes_max",
        "_connection",
        "_named",
        "credentials",
        "http_1_1",
        "keep_alive",
        "more_body",
        "onward",
        "path",
        "response_complete",
    )

    method = "POST"

    def __init__(
        self,
        connection: GatewayProtocol,
        path: str,
        headers: Headers,
        *,
        http_1_1: bool,
        keep_alive: bool,
    ) -> None:
        self.path = path
        self.http_1_1 = http_1_1
        self.keep_alive = keep_alive
        self.more_body = True
        self.response_complete = False
        self._connection = connection
        self._body: bytes | bytearray = b""
        self._bytes_max = UNREAD_BYTES_MAX
        self._broken: PenstockError | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._named: dict[bytes, bytes]
        self.credentials: Headers
        self.onward: Headers
        self._sort(headers)

    def header(self, name: bytes) -> bytes:
        """One of the headers that the gateway reads; empty where it is not there.

        Of those that come twice the first counts, but `x-forwarded-for` is a list however it is written.
        """
        return self._named.get(name, b"")

    def names(self, name: bytes) -> bool:
        """Whether one of the headers that the gateway reads is there, be it empty."""
        return name in self._named

    @property
    def peer(self) -> str:
        """The address at the other end of the connection."""
        return self._connection.peer()

    @property
    def announced_bytes(self) -> int:
        """The size of the body as its head tells it; 0 where it does not."""
        return int(self._named.get(b"content-length", 0))  # the parser has refused what is no number

    async def read(self, bytes_max: int) -> bytes:
        """The whole body; ends early, with more than `bytes_max` bytes, where it is larger.

        Raises:
            PenstockError: as given to `fail`.
        """
        self._bytes_max = bytes_max
        if self.more_body and self._broken is None and len(self._body) <= bytes_max:
            self._arrived = asyncio.get_running_loop().create_future()
            self._connection.feed()
            try:
                await self._arrived
            finally:
                self._arrived = None
        self.check()
        return self.take()

    def check(self) -> None:
        """Raises what was given to `fail`, if anything was."""
        if self._broken is not None:
            raise self._broken

    def take(self) -> bytes:
        """The body, as far as it has come."""
        body, self._body = bytes(self._body), b""
        return body

    def release(self) -> None:
        """Lets go of the head, once all that is wanted of it was read: a stream may last for long."""
        self._named, self.credentials, self.onward = _NOTHING_NAMED, _NO_HEADERS, _NO_HEADERS

    # -- the connection's side ------------------------------------------------------------------------

    def add(self, data: bytes) -> bool:
        """Takes a piece of the body; returns whether more may be read now."""
        if not self._body:
            self._body = data
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        if len(self._body) <= self._bytes_max:
            return True
        self._wake()
        return False

    def complete(self) -> None:
        """The body is whole."""
        self.more_body = False
        self._wake()

    def fail(self, error: PenstockError) -> None:
        """No more of the body can be read: its request is answered `error`, which it raises in `read`."""
        self._broken = error
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _sort(self, headers: Headers) -> None:
        named = self._named = {}
        credentials = self.credentials = []
        onward: Headers = []
        unwanted: set[bytes] = set()
        for header in headers:
            name = header[0]
            if name not in _LOOKED_AT:
                onward.append(header)
                continue
            if name == b"x-forwarded-for":  # each proxy may have added a line of its own
                earlier = named.get(name)
                named[name] = header[1] if earlier is None else earlier + b"," + header[1]
            elif name in _READ:
                named.setdefault(*header)
            elif name in _CREDENTIALS:
                credentials.append(header)
            elif name == b"connection":
                unwanted |= named_by_connection(header[1])
            if name not in NOT_TO_ENGINE:
                onward.append(header)
        self.onward = [header for header in onward if header[0] not in unwanted] if unwanted else onward

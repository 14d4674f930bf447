"""The one HTTP client of Penstock: HTTP/1.1 to engines, with a bounded pool of kept-alive connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass

import msgspec

from penstock.core.address import Address
from penstock.core.errors import DeadlineError, EngineError, OverloadError, Phase
from penstock.engines.alarm import Alarm
from penstock.engines.connection import EngineConnection
from penstock.engines.exchange import ConnectionLostError, Exchange, Headers, PhaseTimeouts, Watcher

# Enough for the largest batch of one engine; an engine that is asked for more would only queue it.
CONNECTIONS_PER_ENGINE_MAX = 2048
# Connections kept for the next request; more than this idle at once means that the load has gone.
IDLE_PER_ENGINE_MAX = 256
# A connection that was closed before the request came is known to be within a round trip.
STALE_WITHIN_S = 1.0
# A machine that is out of reach acknowledges nothing; the kernel of one that is busy does, however silent its engine.
UNACKNOWLEDGED_S = 20
KEEPALIVE_AFTER_S, KEEPALIVE_EVERY_S = 10, 5
_NOTICE_LOSS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_AFTER_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_S * 1000),
)
# Probes and canaries read small answers only.
FETCH_BYTES_MAX = 4 * 1024 * 1024


class ConnectRefusedError(EngineError):
    """No connection could be opened: nothing was sent."""

    code = "engine_unreachable"


class TlsError(ConnectRefusedError):
    """The engine and its client could not agree on how to speak in secret."""

    code = "engine_tls"


@dataclass(frozen=True, slots=True)
class Dialling:
    """How connections to an engine are opened, where its address alone does not say it.

    Args:
        hosts: names or IP addresses to dial in turn; none dials the address itself.
        tls: speaks TLS, and expects the certificate of the address's host; None does not.
        receive_buffer_bytes: what the kernel takes from the engine before we read it; None leaves it to the kernel.
    """

    hosts: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None
    receive_buffer_bytes: int | None = None


_PLAIN = Dialling()


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response."""

    status: int
    headers: Headers
    body: bytes


class EngineClient:
    """Opens exchanges with engines.

    Closing it closes the idle connections; exchanges under way end by themselves.

    Args:
        connections_max: open connections to one engine.
        idle_max: those of them that are kept for the next request.
    """

    def __init__(
        self,
        *,
        connections_max: int = CONNECTIONS_PER_ENGINE_MAX,
        idle_max: int = IDLE_PER_ENGINE_MAX,
    ) -> None:
        self._connections_max = connections_max
        self._idle_max = idle_max
        self._pools: dict[Address, _Pool] = {}

    def reach(self, address: Address, dialling: Dialling) -> None:
        """Opens connections to `address` as `dialling` says, from now on."""
        self._pool(address).dialling = dialling

    async def open(
        self,
        address: Address,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes,
        timeouts: PhaseTimeouts,
        watcher: Watcher | None = None,
    ) -> Exchange:
        """Sends a request and waits for the head of its response.

        A pooled connection that the engine had closed before it sent a byte is replaced by a fresh one, once,
        without the caller's notice.

        Args:
            target: path and query.
            headers: lower-case names; `host` and `content-length` are added here.
            watcher: told as things happen; twice of the sending where a connection is replaced.

        Raises:
            ConnectRefusedError: no connection; nothing was sent.
            DeadlineError: a time limit passed.
            EngineError: the connection was lost, or the response is malformed.
            OverloadError: too many connections to this engine are open.
        """
        pool = self._pool(address)
        request = _serialize(pool.host_line, method, target, headers, body)
        begun_s = time.monotonic()
        connection = pool.idle_connection()
        if connection is not None:
            try:
                return await _exchange(connection, request, timeouts, watcher)
            except _StaleConnectionError:
                if time.monotonic() - begun_s > STALE_WITHIN_S:  # it had the request for a while
                    raise
        connection = await pool.connect(timeouts)
        left_s = max(0.0, timeouts.total_s - (time.monotonic() - begun_s))
        return await _exchange(
            connection, request, msgspec.structs.replace(timeouts, total_s=left_s), watcher
        )

    async def fetch(
        self,
        address: Address,
        method: bytes,
        target: bytes,
        *,
        headers: Headers | None = None,
        body: bytes = b"",
        timeout_s: float,
    ) -> Reply:
        """A whole small response, within `timeout_s` seconds; raises as `open` does."""
        timeouts = PhaseTimeouts(connect_s=timeout_s, first_byte_s=None, stall_s=None, total_s=timeout_s)
        exchange = await self.open(address, method, target, headers or [], body, timeouts)
        try:
            return Reply(exchange.status, exchange.headers, await exchange.read(FETCH_BYTES_MAX))
        finally:
            exchange.cancel()

    def connections(self, address: Address) -> tuple[int, int]:
        """Open and idle connections to `address`."""
        pool = self._pools.get(address)
        return (pool.open_count, len(pool.idle)) if pool else (0, 0)

    def close_idle(self, address: Address) -> None:
        """Closes what is idle to an engine that may be out of reach."""
        pool = self._pools.get(address)
        if pool is not None:
            pool.close_idle()

    def forget(self, address: Address) -> None:
        """Closes what is idle to an engine that has gone."""
        pool = self._pools.pop(address, None)
        if pool is not None:
            pool.close()

    def close(self) -> None:
        """Closes all idle connections."""
        for pool in self._pools.values():
            pool.close()

    def _pool(self, address: Address) -> _Pool:
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = _Pool(address, self._connections_max, self._idle_max)
        return pool


class _Pool:
    """The connections to one engine: last in, first out, so that the engine closes spare ones as they age."""

    def __init__(self, address: Address, connections_max: int, idle_max: int) -> None:
        self.address = address
        self.host_line = b"host: %b\r\n" % str(address).encode()
        self.connections_max = connections_max
        self.idle_max = idle_max
        self.idle: deque[EngineConnection] = deque()
        self.closed = False
        self.dialling = _PLAIN
        self._dialled = 0
        self._open: set[EngineConnection] = set()
        self._on_free, self._on_lost = self._freed, self._lost  # once, not for each connection

    @property
    def open_count(self) -> int:
        return len(self._open)

    def idle_connection(self) -> EngineConnection | None:
        while self.idle:
            connection = self.idle.pop()
            if connection.usable:
                connection.reused = True
                return connection
        return None

    async def connect(self, timeouts: PhaseTimeouts) -> EngineConnection:
        if self.open_count >= self.connections_max:
            raise OverloadError(
                f"{self.address}: {self.open_count} connections are open already",
                code="engine_connections_exhausted",
                hint="add a replica, or send fewer requests at once",
                retry_after_s=1,
            )
        alarm = Alarm(asyncio.get_running_loop())
        connection = EngineConnection(self._on_free, self._on_lost, alarm)
        self._open.add(connection)
        try:
            await self._dial(connection, timeouts)
        except BaseException:
            self._open.discard(connection)  # uvloop does not tell a cancelled one that it was lost
            raise
        return connection

    async def _dial(self, connection: EngineConnection, timeouts: PhaseTimeouts) -> None:
        timeout_s, phase = min((timeouts.connect_s, Phase.CONNECT), (timeouts.total_s, Phase.TOTAL))
        too_late = DeadlineError(
            f"{self.address}: no connection within {timeout_s:.3g} s",
            phase=phase,
            hint="is the engine's machine reachable? See models.N.timeouts.connect",
        )
        if timeout_s <= 0:
            raise too_late
        try:
            async with asyncio.timeout(timeout_s):
                await self._connect(connection)
        except TimeoutError:
            raise too_late from None
        except ssl.SSLError as error:
            raise TlsError(f"{self.address}: {_tls_reason(error)}") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a host that can't be a name
            raise ConnectRefusedError(
                f"{self.address}: {getattr(error, 'strerror', None) or error}"
            ) from None

    async def _connect(self, connection: EngineConnection) -> None:
        dialling = self.dialling
        hosts = dialling.hosts or (self.address.host,)
        self._dialled += 1
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: connection,
            hosts[self._dialled % len(hosts)],
            self.address.port,
            ssl=dialling.tls,
            server_hostname=self.address.host if dialling.tls else None,
        )
        sock = transport.get_extra_info("socket")
        for level, name, value in _NOTICE_LOSS:
            sock.setsockopt(level, name, value)
        if dialling.receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, dialling.receive_buffer_bytes)

    def close(self) -> None:
        self.closed = True
        self.close_idle()

    def close_idle(self) -> None:
        for connection in self.idle:
            connection.close()
        self.idle.clear()

    def _freed(self, connection: EngineConnection) -> None:
        if self.closed or len(self.idle) >= self.idle_max:
            connection.close()
        else:
            self.idle.append(connection)

    def _lost(self, connection: EngineConnection) -> None:
        self._open.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)


class _StaleConnectionError(ConnectionLostError):
    """A reused connection was closed by the engine before it answered a byte."""


async def _exchange(
    connection: EngineConnection, request: bytes, timeouts: PhaseTimeouts, watcher: Watcher | None
) -> Exchange:
    if not connection.usable:
        raise ConnectionLostError("the engine closed the connection as soon as it was open")
    exchange = Exchange(connection, timeouts, asyncio.get_running_loop(), connection.alarm, watcher)
    if watcher is not None:
        watcher.on_send(exchange, connection.reused)
    connection.send(exchange, request)
    try:
        await exchange.head()
    except ConnectionLostError as error:
        if connection.reused and not exchange.answered and error.code != "cancelled":
            raise _StaleConnectionError(error.message) from None
        raise
    except BaseException:
        exchange.cancel()
        raise
    return exchange


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if error.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS"
    return f"no TLS with it: {error.reason or error}"


def _serialize(host_line: bytes, method: bytes, target: bytes, headers: Headers, body: bytes) -> bytes:
    lines = [b"%b %b HTTP/1.1\r\n%b" % (method, target, host_line)]
    lines += [b"%b: %b\r\n" % header for header in headers]
    length = b"content-length: %d\r\n\r\n" % len(body) if body or method != b"GET" else b"\r\n"
    lines += (length, body)
    return b"".join(lines)

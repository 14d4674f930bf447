"""`RedisLink`: scripts in a Redis that may be slow or away, without ever holding up who asks.

What is asked at the same time goes out together on one connection, in order. No call waits longer than
`timeout_s`, and after the first that waited in vain none waits at all until Redis has answered: what was sent, if
it was only late, or else a probe in the background. What nobody waits for is kept until then.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

CONNECTIONS_MAX = 4
COMMANDS_AT_ONCE = 128  # Redis answers nobody else while it runs a script
KEPT_MAX = 10_000
PATIENCE = 4  # times the time limit of a call: a busy gateway reads late what came in time
CONNECT_TIMEOUT_S = 2.0  # of the background: name, socket, TLS and password
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0
_FAILURES = (RedisError, OSError, TimeoutError)


class AwayError(Exception):
    """Redis does not answer now: go on without it."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the digest under which Redis keeps it."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        """The script of this text."""
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Command:
    """A run of a script.

    Args:
        repair: what to run later where nobody can tell whether this has run.
        repeatable: it is its own repair.
    """

    script: Script
    keys: Sequence[str]
    args: Sequence[str]
    repair: Command | None = None
    repeatable: bool = False

    @property
    def in_doubt(self) -> Command | None:
        """What to run where it is not known whether this has run."""
        return self if self.repeatable else self.repair


@dataclass(slots=True, eq=False)
class _Entry:
    """A command in line; `reply` is None where nobody waits for it, `asked_s` is the event loop's time."""

    command: Command
    asked_s: float
    reply: asyncio.Future[list[Any]] | None = None


class RedisLink:
    """A connection to Redis.

    Args:
        client_or_url: `redis://`, `rediss://` or `unix://`; a client that is passed in is not closed.
        scripts: every script that will be run.
        probe: has to succeed before Redis counts as back; one that writes, for a Redis may answer and not store.
        timeout_s: the longest that a call waits.
        on_state: told once for each change: False and why, or True and nothing.
    """

    def __init__(
        self,
        client_or_url: Redis | RedisCluster | str,
        *,
        scripts: Sequence[Script],
        probe: Command,
        timeout_s: float,
        on_state: Callable[[bool, str], None],
    ) -> None:
        self._owns_client = isinstance(client_or_url, str)
        self._client = _client(client_or_url) if isinstance(client_or_url, str) else client_or_url
        self._scripts = scripts
        self._probe = probe
        self._timeout_s = timeout_s
        self._on_state = on_state
        self._line: deque[_Entry] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._healer: asyncio.Task[None] | None = None
        self._is_late = False
        self.up = True

    async def start(self) -> None:
        """Connects; where that fails, it is tried again in the background."""
        try:
            await self._prove()
        except _FAILURES as error:
            self._fall(error)

    async def call(self, command: Command) -> list[Any]:
        """What the script returns. A caller that is cancelled has the command's repair run for it.

        Raises:
            AwayError: Redis does not answer now.
        """
        if not self.up or self._is_late:
            raise AwayError
        loop = asyncio.get_running_loop()
        entry = _Entry(command, loop.time(), loop.create_future())
        self._enqueue(entry)
        assert entry.reply is not None
        return await entry.reply

    def post(self, command: Command) -> bool:
        """Runs the command now, or when Redis is back; False where too much is kept for then already."""
        if len(self._line) >= KEPT_MAX:
            return False
        self._enqueue(_Entry(command, asyncio.get_running_loop().time()))
        return True

    async def close(self) -> None:
        """Sends what is in line, if Redis is there, and closes the connection."""
        if self._sender is not None:
            await asyncio.wait((self._sender,))
        if self._healer is not None:
            self._healer.cancel()
            await asyncio.wait((self._healer,))
        self.up = False
        if self._owns_client:
            with suppress(*_FAILURES):
                await self._client.aclose()

    def _enqueue(self, entry: _Entry) -> None:
        self._line.append(entry)
        if self.up and self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_line())

    async def _send_line(self) -> None:
        """Sends batch after batch until nobody is in line, or one fails."""
        try:
            while self._line:
                await self._send_batch(PATIENCE * self._timeout_s)
        except _FAILURES as error:
            self._fall(error)
        finally:
            self._sender = None

    async def _send_batch(self, patience_s: float) -> None:
        """Sends the first in line; who has waited for `timeout_s` goes on without the answer.

        Raises:
            OSError | RedisError | TimeoutError: they were lost, and what has to be repaired is in line again.
        """
        batch = [self._line.popleft() for _ in range(min(COMMANDS_AT_ONCE, len(self._line)))]
        asked_s = min((entry.asked_s for entry in batch if entry.reply), default=math.inf)
        loop = asyncio.get_running_loop()
        timer = loop.call_at(asked_s + self._timeout_s, self._refuse, batch) if asked_s < math.inf else None
        try:
            async with asyncio.timeout(patience_s):
                replies = await self._run([entry.command for entry in batch])
        except BaseException:
            self._refuse(batch)
            self._repair(batch)
            raise
        finally:
            self._is_late = False
            if timer is not None:
                timer.cancel()
        for entry, reply in zip(batch, replies, strict=True):
            if entry.reply is None:
                continue
            if not entry.reply.done():
                entry.reply.set_result(reply)
            elif entry.command.repair is not None:  # who asked went on without the answer
                self.post(entry.command.repair)

    def _refuse(self, batch: Sequence[_Entry] = ()) -> None:
        """Ends the calls of the batch, and those in line, which are not sent; nobody waits from now on."""
        self._is_late = True
        for entry in (*batch, *self._line):
            if entry.reply is not None and not entry.reply.done():
                entry.reply.set_exception(AwayError())
        self._line = deque(entry for entry in self._line if entry.reply is None)

    def _repair(self, batch: Sequence[_Entry]) -> None:
        """Puts in line what has to be run after a batch of which nobody knows how far it came."""
        now_s = asyncio.get_running_loop().time()
        for entry in reversed(batch):
            command = entry.command.in_doubt
            if command is not None and len(self._line) < KEPT_MAX:
                self._line.appendleft(_Entry(command, now_s))

    async def _run(self, commands: Sequence[Command]) -> list[list[Any]]:
        replies = await self._evaluate(commands)
        missing = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:  # the first run, or somebody flushed the scripts
            await self._load_scripts()
            for at, reply in zip(
                missing, await self._evaluate([commands[at] for at in missing]), strict=True
            ):
                replies[at] = reply
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    async def _load_scripts(self) -> None:
        """Loads all of them: if one is missing alone, the commands behind it overtake it."""
        for script in self._scripts:
            await self._client.script_load(script.text)

    async def _evaluate(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.evalsha(command.script.sha, len(command.keys), *command.keys, *command.args)
        return await pipeline.execute(raise_on_error=False)

    async def _prove(self) -> None:
        """Connects with time to spare, then asks for one answer within the time of a call.

        Raises:
            OSError | RedisError | TimeoutError: Redis is not fit to be asked.
        """
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await self._load_scripts()
        async with asyncio.timeout(self._timeout_s):
            await self._run((self._probe,))

    def _fall(self, error: Exception) -> None:
        """Refuses whoever waits, and looks for Redis in the background."""
        if not self.up:
            return
        self.up = False
        self._refuse()
        self._healer = asyncio.get_running_loop().create_task(self._heal())
        self._on_state(False, _why(error, PATIENCE * self._timeout_s))

    async def _heal(self) -> None:
        wait_s = RETRY_FIRST_S
        while not self.up:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_MAX_S)
            with suppress(*_FAILURES):
                await self._prove()
                while self._line:
                    await self._send_batch(CONNECT_TIMEOUT_S)
                self.up = True
        self._is_late = False
        self._healer = None
        self._on_state(True, "")


def _client(url: str) -> Redis:
    """A client that fails at once: trying again, and waiting, are the link's."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS_MAX,
        timeout=CONNECT_TIMEOUT_S,
        socket_timeout=CONNECT_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


def _why(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s * 1000:g} ms"
    return f"{type(error).__name__}: {error}"

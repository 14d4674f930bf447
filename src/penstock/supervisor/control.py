"""The supervisor's socket: a command comes as a line of JSON; it is answered by one for each step, and one at last.

Only the owner of the home can reach it: the folder has mode 0700, the socket 0600. Who hangs up before the outcome
withdraws the command.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from penstock.core.errors import PenstockError
from penstock.store.home import FILE_MODE

ASK_BYTES_MAX = 16 * 1024
ASK_WITHIN_S = 5.0
CONNECTIONS_MAX = 16
# A sign of life, so that a supervisor that hangs is told from one that waits for an engine.
ALIVE_EVERY_S = 5.0
SILENCE_MAX_S = 30.0
# A client that is stopped for hours misses lines, rather than filling our memory.
UNREAD_BYTES_MAX = 256 * 1024
TOLD_BYTES_MAX = 256 * 1024
CONNECT_WITHIN_S = 5.0  # a supervisor has its lock before it has its socket
CONNECT_EVERY_S = 0.05
READY_WITHIN_S = 1800.0  # large models load for minutes


@dataclass(frozen=True, slots=True)
class Ask:
    """What the supervisor shall do.

    Args:
        model: to restart.
        replica: the only one of it to restart; empty for all.
        in_place: stop a replica before the one that takes its place is started.
        ready_within_s: how long a new replica may take to become ready.
    """

    command: Literal["restart", "reload"]
    model: str = ""
    replica: str = ""
    in_place: bool = False
    ready_within_s: float = READY_WITHIN_S


@dataclass(frozen=True, slots=True)
class Told:
    """One line of the answer; all are steps but the last, which is the outcome. An empty step is a sign of life.

    Args:
        after_s: since the command came.
        about: the replica or model that it concerns; empty where it is about all.
        code: of the error, where it failed.
    """

    kind: Literal["step", "done", "failed"]
    text: str
    after_s: float = 0.0
    about: str = ""
    code: str = ""
    hint: str = ""


Tell = Callable[[str, str], None]
"""Tells of a step: what it is about, and what happens."""


class Control:
    """Takes commands until it is cancelled.

    Args:
        path: of the socket; what an earlier process left there is replaced.
        carry_out: does what is asked, and returns the outcome in words; cancelled when its asker has gone.
    """

    def __init__(self, path: Path, carry_out: Callable[[Ask, Tell], Awaitable[str]]) -> None:
        self._path = path
        self._carry_out = carry_out
        self._conversations: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Listens.

        Raises:
            PenstockError: the socket can't be made.
        """
        with ExitStack() as stack:
            try:
                listener = stack.enter_context(_listener(self._path))
            except OSError as error:
                raise PenstockError(
                    f"{self._path} can't be made a socket ({str(error.strerror).lower()}): `penstock reload` and "
                    "`penstock restart` find nobody; SIGHUP still reloads",
                    code="no_control",
                ) from error
            server = await asyncio.start_unix_server(self._converse, sock=listener, limit=ASK_BYTES_MAX)
            try:
                await asyncio.Event().wait()
            finally:
                server.close()
                for task in self._conversations:
                    task.cancel()
                await asyncio.gather(*self._conversations, return_exceptions=True)
                await asyncio.sleep(0)  # their sockets are closed in the next turn of the loop

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        teller = _Teller(writer)
        try:
            if len(self._conversations) > CONNECTIONS_MAX:
                raise PenstockError("too many commands at once", code="busy", hint="try again in a moment")
            teller.tell("done", await self._answer(await _asked(reader), reader, teller))
        except PenstockError as error:
            teller.tell("failed", error.message, code=error.code, hint=error.hint)
        except asyncio.CancelledError:
            teller.tell("failed", "the supervisor stops", code="stopping")
        finally:
            self._conversations.discard(task)
            writer.close()

    async def _answer(self, ask: Ask, reader: asyncio.StreamReader, teller: _Teller) -> str:
        work = asyncio.ensure_future(self._carry_out(ask, teller.step))
        hung_up = asyncio.ensure_future(_hung_up(reader))
        try:
            while not work.done() and not hung_up.done():
                await asyncio.wait(
                    {work, hung_up}, timeout=ALIVE_EVERY_S, return_when=asyncio.FIRST_COMPLETED
                )
                teller.step("", "")
        finally:
            hung_up.cancel()
            work.cancel()  # where it is not done: nobody waits for it any more
            await asyncio.wait({work})
        return work.result()


class _Teller:
    """Writes the lines of one answer."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._began_s = time.monotonic()

    def step(self, about: str, text: str) -> None:
        self.tell("step", text, about=about)

    def tell(
        self,
        kind: Literal["step", "done", "failed"],
        text: str,
        about: str = "",
        code: str = "",
        hint: str = "",
    ) -> None:
        if self._writer.transport.get_write_buffer_size() < UNREAD_BYTES_MAX:
            after_s = round(time.monotonic() - self._began_s, 1)
            line = msgspec.json.encode(Told(kind, text, after_s, about, code, hint))
            self._writer.write(line + b"\n")


async def _hung_up(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        await reader.read(1)


async def _asked(reader: asyncio.StreamReader) -> Ask:
    """The command that comes.

    Raises:
        PenstockError: it is none, or comes too late.
    """
    try:
        async with asyncio.timeout(ASK_WITHIN_S):
            return msgspec.json.decode(await reader.readuntil(b"\n"), type=Ask)
    except (TimeoutError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
        raise PenstockError(f"that is no command: {error}", code="control_protocol") from None


def asked(path: Path, ask: Ask) -> Iterator[Told]:
    """Asks the supervisor whose socket is at `path`; gives each step as it comes, and the outcome as the last.

    Raises:
        PenstockError: no supervisor answers, or it ends or falls silent before the outcome.
    """
    with _connected(path) as sock, sock.makefile("rb") as lines:
        sock.sendall(msgspec.json.encode(ask) + b"\n")
        while True:
            try:
                line = lines.readline(TOLD_BYTES_MAX)
                told = msgspec.json.decode(line, type=Told) if line.endswith(b"\n") else None
            except TimeoutError:
                raise PenstockError(
                    f"the supervisor has said nothing for {SILENCE_MAX_S:.0f} s",
                    code="supervisor_silent",
                    hint="`penstock status` and its own output say how it is",
                ) from None
            if told is None:
                raise PenstockError("the supervisor ended before it told the outcome", code="supervisor_gone")
            if told.text:
                yield told
            if told.kind != "step":
                return


@contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    end_s = time.monotonic() + CONNECT_WITHIN_S
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SILENCE_MAX_S)
        while True:
            try:
                with _short(path) as short:
                    sock.connect(short)
                break
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > end_s:
                    raise PenstockError(
                        f"the supervisor does not listen at {path}: {str(error.strerror).lower()}",
                        code="not_running",
                        hint="was it started by another version of Penstock? then restart it",
                    ) from None
                time.sleep(CONNECT_EVERY_S)
        yield sock


@contextmanager
def _listener(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)  # of a process that was killed: there is one supervisor in a home
    with socket.socket(socket.AF_UNIX) as listener:
        with _short(path) as short:
            listener.bind(short)
        path.chmod(FILE_MODE)
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of `path` that fits into the 108 bytes of a Unix socket's address, however deep its folder is."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        with suppress(OSError):
            os.close(folder)

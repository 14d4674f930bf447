"""The supervisor's socket: private, bounded, and whoever hangs up withdraws what was asked."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from penstock.core.errors import PenstockError
from penstock.supervisor import control
from penstock.supervisor.control import Ask, Control, Tell, Told, asked
from tests.supervisor.parts import WITHIN_S, until

RESTART = Ask("restart", "m", in_place=True, ready_within_s=7.0)


async def obliging(ask: Ask, tell: Tell) -> str:
    tell(ask.model, "begins")
    return f"{ask.command} done"


def converse(
    path: Path,
    client: Callable[[], object],
    carry_out: Callable[[Ask, Tell], Awaitable[str]] = obliging,
) -> object:
    """What `client` returns that runs in a thread beside a control socket."""

    async def run() -> object:
        serving = asyncio.create_task(Control(path, carry_out).run())
        await until(path.is_socket)
        async with asyncio.timeout(WITHIN_S):
            answer = await asyncio.to_thread(client)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return answer

    return asyncio.run(run())


def ask(path: Path, what: Ask = RESTART) -> list[tuple[str, str, str]]:
    return [(told.kind, told.about, told.text) for told in asked(path, what)]


def test_steps_come_before_the_outcome(tmp_path: Path) -> None:
    path = tmp_path / "control"

    told = converse(path, lambda: ask(path))

    assert told == [("step", "m", "begins"), ("done", "", "restart done")]
    assert not path.exists()


def test_it_is_for_its_owner_alone_and_replaces_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "control"
    path.write_text("left")

    mode = converse(path, lambda: path.stat().st_mode)

    assert isinstance(mode, int)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_folder_deeper_than_a_socket_s_address_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)

    told = converse(folder / "control", lambda: ask(folder / "control"))

    assert isinstance(told, list)
    assert told[-1][0] == "done"


def test_an_error_is_the_outcome(tmp_path: Path) -> None:
    async def failing(_ask: Ask, _tell: Tell) -> str:
        raise PenstockError("no room", code="no_room", hint="make some")

    path = tmp_path / "control"

    (told,) = converse(path, lambda: list(asked(path, RESTART)), failing)  # type: ignore[misc]

    assert (told.kind, told.text, told.code, told.hint) == ("failed", "no room", "no_room", "make some")


@pytest.mark.parametrize(
    "line", [b"\n", b"{}\n", b'{"command": "burn"}\n', b'{"command": 1}\n', b"\xff\n", b"", b"x" * 40_000]
)
def test_what_is_no_command_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "control"

    def client() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WITHIN_S)
            sock.connect(str(path))
            sock.sendall(line)
            sock.shutdown(socket.SHUT_WR)
            return sock.makefile("rb").readline()

    answer = converse(path, client)

    assert isinstance(answer, bytes)
    told = msgspec.json.decode(answer, type=Told)
    assert (told.kind, told.code) == ("failed", "control_protocol")


def test_who_hangs_up_withdraws_what_is_under_way(tmp_path: Path) -> None:
    began, withdrawn = threading.Event(), threading.Event()

    async def endless(_ask: Ask, _tell: Tell) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            withdrawn.set()
        return ""

    path = tmp_path / "control"

    def client() -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(msgspec.json.encode(RESTART) + b"\n")
            began.wait(WITHIN_S)
        return withdrawn.wait(WITHIN_S)

    assert converse(path, client, endless) is True


def test_a_stop_amid_it_is_told(tmp_path: Path) -> None:
    async def play() -> list[Told]:
        began = asyncio.Event()

        async def endless(_ask: Ask, _tell: Tell) -> str:
            began.set()
            await asyncio.Event().wait()
            return ""

        path = tmp_path / "control"
        serving = asyncio.create_task(Control(path, endless).run())
        await until(path.is_socket)
        asking = asyncio.create_task(asyncio.to_thread(lambda: list(asked(path, RESTART))))
        await began.wait()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return await asking

    (told,) = asyncio.run(play())

    assert (told.kind, told.code) == ("failed", "stopping")


def test_too_many_at_once_are_turned_away(tmp_path: Path) -> None:
    async def play() -> list[Told]:
        async def endless(_ask: Ask, _tell: Tell) -> str:
            await asyncio.Event().wait()
            return ""

        path = tmp_path / "control"
        serving = asyncio.create_task(Control(path, endless).run())
        await until(path.is_socket)
        others = [await asyncio.open_unix_connection(str(path)) for _ in range(control.CONNECTIONS_MAX)]
        answer = await asyncio.to_thread(lambda: list(asked(path, RESTART)))
        for _, writer in others:
            writer.close()
            await writer.wait_closed()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return answer

    (told,) = asyncio.run(play())

    assert (told.kind, told.code) == ("failed", "busy")


def test_nobody_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONNECT_WITHIN_S", 0.0)

    with pytest.raises(PenstockError, match=r"the supervisor does not listen at .*: no such file"):
        list(asked(tmp_path / "control", RESTART))


def test_a_folder_that_takes_no_socket_is_said_with_what_still_works(tmp_path: Path) -> None:
    with pytest.raises(PenstockError, match=r"can't be made a socket \(no such file.*SIGHUP still reloads"):
        asyncio.run(Control(tmp_path / "absent" / "control", obliging).run())

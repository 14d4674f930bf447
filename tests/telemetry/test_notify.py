"""sd_notify against real datagram sockets, as systemd holds them."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.telemetry.notify import START_EXTENDED_BY_S, STATUS_CHARS_MAX, STATUS_EVERY_S, Notifier

PID = 4711


class Manager:
    """The side of systemd: a bound socket, and what was sent there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self._socket.settimeout(10)

    def told(self) -> dict[str, str]:
        """The next datagram."""
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().split("\n"))

    def told_nothing_more(self) -> bool:
        """Whether no datagram waits."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@penstock-{secrets.token_hex(8)}"
    found = Manager(name)
    yield found
    found.close()


def test_a_service_tells_of_its_whole_life(manager: Manager) -> None:
    before_us = time.monotonic_ns() // 1000
    notifier = Notifier(manager.name)

    notifier.starting("the model\nloads", comes_on=True)
    notifier.ready()
    with notifier.reloading():
        pass
    notifier.stopping()

    assert manager.told() == {"STATUS": "the model loads"}
    assert manager.told() == {"EXTEND_TIMEOUT_USEC": str(START_EXTENDED_BY_S * 1_000_000)}
    assert manager.told() == {"READY": "1"}
    assert manager.told() == {"STATUS": "ready"}
    reloading = manager.told()
    assert reloading.pop("RELOADING") == "1"
    assert before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert manager.told() == {"READY": "1"}
    assert manager.told()["STATUS"].startswith("stopping")
    assert manager.told() == {"STOPPING": "1"}
    assert manager.told_nothing_more()


def test_a_start_may_take_longer_only_while_it_comes_on(manager: Manager) -> None:
    now_s = 0.0
    notifier = Notifier(manager.name, clock=lambda: now_s)

    for comes_on in (True, True, False):
        notifier.starting("loading", comes_on=comes_on)
        notifier.starting("loading", comes_on=comes_on)
        now_s += STATUS_EVERY_S

    assert [*manager.told()] == ["STATUS"]
    assert [*manager.told()] == ["EXTEND_TIMEOUT_USEC"]
    assert [*manager.told()] == ["EXTEND_TIMEOUT_USEC"]
    assert manager.told_nothing_more()


def test_a_reload_may_take_longer_while_it_goes_on(manager: Manager) -> None:
    async def run() -> None:
        notifier = Notifier(manager.name, patience_s=0.06)
        notifier.ready()
        with notifier.reloading():
            beating = asyncio.create_task(notifier.beat(lambda: "ready"))
            await asyncio.sleep(0)
            beating.cancel()

    asyncio.run(run())

    assert manager.told() == {"READY": "1"}
    assert manager.told() == {"STATUS": "ready"}
    assert "RELOADING" in manager.told()
    assert manager.told() == {"WATCHDOG": "1"}
    assert manager.told() == {"EXTEND_TIMEOUT_USEC": str(START_EXTENDED_BY_S * 1_000_000)}
    assert manager.told() == {"READY": "1"}


def test_a_reload_before_it_is_ready_does_not_say_that_it_is(manager: Manager) -> None:
    with Notifier(manager.name).reloading():
        pass

    assert manager.told_nothing_more()


def test_a_reload_that_fails_ends_as_well(manager: Manager) -> None:
    notifier = Notifier(manager.name)
    notifier.ready()

    with pytest.raises(ValueError, match="mistake"), notifier.reloading():
        raise ValueError("a mistake")

    assert manager.told() == {"READY": "1"}
    assert manager.told() == {"STATUS": "ready"}
    assert "RELOADING" in manager.told()
    assert manager.told() == {"READY": "1"}


def test_a_status_is_one_short_line_and_sent_once(manager: Manager) -> None:
    notifier = Notifier(manager.name)

    notifier.status("READY=1\n" * 100)
    notifier.status("READY=1\n" * 100)

    assert len(manager.told()["STATUS"]) == STATUS_CHARS_MAX
    assert manager.told_nothing_more()


def test_the_loop_beats_three_times_as_often_as_it_must(manager: Manager) -> None:
    notifier = Notifier(manager.name, patience_s=0.06)
    notifier.ready()

    async def run() -> None:
        beating = asyncio.create_task(notifier.beat(lambda: "2 of 2 parts up"))
        await asyncio.to_thread(lambda: [beats.append(manager.told()) for _ in range(6)])
        beating.cancel()

    beats: list[dict[str, str]] = []
    asyncio.run(run())

    assert beats == [
        {"READY": "1"},
        {"STATUS": "ready"},
        {"WATCHDOG": "1"},
        {"STATUS": "2 of 2 parts up"},
        {"WATCHDOG": "1"},
        {"WATCHDOG": "1"},
    ]


def test_a_loop_that_hangs_does_not_beat(manager: Manager) -> None:
    async def run() -> bool:
        beating = asyncio.create_task(Notifier(manager.name, patience_s=0.06).beat(lambda: ""))
        await asyncio.sleep(0)
        assert manager.told() == {"WATCHDOG": "1"}
        time.sleep(0.2)  # what a loop must not do
        quiet = manager.told_nothing_more()
        beating.cancel()
        return quiet

    assert asyncio.run(run())


def test_what_names_the_listener_is_taken_out_of_the_environment(manager: Manager) -> None:
    environ = {
        "NOTIFY_SOCKET": manager.name,
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(PID),
        "HOME": "/",
    }

    notifier = Notifier.taken_from(environ, PID)
    notifier.ready()

    assert environ == {"HOME": "/"}
    assert manager.told() == {"READY": "1"}


@pytest.mark.parametrize(
    ("usec", "of", "beats"),
    [
        ("60000", str(PID), True),
        ("60000", "", True),
        ("60000", "1", False),
        ("0", "", False),
        ("-1", "", False),
    ],
)
def test_only_the_process_that_is_watched_beats(manager: Manager, usec: str, of: str, beats: bool) -> None:
    environ = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": usec, "WATCHDOG_PID": of}
    notifier = Notifier.taken_from(environ, PID)

    async def run() -> None:
        beating = asyncio.create_task(notifier.beat(lambda: ""))
        await asyncio.sleep(0)
        beating.cancel()

    asyncio.run(run())

    assert manager.told_nothing_more() is not beats


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "vsock:2:1234", "@"])
def test_where_nobody_listens_nothing_happens(address: str) -> None:
    notifier = Notifier.taken_from({"NOTIFY_SOCKET": address}, PID)

    notifier.starting("loading", comes_on=True)
    notifier.ready()
    notifier.stopping()


def test_a_full_socket_is_not_waited_for(manager: Manager) -> None:
    notifier = Notifier(manager.name)

    for _ in range(5000):  # the kernel holds some hundreds
        notifier.ready()

    assert manager.told() == {"READY": "1"}

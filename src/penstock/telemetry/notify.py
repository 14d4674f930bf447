"""Telling systemd how this process is: sd_notify(3) in a few lines, and nothing where nobody listens.

A datagram is never waited for. What names the listener is taken out of the environment, so that no child speaks
in its parent's name.
"""

from __future__ import annotations

import faulthandler
import math
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLES = ("WATCHDOG_USEC", "WATCHDOG_PID")
# systemd asks for half of its patience; a third leaves room for a busy machine.
BEATS_PER_PATIENCE = 3
STATUS_EVERY_S = 5.0
STATUS_CHARS_MAX = 300
# How long a start may go on from the last word that it comes on: the gateway's canaries take less.
START_EXTENDED_BY_S = 300


class Notifier:
    """Tells a service manager of starts, reloads and stops, and that the event loop turns.

    Args:
        address: of its socket, as systemd writes it: a path, or an abstract name after `@`. Empty: nobody is told.
        patience_s: the silence after which it starts this process anew; 0: it waits for no sign of life.
        clock: monotonic seconds.
    """

    def __init__(
        self, address: str = "", patience_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._patience_s = patience_s
        self._is_ready = self._is_reloading = False
        self._status = ""
        self._clock = clock
        self._next_extension_s = -math.inf

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str], pid: int) -> Notifier:
        """The one that `environ` names, for the process `pid`; its names are removed from there."""
        address = environ.pop(SOCKET_VARIABLE, "")
        usec, of = (environ.pop(name, "") for name in WATCHDOG_VARIABLES)
        is_watched = usec.isdecimal() and of in ("", str(pid))
        return cls(address if address[:1] in ("/", "@") else "", int(usec) / 1e6 if is_watched else 0.0)

    @property
    def is_heard(self) -> bool:
        """Whether somebody is told."""
        return bool(self._address)

    def status(self, text: str) -> None:
        """What it does now, for `systemctl status`."""
        line = " ".join(text.split())[:STATUS_CHARS_MAX]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def starting(self, text: str, *, comes_on: bool) -> None:
        """It is not ready yet, because of `text`, and may take longer where it comes on.

        May be called as often as one likes.
        """
        self.status(text)
        if comes_on and self._clock() >= self._next_extension_s:
            self._next_extension_s = self._clock() + STATUS_EVERY_S
            self._extend()

    def ready(self) -> None:
        """It can serve."""
        self._is_ready = True
        self._send("READY=1")
        self.status("ready")  # instead of what it waited for

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """A reload, from its beginning to its end; of one before it was ready nobody needs to know."""
        if not self._is_ready:
            yield
            return
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._is_reloading = True
        try:
            yield
        finally:
            self._is_reloading = False
            self._send("READY=1")

    def stopping(self) -> None:
        """It drains, and then ends."""
        self._is_ready = False
        self.status("stopping: open requests are finished first")
        self._send("STOPPING=1")

    async def beat(self, status: Callable[[], str]) -> None:
        """Shows that the event loop turns, until cancelled; and once it is ready, how `status` says it is.

        A loop that hangs is ended with SIGABRT, and then says where it hung.
        """
        if not self.is_heard:
            return
        from asyncio import sleep  # which the commands that never beat do without

        if self._patience_s:
            faulthandler.enable()
        while True:
            if self._patience_s:
                self._send("WATCHDOG=1")
            if self._is_reloading:  # which takes as long as the engines that it starts
                self._extend()
            if self._is_ready:
                self.status(status())
            await sleep(self._patience_s / BEATS_PER_PATIENCE or STATUS_EVERY_S)

    def _extend(self) -> None:
        self._send(f"EXTEND_TIMEOUT_USEC={START_EXTENDED_BY_S * 1_000_000}")

    def _send(self, *lines: str) -> None:
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)

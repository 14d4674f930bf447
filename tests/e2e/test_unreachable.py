"""An engine that opens no connections: one that is merely busy goes on serving, one out of reach is left soon."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from penstock.gateway.probes import HEALTH_TIMEOUT_S
from penstock.gateway.replicas import ASK_READY_EVERY_S
from tests.e2e.processes import Gateway, ready_gateway, remote, wait_until
from tests.e2e.scripted import answer, read_request
from tests.e2e.test_streams import chat

CHAT = "/v1/chat/completions"
# Two replicas, of which both are asked in turn; no request waits long for a connection.
MODEL = 'routing = "round_robin"\ntimeouts = { connect = "200ms", first_token = "4s", total = "20s" }'
# What is idle and leads nowhere is found out, and then twice that no new connection comes about.
LEFT_WITHIN_S = ASK_READY_EVERY_S + 3 * HEALTH_TIMEOUT_S + ASK_READY_EVERY_S
MARGIN_S = 4.0


class Engine:
    """An engine whose connections a test holds up; the kernel drops what comes while its line of them is full."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._sockets: list[socket.socket] = []
        self._dialled: list[socket.socket] = []
        self._accepts, self._rests, self._answers = (threading.Event() for _ in range(3))
        self._accepts.set()
        self._answers.set()
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def go_dark(self, *, closes: bool) -> None:
        """Opens no connection any more, and leaves or closes those that are open; none is answered on."""
        self._accepts.clear()
        self._dial()  # for the `accept` that waits already
        wait_until(self._rests.is_set, "the listener to rest")
        wait_until(lambda: not self._dial(), "the line to be full")
        if closes:
            self._shut()
        else:
            self._answers.clear()

    def come_back(self) -> None:
        """Opens connections, and answers."""
        self._answers.set()
        self._accepts.set()

    def close(self) -> None:
        self.come_back()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._shut()
        for sock in self._dialled:
            sock.close()

    def _shut(self) -> None:
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _dial(self) -> bool:
        """Whether a connection comes about."""
        try:
            self._dialled.append(socket.create_connection(("127.0.0.1", self.port), timeout=0.1))
        except TimeoutError:
            return False
        return True

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                if not self._accepts.is_set():
                    self._rests.set()
                    self._accepts.wait()
                    self._rests.clear()
                sock, _ = self._listener.accept()
                self._sockets.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            while read_request(sock) is not None:
                self._answers.wait()
                answer(sock, b'{"choices":[{"text":"x"}]}')


@contextmanager
def two_replicas(folder: Path) -> Iterator[tuple[Gateway, Engine]]:
    """A gateway before two replicas, and the first of them."""
    engines = Engine(), Engine()
    try:
        with ready_gateway(folder, remote("m", *engines, extra=MODEL)) as front:
            wait_until(
                lambda: state(front, "m-1")[0] == state(front, "m-0")[0] == "ready", "both to be ready"
            )
            yield front, engines[0]
    finally:
        for one in engines:
            one.close()


def state(front: Gateway, name: str) -> tuple[str, str]:
    replicas = front.admin("/admin/fleet").json()["replicas"]
    return next((one["state"], one["cause"]) for one in replicas if one["name"] == name)


def states(front: Gateway, name: str) -> list[str]:
    """All that it has been in."""
    events = [json.loads(line) for line in front.log.read_text().splitlines()]
    return [one["after"] for one in events if one["event"] == "replica" and one["replica"] == name]


def ask(front: Gateway, request_id: str) -> int:
    """How often an engine was asked until the answer was there."""
    front.request("POST", CHAT, chat(), {"X-Request-ID": request_id})
    record = front.record(request_id)
    assert record["outcome"] == "complete"
    return int(record["attempts"])


def test_one_that_opens_no_connection_for_a_moment_is_given_requests_all_the_while(tmp_path: Path) -> None:
    with two_replicas(tmp_path) as (front, busy):
        busy.go_dark(closes=True)
        attempts = [ask(front, f"dark-{number}") for number in range(2)]
        busy.come_back()
        wait_until(lambda: _serves(front, "m-0"), "it to serve")
        seen = states(front, "m-0")

    assert max(attempts) == 2
    assert seen == ["starting", "warming", "ready"]


def test_one_that_is_out_of_reach_is_left_soon_and_found_again(tmp_path: Path) -> None:
    with two_replicas(tmp_path) as (front, lost):
        for number in range(4):
            ask(front, f"light-{number}")

        lost.go_dark(closes=False)
        gone_s = time.monotonic()
        wait_until(lambda: state(front, "m-0")[0] == "starting", "it to be given nothing more")
        took_s = time.monotonic() - gone_s
        cause = state(front, "m-0")[1]
        attempts = [ask(front, f"dark-{number}") for number in range(4)]
        lost.come_back()
        wait_until(lambda: state(front, "m-0")[0] == "ready", "it to be found again")

    assert took_s < LEFT_WITHIN_S + MARGIN_S
    assert cause == "no connection to it can be opened"
    assert attempts == [1] * 4


def _serves(front: Gateway, name: str) -> bool:
    return front.request("POST", CHAT, chat()).headers["x-penstock-replica"] == name

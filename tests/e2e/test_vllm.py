"""The stream contract and continuation on a real vLLM; skipped without one.

    PENSTOCK_VLLM_VENV=/path/to/venv pytest tests/e2e/test_vllm.py

Two replicas under `penstock up` serve the demo model. A second gateway reaches both through relays that break off
an answer where a test says, which costs no restart. The tests that kill replicas come last.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.engines.vllm import VENV_VARIABLE
from penstock.policy.resume import REPLICA_WAIT_S
from tests.e2e.conftest import DEMO
from tests.e2e.processes import Gateway, Server, penstock_up, ready_gateway, remote, wait_until
from tests.e2e.test_continuation import (
    CHAT,
    COMPLETIONS,
    events_of,
    open_stream,
    read_events,
    read_until,
    ready_replicas,
    text_of,
)

pytestmark = [
    pytest.mark.skipif(
        VENV_VARIABLE not in os.environ,
        reason=f"no vLLM: {VENV_VARIABLE} is not set to its virtual environment",
    ),
    pytest.mark.timeout(400),
]

ENGINE_KEY = "key-of-the-replicas"
VLLM = f"""
[[models]]
name = "{DEMO}"
engine = "vllm"
source = {json.dumps(str(Path(penstock.__file__).parent / "demo_model"))}
replicas = 2
api_key = "{ENGINE_KEY}"

[models.engine_args]
enforce_eager = true
enable_scale_out = true  # for its route that aborts a request
max_model_len = 2048
max_num_seqs = 8
"""
OFFLINE = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
REACHED = f"""
api_key = "{ENGINE_KEY}"
routing = "round_robin"
timeouts = {{ first_token = "30s", stall = "20s", total = "60s" }}
"""
START_S = 240.0  # two at once on two shared cores: 62 s were seen

COUNT = "Count from one to one hundred."
STORY = "Tell me a long story about a token."
CUTS = (1, 2, 7, 30, 61, 100, 170, 233, 310, 340)


class Scissors:
    """Breaks off, once, the next answer that comes to so many events."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events_left = 0
        self.asked: list[bytes] = []

    def arm(self, events: int) -> None:
        with self._lock:
            self._events_left = events

    @property
    def armed(self) -> bool:
        return self._events_left > 0

    def through(self, data: bytes) -> tuple[bytes, bool]:
        """What of `data` may pass, and whether no more may."""
        with self._lock:
            if not self._events_left:
                return data, False
            ends = [found.end() for found in re.finditer(rb"data: \{.*\n\n", data)]
            if len(ends) < self._events_left:
                self._events_left -= len(ends)
                return data, False
            end, self._events_left = ends[self._events_left - 1], 0
            return data[:end], True


class Relay:
    """A TCP relay to one replica."""

    def __init__(self, replica: Server, scissors: Scissors) -> None:
        self._replica_port = replica.port
        self._scissors = scissors
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._socks = [self._listener]
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for sock in self._socks:
            _hang_up(sock)
        for thread in self._threads:
            thread.join(10)
        for sock in self._socks:
            sock.close()

    def _run(self, target: Callable[..., None], *socks: socket.socket) -> None:
        thread = threading.Thread(target=target, args=socks, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._socks.append(near)
                try:
                    far = socket.create_connection(("127.0.0.1", self._replica_port))
                except OSError:
                    _hang_up(near)
                    continue
                self._socks.append(far)
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._run(self._ask, near, far)
                self._run(self._answer, near, far)

    def _ask(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                self._scissors.asked.append(data)
                far.sendall(data)
        _hang_up(near, far)

    def _answer(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(65536):
                passed, is_end = self._scissors.through(data)
                near.sendall(passed)
                if is_end:
                    break
        _hang_up(near, far)


def _hang_up(*socks: socket.socket) -> None:
    for sock in socks:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`penstock up` with two replicas of the demo model on vLLM."""
    env = {VENV_VARIABLE: os.environ[VENV_VARIABLE], **OFFLINE}
    with penstock_up(tmp_path_factory.mktemp("vllm"), VLLM, **env) as server:
        wait_until(lambda: ready_replicas(server) == 2, "both replicas to be ready", START_S)
        yield server


@pytest.fixture(scope="module")
def scissors() -> Scissors:
    return Scissors()


@pytest.fixture(scope="module")
def replicas(stack: Gateway) -> list[Server]:
    """The two replicas themselves."""
    headers = {"Authorization": f"Bearer {ENGINE_KEY}"}
    urls = [entry["url"] for entry in registered(stack)]
    return [Server(stack.process, int(url.rpartition(":")[2]), stack.log, headers) for url in urls]


@pytest.fixture(scope="module")
def front(
    replicas: list[Server], scissors: Scissors, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that reaches both replicas through relays."""
    with ExitStack() as exits:
        relays = [exits.enter_context(closing(Relay(replica, scissors))) for replica in replicas]
        config = remote(DEMO, *relays, extra=REACHED)
        yield exits.enter_context(ready_gateway(tmp_path_factory.mktemp("front"), config))


def registered(stack: Gateway) -> list[dict[str, Any]]:
    """The replicas of which the supervisor says that they run."""
    folder = stack.home / "run" / "replicas"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def ask(text: str = COUNT, **members: Any) -> dict[str, Any]:
    return {
        "model": DEMO,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 700,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **members,
    }


def complete(text: str, **members: Any) -> dict[str, Any]:
    body = ask(prompt=f"{text}\n", **members)
    del body["messages"]
    return body


def usage_of(events: list[Any]) -> dict[str, int]:
    usage: dict[str, int] = events[-2]["usage"]
    return usage


def broken(
    front: Gateway, scissors: Scissors, cut: int, path: str, body: dict[str, Any], **headers: str
) -> list[Any]:
    """The events of an answer that was broken off after so many of them."""
    scissors.arm(cut)
    events = events_of(front, path, body, **headers)
    assert not scissors.armed, f"it had no {cut} events"
    return events


def assert_one_answer(events: list[Any], whole: list[Any]) -> None:
    """No client can tell that the first of these streams broke off."""
    assert events[-1] == whole[-1] == "[DONE]", events[-1]
    assert text_of(events) == text_of(whole)
    chunks = events[:-1]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == [
        c["finish_reason"] for chunk in whole[:-1] for c in chunk["choices"] if c["finish_reason"]
    ]
    roles = [choice for choice in choices if "role" in choice.get("delta", {})]
    assert roles == [choice for choice in choices[:1] if "delta" in choice]
    pieces = [c for c in choices if c.get("text") or c.get("delta", {}).get("content")]
    if len(pieces) >= usage_of(whole)["completion_tokens"]:  # a slow API server joins tokens to one event
        assert usage_of(events) == usage_of(whole)


# -- the stream contract --------------------------------------------------------------------------------


def test_a_stream_comes_whole_and_in_pieces(stack: Gateway) -> None:
    events = events_of(stack, CHAT, ask(max_tokens=20))

    assert_one_answer(events, events)
    assert text_of(events).startswith("One, two, three, four")
    assert usage_of(events)["completion_tokens"] == 20
    assert len(events) > 10


def test_usage_that_was_not_asked_for_is_counted_and_hidden(stack: Gateway) -> None:
    events = events_of(stack, CHAT, ask(max_tokens=20, stream_options=None), **{"X-Request-Id": "hidden"})

    record = stack.record("hidden")
    assert not any(event.get("usage") for event in events[:-1])
    assert (record["completion_tokens"], record["usage_source"]) == (20, "engine")


def test_unknown_members_reach_the_engine_and_its_own_come_back(front: Gateway, scissors: Scissors) -> None:
    reply = front.request(
        "POST", CHAT, ask(max_tokens=3, stream=False, stream_options=None, return_token_ids=True, made_up=[7])
    )

    assert reply.status == 200
    assert b'"made_up": [7]' in scissors.asked[-1]
    assert len(reply.json()["choices"][0]["token_ids"]) == 3


@pytest.mark.parametrize("members", [{"max_tokens": 5000}, {"temperature": -3}, {"top_p": 7}])
@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_comes_as_the_engine_put_it(
    front: Gateway, replicas: list[Server], members: dict[str, Any], stream: bool
) -> None:
    body = ask(stream=stream, **members)
    if not stream:
        del body["stream_options"]

    said, own = (server.request("POST", CHAT, body) for server in (front, replicas[0]))

    assert (said.status, said.body) == (own.status, own.body)
    assert said.status == 400


def test_a_client_that_leaves_stops_the_engine(stack: Gateway, replicas: list[Server]) -> None:
    made = [_made_for_who_leaves(stack, replicas, number) for number in range(3)]

    # An answer takes this model some seconds: on a machine with no core to spare, vLLM may notice too late once.
    assert min(made) < 2000


def _made_for_who_leaves(stack: Gateway, replicas: list[Server], number: int) -> float:
    """How many of 2000 tokens are generated for a client that leaves after two."""
    before = total(replicas, "generation_tokens_total")
    with open_stream(stack, ask(max_tokens=2000, ignore_eos=True), f"leaves-{number}") as sock:
        read_events(sock, 2)

    wait_until(lambda: not total(replicas, "num_requests_running"), "vLLM to stop", 10)
    assert total(replicas, "num_requests_waiting") == 0
    assert stack.record(f"leaves-{number}")["outcome"] == "cancelled"
    return total(replicas, "generation_tokens_total") - before


def total(replicas: list[Server], metric: str) -> float:
    """The sum of what vLLM's metric says."""
    texts = [replica.request("GET", "/metrics").body.decode() for replica in replicas]
    found = [value for text in texts for value in re.findall(rf"(?m)^vllm:{metric}\{{.*\}} (\S+)$", text)]
    return sum(map(float, found))


def test_the_same_key_gets_the_same_stream_again(front: Gateway, scissors: Scissors) -> None:
    key = {"Idempotency-Key": "once"}
    first = front.request("POST", CHAT, ask(max_tokens=40), key)
    asked = sum(b"POST" in data for data in scissors.asked)

    again = front.request("POST", CHAT, ask(max_tokens=40), key)

    assert again.body == first.body
    assert b"[DONE]" in first.body
    assert again.headers["idempotent-replayed"] == "true"
    assert sum(b"POST" in data for data in scissors.asked) == asked


# -- continuation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [COUNT, STORY])
@pytest.mark.parametrize(("path", "make"), [(CHAT, ask), (COMPLETIONS, complete)])
def test_wherever_it_breaks_off_the_answer_is_the_same(
    front: Gateway, scissors: Scissors, path: str, make: Any, text: str
) -> None:
    whole = events_of(front, path, make(text))

    for cut in CUTS if path == CHAT else CUTS[::3]:
        assert_one_answer(broken(front, scissors, cut, path, make(text)), whole)


@pytest.mark.parametrize("cut", [20, 60, 130])
def test_an_answer_that_is_cut_short_stays_so(front: Gateway, scissors: Scissors, cut: int) -> None:
    whole = events_of(front, CHAT, ask(STORY, max_tokens=150))

    events = broken(
        front, scissors, cut, CHAT, ask(STORY, max_tokens=150), **{"X-Request-Id": f"short-{cut}"}
    )

    assert_one_answer(events, whole)
    assert usage_of(whole)["completion_tokens"] == 150
    assert front.record(f"short-{cut}")["attempts"] == 2


def test_tokens_that_came_in_one_event_count_too(front: Gateway, stack: Gateway, scissors: Scissors) -> None:
    body = ask(STORY, max_tokens=500)
    whole = events_of(front, CHAT, body)

    for number in range(5):  # on a busy machine all the rest may have come in fewer events
        sock, said, pid = frozen(front, stack, body, f"joined-{number}")
        with sock:
            scissors.arm(3)
            os.kill(pid, signal.SIGCONT)
            said += read_until(sock, b"0\r\n\r\n")
        if not scissors.armed:
            break
        scissors.arm(0)

    assert not scissors.armed
    assert len(text_of(events_in(said))) == len(text_of(whole))
    assert usage_of([*events_in(said), "[DONE]"]) == usage_of(whole)


def test_an_aborted_answer_is_continued(front: Gateway, replicas: list[Server]) -> None:
    whole = events_of(front, CHAT, ask(STORY))

    for number in range(10):  # on a busy machine an answer can be over before it is aborted
        name = f"aborted-{number}"
        with open_stream(front, ask(STORY), name) as sock:
            said = read_events(sock, 2)
            for replica in replicas:
                abort = {"request_ids": [f"chatcmpl-{name}"]}
                assert replica.request("POST", "/inference/v1/abort_requests", abort).status == 200
            said += read_until(sock, b"[DONE]")
        record = front.record(name)
        if record["attempts"] > 1:
            break

    assert_one_answer([*events_in(said), "[DONE]"], whole)
    assert b'"abort"' not in said
    assert (record["outcome"], record["continuations"]) == ("complete", 1)


@pytest.mark.parametrize(
    "members", [{"logprobs": True, "top_logprobs": 1}, {"response_format": {"type": "json_object"}}]
)
def test_what_can_not_be_continued_ends_with_an_error_event(
    front: Gateway, scissors: Scissors, members: dict[str, Any]
) -> None:
    events = broken(front, scissors, 10, CHAT, ask(**members))

    assert events[-1]["error"]["code"] == "engine_connection_lost"
    assert len(events) == 11


# -- killed replicas ------------------------------------------------------------------------------------


def test_a_killed_replica_does_not_end_its_answer(stack: Gateway) -> None:
    whole = events_of(stack, CHAT, ask(STORY))

    sock, said, pid = frozen(stack, stack, ask(STORY), "killed")
    with sock:
        os.killpg(pid, signal.SIGKILL)
        said += read_until(sock, b"[DONE]")

    assert_one_answer([*events_in(said), "[DONE]"], whole)
    assert stack.record(last_id("killed"))["attempts"] == 2


def test_without_another_replica_the_answer_ends_in_time_and_the_engine_comes_back(stack: Gateway) -> None:
    wait_until(lambda: ready_replicas(stack) == 1, "one of them to be gone")

    sock, said, pid = frozen(stack, stack, ask(max_tokens=2000, ignore_eos=True), "alone")
    with sock:
        os.killpg(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        said += read_until(sock, b'"error"')
        waited_s = time.monotonic() - killed_s

    assert b"engine_" in said
    assert b"[DONE]" not in said
    assert waited_s < REPLICA_WAIT_S + 5
    assert stack.record(last_id("alone"))["outcome"] == "interrupted"
    wait_until(lambda: ready_replicas(stack) >= 1, "a replica to be back", START_S)
    assert text_of(events_of(stack, CHAT, ask(max_tokens=5))) == "One, two,"


_TRIES: dict[str, int] = {}


def frozen(
    server: Gateway, stack: Gateway, body: dict[str, Any], name: str
) -> tuple[socket.socket, bytes, int]:
    """An answer whose API server stands still amid it: its connection, what came, and the process.

    EngineCore goes on meanwhile. On a busy machine an answer can be over before; then it is asked for again.
    """
    for number in range(10):
        _TRIES[name] = number
        sock = open_stream(server, body, last_id(name))
        said = read_events(sock, 2)
        writer = re.search(rb"x-penstock-replica: (\S+)", said)
        assert writer is not None
        pid = next(e["pid"] for e in registered(stack) if e["name"] == writer[1].decode())
        os.kill(pid, signal.SIGSTOP)
        said += all_there(sock)
        if b"[DONE]" not in said:
            return sock, said, pid
        os.kill(pid, signal.SIGCONT)
        sock.close()
    raise AssertionError("every answer was over before it could be stopped")


def last_id(name: str) -> str:
    """The request id of the last answer of this name."""
    return f"{name}-{_TRIES[name]}"


def all_there(sock: socket.socket, silence_s: float = 0.3) -> bytes:
    """What comes until nothing more does."""
    said, patience_s = b"", sock.gettimeout()
    sock.settimeout(silence_s)
    with suppress(TimeoutError):
        while piece := sock.recv(65536):
            said += piece
    sock.settimeout(patience_s)
    return said


def events_in(said: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in said.split(b"\n") if line.startswith(b"data: {")]

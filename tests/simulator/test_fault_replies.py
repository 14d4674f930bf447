from __future__ import annotations

import http.client
import json
import socket
import time

import pytest
from tests.simulator.sim_client import chat_body, read_events, text_of

USAGE = {"stream_options": {"include_usage": True}}


def read_until_broken(sock: socket.socket) -> tuple[bytes, bool]:
    """All that comes, and whether a reset ended it."""
    raw = b""
    with sock:
        try:
            while data := sock.recv(65536):
                raw += data
        except ConnectionResetError:
            return raw, True
    return raw, False


@pytest.mark.parametrize("stream", [True, False])
def test_reset_before_resets_without_a_byte(sim, stream):
    assert read_until_broken(sim.raw(chat_body(sim_fault="reset_before", stream=stream))) == (b"", True)


def test_reset_after_tokens_resets_after_exactly_so_many(sim):
    raw, reset = read_until_broken(sim.raw(chat_body(sim_fault="reset_after_tokens=5", stream=True)))

    assert reset
    assert raw.count(b"data: ") == 1 + 5
    assert b"[DONE]" not in raw


def test_reset_after_tokens_leaves_a_plain_call_without_a_byte(sim):
    assert read_until_broken(sim.raw(chat_body(sim_fault="reset_after_tokens=5"))) == (b"", True)


@pytest.mark.parametrize(("fault", "tokens"), [("stall_after_tokens=3", 3), ("stall_before_first", 0)])
def test_a_stalled_stream_stays_open_and_silent_until_the_client_leaves(start, fault, tokens):
    sim = start()
    sock = sim.raw(chat_body(sim_fault=fault, stream=True))
    sim.until(lambda _: sim.metric("vllm:generation_tokens_total") == 8)
    raw = sock.recv(65536)
    sock.settimeout(0.2)

    with pytest.raises(TimeoutError):
        sock.recv(1)

    assert raw.count(b"data: ") == (1 + tokens if tokens else 0)
    sock.close()
    assert sim.until(lambda seen: seen["running"] == 0)["cancelled"] == 1


def test_a_status_comes_in_the_error_shape_with_its_retry_after(sim):
    body = json.dumps(chat_body()).encode()

    status, headers, raw = sim.send(
        "POST", "/v1/chat/completions", body, x_sim_fault="status=429;retry_after=3"
    )

    assert (status, headers["retry-after"]) == (429, "3")
    assert json.loads(raw)["error"]["type"] == "RateLimitError"


def test_an_unknown_fault_in_the_header_is_a_400_that_names_the_nearest(sim):
    status, body = sim.post("/v1/chat/completions", chat_body(), x_sim_fault="malfored")

    assert status == 400
    assert "'malformed'" in body["error"]["message"]


def test_a_malformed_stream_has_one_broken_event(sim):
    body = json.dumps(chat_body(stream=True, sim_fault="malformed=3")).encode()
    _, _, raw = sim.send("POST", "/v1/chat/completions", body)

    broken = []
    for place, event in enumerate(raw.decode().split("\n\n")[:-2]):
        try:
            json.loads(event.removeprefix("data: "))
        except ValueError:
            broken.append(place)

    assert broken == [3]


def test_a_malformed_plain_reply_is_broken_json(sim):
    body = json.dumps(chat_body(sim_fault="malformed")).encode()
    status, _, raw = sim.send("POST", "/v1/chat/completions", body)

    assert status == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(raw)


def test_no_usage_leaves_usage_out_although_asked(sim):
    events = sim.stream(fault="no_usage", **USAGE)

    assert all("usage" not in event for event in events[:-1])
    assert "usage" not in sim.chat(sim_fault="no_usage")


def test_late_usage_comes_after_a_pause(sim):
    began_s = time.monotonic()

    events = sim.stream(fault="late_usage=300ms", **USAGE)

    assert events[-2]["usage"]["completion_tokens"] == 8
    assert time.monotonic() - began_s > 0.3


def test_abort_says_abort_and_done_like_vllm(sim):
    events = sim.stream(fault="abort=2", **USAGE)

    assert events[-3]["choices"][0]["finish_reason"] == "abort"
    assert events[-2]["usage"]["completion_tokens"] == 2
    assert events[-1] == "[DONE]"
    assert len(text_of(events).split()) == 2
    assert sim.chat(sim_fault="abort=2")["choices"][0]["finish_reason"] == "abort"


def test_early_role_comes_before_the_engine_has_begun(start):
    sim = start(base_step_s=30.0)
    sock = sim.raw(chat_body(stream=True, sim_fault="early_role"))
    raw = b""
    while b"\n\n" not in raw:
        raw += sock.recv(65536)

    assert b'"role":"assistant"' in raw
    sock.close()


def test_several_tokens_come_in_one_chunk(sim):
    events = sim.stream("same?", fault="tokens_per_chunk=4", max_tokens=10)

    assert [len(text_of([event]).split()) for event in events[1:-1]] == [4, 4, 2]
    assert text_of(events) == text_of(sim.stream("same?", max_tokens=10))


def test_close_idle_closes_a_kept_alive_connection_without_a_word(sim):
    connection = sim.open()
    connection.request("POST", "/v1/chat/completions", json.dumps(chat_body(sim_fault="close_idle")))
    response = connection.getresponse()
    response.read()

    assert response.headers["connection"] is None
    assert connection.sock.recv(1) == b""
    connection.close()


def test_trickle_sends_a_stream_byte_by_byte(sim):
    with sim.raw(chat_body(stream=True, max_tokens=2, sim_fault="trickle=0.001")) as sock:
        response = http.client.HTTPResponse(sock)
        response.begin()
        sizes = []
        raw = b""
        while data := response.read1(65536):
            sizes.append(len(data))
            raw += data

    assert read_events(raw)[-1] == "[DONE]"
    assert len(sizes) > len(raw) // 4


def test_refuse_closes_the_listener_for_a_while(start):
    sim = start()
    idle = sim.open()
    idle.request("GET", "/ping")
    idle.getresponse().read()

    raw, reset = read_until_broken(sim.raw(chat_body(sim_fault="refuse=1s")))

    assert (raw, reset) == (b"", True)
    with pytest.raises(ConnectionRefusedError):
        sim.get("/health")
    assert idle.sock.recv(1) == b""
    idle.close()
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        try:
            assert sim.send("GET", "/health")[0] == 200
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    else:
        raise AssertionError("never listened again")


def test_a_frozen_engine_makes_no_step_and_its_page_stands_still_while_health_is_fine(start):
    sim = start()
    frozen = sim.raw(chat_body(stream=True, sim_fault="freeze=60s"))
    other = sim.raw(chat_body(stream=True))
    sim.until(lambda seen: seen["running"] == 2)
    steps = sim.metric("vllm:iteration_tokens_total_count")

    assert sim.send("GET", "/health")[0] == 200
    assert sim.metric("vllm:num_requests_running") == sim.metric("vllm:kv_cache_usage_perc") == 0
    assert sim.metric("vllm:iteration_tokens_total_count") == steps == 0
    frozen.close()
    other.close()


def test_random_faults_can_be_set_at_the_start_and_while_running(start):
    sim = start(fault_rate=("status=503:1",))
    assert sim.post("/v1/chat/completions", chat_body())[0] == 503

    assert sim.post("/sim/faults", {"rates": []})[0] == 200

    assert sim.post("/v1/chat/completions", chat_body())[0] == 200


def test_the_next_requests_can_be_struck_and_a_wrong_script_is_refused(start):
    sim = start()

    assert sim.post("/sim/faults", {"fault": "status=500", "requests": 2}) == (
        200,
        {"rates": [], "requests": 2},
    )
    statuses = [sim.post("/v1/embeddings", {"input": "a"})[0] for _ in range(3)]

    assert statuses == [500, 500, 200]
    assert sim.post("/sim/faults", {"rates": ["nope:0.1"]})[0] == 400
    assert sim.post("/sim/faults", {"rate": []})[0] == 400
    assert sim.get("/sim/requests")["rejected"] == 2

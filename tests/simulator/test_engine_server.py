from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import threading

from tests.simulator.sim_client import chat_body, read_events, text_of


def test_a_stream_is_a_role_then_a_chunk_a_token_then_usage_then_done(sim):
    events = sim.stream(max_tokens=5, stream_options={"include_usage": True})

    role, *tokens, usage, done = events
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in tokens] == [None] * 4 + ["length"]
    assert len({chunk["id"] for chunk in events[:-1]}) == 1
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert done == "[DONE]"


def test_a_stream_has_no_usage_unless_it_is_asked_for(sim):
    events = sim.stream(max_tokens=2)

    assert all("usage" not in event for event in events[:-1])


def test_a_chunk_is_about_as_long_as_one_of_vllm(sim):
    _, _, raw = sim.send("POST", "/v1/chat/completions", json.dumps(chat_body(stream=True)).encode())

    assert all(210 <= len(event) <= 260 for event in raw.split(b"\n\n")[1:-3])


def test_an_answer_is_the_same_whether_it_is_streamed_or_not(sim):
    assert text_of(sim.stream("same?")) == sim.chat("same?")["choices"][0]["message"]["content"]


def test_an_answer_that_ends_by_itself_says_stop_in_an_empty_last_chunk(start):
    events = start(answer_tokens_mean=3).stream(max_tokens=500, stream_options={"include_usage": True})

    *tokens, last, usage, _ = events
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["delta"] == {"content": ""}
    # The token that ends the text counts, as it does in vLLM; the role chunk does not.
    assert usage["usage"]["completion_tokens"] == len(tokens)


def test_a_continued_chat_gives_exactly_the_rest(sim):
    whole = sim.stream("a long story", max_tokens=30)
    for kept in (1, 7, 29):
        part = text_of(whole[: kept + 1])
        messages = [{"role": "user", "content": "a long story"}, {"role": "assistant", "content": part}]

        rest = sim.events(
            "/v1/chat/completions",
            {
                "messages": messages,
                "stream": True,
                "max_tokens": 30 - kept,
                "continue_final_message": True,
                "add_generation_prompt": False,
            },
        )

        assert part + text_of(rest) == text_of(whole)


def test_a_completion_continued_by_token_ids_gives_exactly_the_rest(sim):
    fields = {"return_token_ids": True, "max_tokens": 12}
    _, whole = sim.post("/v1/completions", {"prompt": "once upon a time", **fields})
    prompt_ids, ids = whole["prompt_token_ids"], whole["choices"][0]["token_ids"]

    _, rest = sim.post("/v1/completions", {"prompt": prompt_ids + ids[:5], **fields, "max_tokens": 7})

    assert rest["choices"][0]["token_ids"] == ids[5:]


def test_usage_counts_the_prompt_as_tokenize_does(sim):
    messages = [{"role": "user", "content": "how many tokens are these, exactly?"}]
    _, counted = sim.post("/tokenize", {"messages": messages})

    usage = sim.chat("how many tokens are these, exactly?")["usage"]

    assert usage["prompt_tokens"] == counted["count"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_detokenize_undoes_tokenize(sim):
    text = "Grüße,\n  世界! \t(ok)"
    _, counted = sim.post("/tokenize", {"prompt": text})

    assert sim.post("/detokenize", {"tokens": counted["tokens"]}) == (200, {"prompt": text})


def test_a_stop_text_ends_the_answer_before_it(sim):
    whole = sim.chat("tell me", max_tokens=40)["choices"][0]["message"]["content"]
    words = whole.split()

    choice = sim.chat("tell me", max_tokens=40, stop=[words[6]])["choices"][0]

    assert choice["message"]["content"] == whole[: whole.index(words[6])]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", words[6])


def test_min_tokens_and_ignore_eos_keep_an_answer_going(start):
    sim = start(answer_tokens_mean=1)

    assert sim.chat(min_tokens=6)["usage"]["completion_tokens"] == 7
    assert sim.chat(ignore_eos=True)["usage"]["completion_tokens"] == 8
    assert sim.chat()["usage"]["completion_tokens"] == 1


def test_max_completion_tokens_goes_before_max_tokens(sim):
    assert sim.chat(max_completion_tokens=3)["usage"]["completion_tokens"] == 3


def test_wrong_requests_are_answered_in_the_openai_error_shape(sim):
    wrong = [
        (chat_body(max_tokens=2000), 400, "max_tokens"),
        (chat_body(max_tokens=0), 400, "max_tokens"),
        (chat_body("word " * 1100), 400, "maximum context length is 1024 tokens"),
        (chat_body(n=2), 400, "one choice"),
        (chat_body(model="other"), 404, "The model `other` does not exist."),
        (chat_body(stream_options={"include_usage": True}), 400, "stream=True"),
        (chat_body(max_tokens="many"), 400, "Expected `int | null`"),
        (chat_body(continue_final_message=True), 400, "add_generation_prompt"),
        (chat_body(sim_fault="stall_after_token=3"), 400, "'stall_after_tokens'"),
        ({"messages": []}, 400, "at least one"),
    ]
    for body, status, words in wrong:
        got, answer = sim.post("/v1/chat/completions", body)

        assert got == status, body
        assert words in answer["error"]["message"]
        assert answer["error"]["code"] == status
        assert answer["error"]["type"] in ("BadRequestError", "NotFoundError")


def test_broken_json_and_unknown_routes_are_refused(sim):
    assert sim.send("POST", "/v1/completions", b"{")[0] == 400
    assert sim.send("GET", "/nowhere")[0] == 404
    assert sim.send("GET", "/v1/completions")[0] == 405


def test_with_a_key_only_its_bearer_may_use_v1(start):
    sim = start(api_key="sk-sim")

    assert sim.send("GET", "/v1/models")[0] == 401
    assert sim.send("GET", "/v1/models", authorization="Bearer sk-other")[0] == 401
    assert sim.send("GET", "/v1/models", authorization="Bearer sk-sim")[0] == 200
    assert sim.send("GET", "/health")[0] == 200


def test_models_tell_every_name_and_the_context_length(sim):
    cards = sim.get("/v1/models")["data"]

    assert [(card["id"], card["max_model_len"]) for card in cards] == [("tiny", 1024), ("alias", 1024)]


def test_the_reply_names_the_model_as_the_client_did(sim):
    assert sim.chat(model="alias")["model"] == "alias"


def test_embeddings_are_the_same_for_the_same_text_and_of_length_one(sim):
    _, body = sim.post("/v1/embeddings", {"model": "tiny", "input": ["a b", "c", "a b"], "dimensions": 8})

    first, other, again = (entry["embedding"] for entry in body["data"])
    assert first == again != other
    assert abs(sum(number**2 for number in first) - 1) < 1e-9
    assert body["usage"]["prompt_tokens"] == 5


def test_embeddings_come_as_base64_where_asked(sim):
    _, body = sim.post("/v1/embeddings", {"input": "a", "dimensions": 8, "encoding_format": "base64"})

    assert len(base64.b64decode(body["data"][0]["embedding"])) == 8 * 4


def test_requests_are_kept_as_they_were_received(start):
    sim = start()
    raw = b'{ "messages":[{"role":"user","content":"\\u00fc"}],\n "max_tokens": 1, "odd": [1,  2] }'

    sim.send("POST", "/v1/chat/completions", raw, x_odd="Yes")

    entry = sim.get("/sim/requests")["requests"][-1]
    assert base64.b64decode(entry["body_base64"]) == raw
    assert ["x-odd", "Yes"] in entry["headers"]
    assert entry["state"] == "finished"


def test_a_client_that_leaves_mid_stream_is_cancelled(start):
    sim = start(base_step_s=0.01)
    sock = sim.raw(chat_body(stream=True, max_tokens=900))
    sim.until(lambda seen: seen["running"] == 1)
    while b"content" not in sock.recv(65536):
        pass

    sock.close()

    seen = sim.until(lambda seen: seen["cancelled"] == 1)
    assert seen["running"] == 0
    assert seen["requests"][0]["tokens"] < 400
    assert sim.metric("vllm:num_requests_running") == 0
    assert sim.metric("vllm:request_success_total|abort") == 1


def test_a_client_that_leaves_before_the_first_token_is_cancelled(start):
    sim = start(base_step_s=30.0)
    for stream in (True, False):
        sock = sim.raw(chat_body(stream=stream))
        sim.until(lambda seen: seen["running"] == 1)

        sock.close()

        sim.until(lambda seen: seen["running"] == 0)
    assert sim.get("/sim/requests")["cancelled"] == 2
    assert sim.metric("vllm:kv_cache_usage_perc") == 0


def test_a_client_that_leaves_while_waiting_for_embeddings_is_cancelled(start):
    sim = start(base_step_s=30.0)
    sock = sim.raw({"input": "a"}, "/v1/embeddings")
    sim.until(lambda seen: seen["running"] == 1)

    sock.close()

    assert sim.until(lambda seen: seen["running"] == 0)["cancelled"] == 1


def test_a_full_line_is_answered_503_with_retry_after(start):
    sim = start(base_step_s=30.0, max_num_seqs=1, max_num_waiting=1)
    held = [sim.raw(chat_body()) for _ in range(2)]
    sim.until(lambda seen: seen["running"] == 2)

    status, headers, _ = sim.send("POST", "/v1/chat/completions", json.dumps(chat_body()).encode())

    assert status == 503
    assert headers["retry-after"] == "1"
    assert sim.metric("vllm:admission_rejections_total") == 1
    for sock in held:
        sock.close()


def test_metrics_count_tokens_steps_and_prefix_hits(start):
    sim = start()
    for _ in range(2):
        sim.chat("word " * 100, max_tokens=4)

    assert sim.metric("vllm:generation_tokens_total") == 8
    assert sim.metric("vllm:iteration_tokens_total_count") == 8
    assert sim.metric("vllm:time_to_first_token_seconds_count") == 2
    assert sim.metric("vllm:inter_token_latency_seconds_count") == 6
    assert sim.metric('vllm:e2e_request_latency_seconds_bucket|le="+Inf"') == 2
    assert sim.metric("vllm:request_success_total|length") == 2
    assert sim.metric("vllm:prefix_cache_hits_total") == 96
    assert sim.metric("vllm:prompt_tokens_total") == sim.metric("vllm:prefix_cache_queries_total") > 200


def test_the_exposition_can_be_parsed_by_prometheus_own_parser(sim):
    from prometheus_client.parser import text_string_to_metric_families

    _, _, body = sim.send("GET", "/metrics")

    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {"vllm:num_requests_running", "vllm:generation_tokens", "vllm:iteration_tokens_total"} <= names


def test_a_connection_serves_many_requests_and_pipelined_ones_in_order(sim):
    data = json.dumps(chat_body(max_tokens=1)).encode()
    one = b"POST /v1/chat/completions HTTP/1.1\r\nhost: s\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)
    with socket.create_connection(("127.0.0.1", sim.port), 10) as sock:
        sock.sendall(one + b"GET /v1/models HTTP/1.1\r\nhost: s\r\n\r\n" + one)
        sock.sendall(b"GET /ping HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n")

        raw = b"".join(iter(lambda: sock.recv(65536), b""))

    assert raw.count(b"HTTP/1.1 200 OK") == 4
    assert re.findall(rb'"object":"(chat.completion|list)"', raw) == [
        b"chat.completion",
        b"list",
        b"chat.completion",
    ]


def test_an_http_1_0_client_gets_an_unchunked_stream_that_ends_with_the_connection(sim):
    data = json.dumps(chat_body(stream=True, max_tokens=3)).encode()
    with socket.create_connection(("127.0.0.1", sim.port), 10) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)
        )
        raw = b"".join(iter(lambda: sock.recv(65536), b""))

    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert read_events(body)[-1] == "[DONE]"


def test_a_slow_reader_gets_every_token_and_holds_up_nobody(start, request):
    sim = start(base_step_s=0.0, max_model_len=50_000, kv_blocks=4096)
    body = json.dumps(chat_body(stream=True, max_tokens=40_000)).encode()
    slow = socket.socket()
    request.addfinalizer(slow.close)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.settimeout(10)
    slow.connect(("127.0.0.1", sim.port))
    slow.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: s\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    sim.until(lambda _: sim.metric("vllm:generation_tokens_total") == 40_000)

    assert sim.get("/sim/requests")["running"] == 1
    response = http.client.HTTPResponse(slow)
    response.begin()
    events = read_events(response.read())

    assert len(text_of(events).split()) == 40_000
    assert len(events) < 40_000  # the rest of the tokens came together, once there was room
    assert events[-1] == "[DONE]"


def test_an_offer_to_upgrade_to_http_2_is_passed_over(sim):
    upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABk"}

    assert sim.send("GET", "/health", **upgrade)[0] == 200


def test_a_body_that_is_too_large_is_refused(start):
    sim = start(body_bytes_max=1000)

    assert sim.send("POST", "/v1/completions", b"x" * 2000)[0] == 413


def test_sigterm_lets_running_requests_finish_and_exits_with_0(start):
    sim = start(base_step_s=0.02)
    idle = sim.open()
    idle.request("GET", "/ping")
    idle.getresponse().read()
    got: list[list] = []
    reader = threading.Thread(target=lambda: got.append(sim.stream(max_tokens=30)))
    reader.start()
    sim.until(lambda seen: seen["running"] == 1)

    code = sim.stop()

    reader.join(10)
    assert code == 0
    assert got[0][-1] == "[DONE]"
    assert got[0][-2]["choices"][0]["finish_reason"] == "length"
    idle.close()


def test_what_is_left_after_the_shutdown_timeout_says_abort(start):
    sim = start(base_step_s=0.02, shutdown_timeout_s=0.2)
    got: list[list] = []
    reader = threading.Thread(target=lambda: got.append(sim.stream(max_tokens=900)))
    reader.start()
    sim.until(lambda seen: seen["running"] == 1)

    code = sim.stop()

    reader.join(10)
    assert code == 0
    assert got[0][-2]["choices"][0]["finish_reason"] == "abort"

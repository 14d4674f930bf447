"""What clients send and engines answer passes byte for byte, but for a model alias and `include_usage`."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from tests.e2e.load import CHAT, COMPLETIONS, EMBEDDINGS
from tests.e2e.processes import Gateway, Reply, ready_gateway, remote
from tests.e2e.request_fields import FIELDS, REQUIRED
from tests.e2e.scripted import ScriptedEngine, begin_stream, say, scripted_engine

RESPONSES = "/v1/responses"
ROUTES = tuple(FIELDS)
GENERATING = (CHAT, COMPLETIONS)
OPENAI_PARAMS: dict[str, tuple[ModuleType, str]] = {
    CHAT: (chat_create_params, "CompletionCreateParamsBase"),
    COMPLETIONS: (completion_create_params, "CompletionCreateParamsBase"),
    EMBEDDINGS: (embedding_create_params, "EmbeddingCreateParams"),
    RESPONSES: (response_create_params, "ResponseCreateParamsBase"),
}
REPLY = (
    b'{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'
)
PAUSED_PIECES = 3  # few enough to wait after each, so that the gateway reads one by one
PAUSE_S = 0.002
BAD = 5  # shown of what did not pass
few = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def reply_of(status: int, body: bytes, media_type: str = "application/json", *more: str) -> bytes:
    """A whole response, to be sent at once."""
    head = [
        f"HTTP/1.1 {status} Whatever",
        f"content-type: {media_type}",
        f"content-length: {len(body)}",
        *more,
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


class Bench:
    """A gateway before an engine that answers as `script` says."""

    def __init__(self, front: Gateway, engine: ScriptedEngine) -> None:
        self.front = front
        self.engine = engine
        self.script: Callable[[socket.socket], object] = lambda sock: sock.sendall(reply_of(200, REPLY))

    def post(self, route: str, body: bytes, **headers: str) -> Reply:
        return self.front.request("POST", route, body, {"Content-Type": "application/json", **headers})

    def arrived(self, route: str, body: bytes) -> bytes:
        """What of `body` arrives at the engine."""
        self.script = lambda sock: sock.sendall(reply_of(200, REPLY))
        before = len(self.engine.requests)
        reply = self.post(route, body)
        assert reply.status == 200, (reply.body, body)
        assert len(self.engine.requests) == before + 1
        head, there = self.engine.requests[-1]
        assert head.startswith(f"POST {route} HTTP/1.1\r\n".encode())
        return there

    def streamed(self, pieces: list[bytes], route: str = CHAT, *, usage: bool = True) -> Reply:
        """What of a stream that comes in these pieces arrives at the client."""

        def script(sock: socket.socket) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begin_stream(sock)
            for piece in pieces:
                say(sock, piece)
                if len(pieces) <= PAUSED_PIECES:
                    time.sleep(PAUSE_S)
            sock.sendall(b"0\r\n\r\n")

        self.script = script
        options = ',"stream_options":{"include_usage":true}' if usage else ""
        return self.post(route, f'{{"model":"m",{REQUIRED[route]},"stream":true{options}}}'.encode())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with ExitStack() as stack:
        engine = stack.enter_context(scripted_engine(lambda sock, _: made.script(sock)))
        config = remote("m", engine, extra='aliases = ["al\\u00efas"]')
        front = stack.enter_context(ready_gateway(tmp_path_factory.mktemp("identity"), config))
        made = Bench(front, engine)
        yield made


# -- requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", OPENAI_PARAMS)
def test_the_list_of_fields_has_all_of_openais(route: str) -> None:
    module, name = OPENAI_PARAMS[route]
    known = {*FIELDS[route], "model", "messages", "prompt", "input", "stream", "stream_options"}

    assert set(getattr(module, name).__annotations__) - known == set()


@pytest.mark.parametrize("route", ROUTES)
def test_every_field_of_a_request_arrives(bench: Bench, route: str) -> None:
    def bodies() -> Iterator[bytes]:
        for name, value in FIELDS[route].items():
            yield f'{{"model": "m",\t{REQUIRED[route]} ,\r\n "{name}" : {value} }}'.encode()
        members = [f'"{name}":{value}' for name, value in FIELDS[route].items()]
        yield f'{{{",".join(members)},{REQUIRED[route]},"model":"m"}}'.encode()

    lost = [body for body in bodies() if bench.arrived(route, body) != body]

    assert lost[:BAD] == []


@pytest.mark.parametrize("route", GENERATING)
def test_of_a_stream_only_include_usage_is_added(bench: Bench, route: str) -> None:
    lost = []
    for name, value in FIELDS[route].items():
        asked = f'"{name}":{value},"stream" : true,{REQUIRED[route]}, "model":"m"}}'.encode()
        arrived = bench.arrived(route, b"{ " + asked)
        if arrived != b'{"stream_options":{"include_usage":true}, ' + asked:
            lost.append((asked, arrived))

    assert lost[:BAD] == []


@pytest.mark.parametrize("route", GENERATING)
@pytest.mark.parametrize(
    ("given_options", "passed"),
    [
        ('{"include_usage":true, "continuous_usage_stats" : true}', None),
        ('{"continuous_usage_stats":1e0}', '{"continuous_usage_stats":1e0,"include_usage":true}'),
        ('{"include_usage":false,"x":[ 1 ]}', '{"include_usage":true,"x":[ 1 ]}'),
        ("{ }", '{"include_usage":true}'),
        ("null", '{"include_usage":true}'),
    ],
)
def test_stream_options_keep_what_else_they_have(
    bench: Bench, route: str, given_options: str, passed: str | None
) -> None:
    def body(options: str) -> str:
        return f'{{"stream_options": {options} ,"model":"m","stream":true,{REQUIRED[route]}}}'

    arrived = bench.arrived(route, body(given_options).encode())

    assert arrived.decode() == body(passed or given_options)


@pytest.mark.parametrize("route", [EMBEDDINGS, RESPONSES, "/v1/rerank"])
def test_a_stream_of_another_api_is_asked_for_as_it_was(bench: Bench, route: str) -> None:
    body = f'{{"model":"m",{REQUIRED[route]},"stream":true}}'.encode()

    assert bench.arrived(route, body) == body


def spaces() -> st.SearchStrategy[str]:
    return st.text(" \t\r\n", max_size=3)


def numbers() -> st.SearchStrategy[str]:
    odd = [
        "-0",
        "1e999",
        "-1E+400",
        "1e-999",
        "0.10",
        "1.0E5",
        "9" * 60,
        "0.1" + "0" * 30 + "1",
        "18446744073709551616",
    ]
    return (
        st.sampled_from(odd)
        | st.integers().map(str)
        | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    )


def strings() -> st.SearchStrategy[str]:
    """JSON strings, spelled in any way that is allowed."""
    plain = st.characters(exclude_characters='"\\', exclude_categories=["Cs", "Cc"])
    escaped = st.sampled_from(["\\n", "\\/", "\\\\", '\\"', "\\b", "\\u0000", "\\u00e9", "\\uD83D\\uDE00"])
    odd = st.sampled_from(
        ['\\"model\\":', '\\"stream\\":true', "}", "]", ",", ":", "data: [DONE]", "\u2028", "é", "😀"]
    )
    return st.lists(plain | escaped | odd, max_size=6).map(lambda parts: f'"{"".join(parts)}"')


def values() -> st.SearchStrategy[str]:
    """JSON text of any value, with white space in odd places."""

    def listed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        items = st.lists(st.tuples(spaces(), inner, spaces()).map("".join), max_size=3)
        pairs = st.lists(
            st.tuples(spaces(), strings(), spaces(), st.just(":"), spaces(), inner, spaces()).map("".join),
            max_size=3,
        )
        return items.map(lambda parts: f"[{','.join(parts)}]") | pairs.map(
            lambda parts: f"{{{','.join(parts)}}}"
        )

    return st.recursive(
        st.sampled_from(["null", "true", "false"]) | numbers() | strings(), listed, max_leaves=8
    )


KNOWN = {"model", "stream", "stream_options", "messages", "prompt", "input", "n", "user", "prompt_cache_key"}
KNOWN |= {"max_tokens", "max_completion_tokens"}


def is_further(name: str) -> bool:
    """Whether this is no member that the gateway reads, in any spelling."""
    return json.loads(name, strict=False) not in KNOWN


def members() -> st.SearchStrategy[list[str]]:
    """Further members of a body; a name may come twice."""
    names = strings().filter(is_further) | st.sampled_from(['"x"', '"top_k"'])
    return st.lists(
        st.tuples(spaces(), names, spaces(), st.just(":"), spaces(), values(), spaces()).map("".join),
        max_size=4,
    )


@few
@given(before=members(), after=members(), route=st.sampled_from(ROUTES), padding=spaces())
@example(before=['"x":"\\\\ud800"'], after=['"x":1e999', '"x":1'], route=CHAT, padding="\r\n")
def test_odd_json_arrives_as_it_was(
    bench: Bench, before: list[str], after: list[str], route: str, padding: str
) -> None:
    own = [f'{padding}"model"{padding}:{padding}"m"', REQUIRED[route]]
    body = f"{padding}{{{','.join([*before, *own, *after])}{padding}}}{padding}".encode()

    assert bench.arrived(route, body) == body


@few
@given(before=members(), after=members(), route=st.sampled_from(ROUTES), spelled=st.booleans())
def test_of_an_alias_nothing_but_the_name_is_replaced(
    bench: Bench, before: list[str], after: list[str], route: str, spelled: bool
) -> None:
    def body(name: str) -> bytes:
        parts = [*before, f' "model" : {name} ', REQUIRED[route], *after]
        return f"{{{','.join(parts)}}}".encode()

    assert bench.arrived(route, body('"al\\u00EFas"' if spelled else '"alïas"')) == body('"m"')


def test_the_last_of_two_models_counts_and_is_the_one_that_is_replaced(bench: Bench) -> None:
    body = f'{{"model":"x","\\u006dodel":"alïas",{REQUIRED[CHAT]},"x":{{"model":"alïas"}}}}'

    arrived = bench.arrived(CHAT, body.encode())

    assert arrived.decode() == body.replace('odel":"alïas",', 'odel":"m",', 1)


@pytest.mark.parametrize("field", ["user", "prompt_cache_key"])
@pytest.mark.parametrize("value", ['"\\u0000"', "[1]", "9" * 300, "-0.0"])
def test_odd_values_of_what_the_gateway_reads_arrive_too(bench: Bench, field: str, value: str) -> None:
    body = f'{{"model":"m",{REQUIRED[CHAT]},"{field}":{value}}}'.encode()

    assert bench.arrived(CHAT, body) == body


SURROGATES = (
    '"x":"\\ud800"',
    '"x":"\\udc00\\ud800"',
    '"\\uDFFF":1',
    '"user":"\\ud800"',
    '"x":"\\\\\\ud800\\\\"',
)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("member", SURROGATES)
def test_half_a_pair_of_surrogates_arrives(bench: Bench, route: str, member: str) -> None:
    body = f'{{{member},"model":"m",{REQUIRED[route]}}}'.encode()

    assert bench.arrived(route, body) == body


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (EMBEDDINGS, b'{"model":"m","messages":[{"role":"user","content":"embed this chat"}]}'),
        (COMPLETIONS, b'{"model":"m","prompt_embeds":"AAAA"}'),
        (CHAT, b'{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[]}]}'),
    ],
)
def test_what_vllm_takes_in_place_of_a_usual_member_arrives(bench: Bench, route: str, body: bytes) -> None:
    assert bench.arrived(route, body) == body


def test_a_large_body_arrives(bench: Bench) -> None:
    body = b'{"model":"m",%b,"x":"%b"}' % (REQUIRED[CHAT].encode(), b"\xc3\xa9\\n" * 1_000_000)

    assert bench.arrived(CHAT, body) == body


# -- replies -------------------------------------------------------------------------------------------


@few
@given(text=values(), route=st.sampled_from(ROUTES), padding=spaces())
def test_odd_json_of_an_engine_reaches_the_client_as_it_was(
    bench: Bench, text: str, route: str, padding: str
) -> None:
    reply = f'{padding}{{"id":1,"choices":[],"x":{text},"x":{text}}}{padding}'.encode()
    bench.script = lambda sock: sock.sendall(reply_of(200, reply))

    got = bench.post(route, f'{{"model":"m",{REQUIRED[route]}}}'.encode())

    assert (got.status, got.body) == (200, reply)


@few
@given(
    body=st.binary(max_size=300),
    status=st.sampled_from([200, 201, 400, 404, 409, 413, 422, 429, 451]),
    media_type=st.sampled_from(["text/plain; charset=latin-1", "audio/mpeg", "application/octet-stream"]),
)
def test_any_bytes_of_an_engine_reach_the_client(
    bench: Bench, body: bytes, status: int, media_type: str
) -> None:
    bench.script = lambda sock: sock.sendall(reply_of(status, body, media_type, "x-engine: a, b"))

    got = bench.post("/v1/audio/speech", b'{"model":"m"}')

    assert (got.status, got.body) == (status, body)
    assert (got.headers["content-type"], got.headers["x-engine"]) == (media_type, "a, b")


@pytest.mark.parametrize("size", [1_048_576, 1_048_577, 5_000_000])
def test_a_large_reply_reaches_the_client(bench: Bench, size: int) -> None:
    reply = b'{"x":"%b"}' % (b"y" * (size - 8))
    bench.script = lambda sock: sock.sendall(reply_of(200, reply))

    got = bench.post(CHAT, f'{{"model":"m",{REQUIRED[CHAT]}}}'.encode())

    assert (got.status, got.body) == (200, reply)


def test_a_reply_that_the_engine_compressed_unasked_stays_so(bench: Bench) -> None:
    packed = gzip.compress(REPLY)
    bench.script = lambda sock: sock.sendall(
        reply_of(200, packed, "application/json", "content-encoding: gzip")
    )

    got = bench.post(CHAT, f'{{"model":"m",{REQUIRED[CHAT]}}}'.encode())

    assert (got.headers["content-encoding"], got.body) == ("gzip", packed)


# -- streams -------------------------------------------------------------------------------------------

DONE = b"data: [DONE]\n\n"
TOKEN = '{"id":"c","choices":[{"index":0,"delta":{"content":"é 😀 \\ud83d\\ude00"},"finish_reason":null}]}'
USAGE = '{"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
STREAM = (
    'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    f"data: {TOKEN}\n\n: a comment of the engine\n\nid: 7\ndata:{TOKEN}\n\n"
    'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    f"data: {USAGE}\n\n"
).encode() + DONE


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_stream_that_is_split_anywhere_reaches_the_client_as_it_was(bench: Bench, ending: bytes) -> None:
    stream = STREAM.replace(b"\n", ending)

    changed = [
        at for at in range(1, len(stream)) if bench.streamed([stream[:at], stream[at:]]).body != stream
    ]
    in_bytes = bench.streamed([stream[at : at + 1] for at in range(len(stream))]).body

    assert changed == []
    assert in_bytes == stream


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_only_the_usage_that_the_client_did_not_ask_for_is_left_out(bench: Bench, size: int) -> None:
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]

    got = bench.streamed(pieces, usage=False)

    assert got.body == STREAM.replace(f"data: {USAGE}\n\n".encode(), b"")


@pytest.mark.parametrize("text", ["\\ud800", "\\udc00\\ud83d", "\\\\\\ud800"])
def test_half_a_pair_of_surrogates_in_a_stream_is_no_failure(bench: Bench, text: str) -> None:
    chunk = f'{{"id":"c","choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]}}'
    stream = f"data: {chunk}\n\n".encode() * 3 + DONE

    assert bench.streamed([stream]).body == stream


def events() -> st.SearchStrategy[bytes]:
    """Events of a chat as no engine would spell them, but might."""
    extra = st.tuples(strings().filter(is_no_mark), values()).map(lambda pair: f"{pair[0]}:{pair[1]}")
    chunk = st.tuples(spaces_in_line(), extra, strings(), extra, spaces_in_line()).map(
        lambda parts: (
            f'{{{parts[0]}"id":"c",{parts[1]},"choices":[{{"index":0,"delta":{{"content":{parts[2]}}},{parts[3]},'
            f'"finish_reason":null}}]{parts[4]}}}'
        )
    )
    one_line = chunk.map(lambda text: text.replace("\n", " ").replace("\r", " "))
    shapes = [
        "data: {}\n\n",
        "data:{}\n\n",
        "event: x\ndata: {}\n\n",
        ": comment\n\ndata: {}\n\n",
        "data: {}\r\n\r\n",
    ]
    return st.tuples(st.sampled_from(shapes), one_line).map(
        lambda pair: pair[0].replace("{}", pair[1]).encode()
    )


def spaces_in_line() -> st.SearchStrategy[str]:
    return st.text(" \t", max_size=3)


def is_no_mark(name: str) -> bool:
    """Whether this is no member by which an engine says how the stream is."""
    marks = {"id", "choices", "usage", "error", "object", "message", "code", "finish_reason", "delta", "text"}
    return json.loads(name, strict=False) not in marks


@few
@given(told=st.lists(events(), max_size=6), cuts=st.lists(st.integers(1, 2000), max_size=6, unique=True))
def test_odd_streams_reach_the_client_as_they_were(bench: Bench, told: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(told) + DONE
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]

    assert bench.streamed(pieces).body == stream


@few
@given(text=values(), cut=st.integers(1, 200))
def test_streams_of_the_responses_api_reach_the_client_as_they_were(
    bench: Bench, text: str, cut: int
) -> None:
    text = text.replace("\n", " ").replace("\r", " ")
    stream = (
        f'event: response.created\ndata: {{"type":"response.created","x":{text}}}\n\n'
        f'event: response.completed\ndata: {{"type":"response.completed","response":{{"usage":{{"input_tokens":1,'
        '"output_tokens":2}}}\n\n'
    ).encode()

    assert bench.streamed([stream[:cut], stream[cut:]], RESPONSES).body == stream


def test_a_stream_that_goes_on_behind_a_pause_is_not_touched(bench: Bench) -> None:
    chunks: list[Any] = [STREAM[:40], STREAM[40:41], STREAM[41:]]

    assert bench.streamed(chunks).body == STREAM

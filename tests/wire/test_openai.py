"""Any body is either understood or refused with words that name the member at fault."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import ClientError
from penstock.wire.openai import CHAT, COMPLETIONS, EMBEDDINGS, InferenceRequest, read_request, with_model

ROUTES = (CHAT, COMPLETIONS, EMBEDDINGS, "/v1/rerank")
CHAT_BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["role", "include_usage", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
MEMBERS = st.dictionaries(
    st.sampled_from(["model", "messages", "prompt", "input", "stream", "stream_options", "x"]), VALUES
)
# JSON that parsers disagree on, and what is none.
ODD = st.sampled_from(
    [
        b'"\\ud800"',
        b'"\xff"',
        b"1e999",
        b"9" * 5000,
        b"[" * 3000 + b"]" * 3000,
        b'"\x01"',
        b"NaN",
        b"-0",
        b"{}",
    ]
)


def read(route: str, body: bytes) -> InferenceRequest | None:
    try:
        return read_request(route, body)
    except ClientError:  # and no other
        return None


def chat(**members: Any) -> bytes:
    return json.dumps({**CHAT_BODY, **members}).encode()


@given(st.sampled_from(ROUTES), st.binary(max_size=40))
def test_bytes_of_any_kind_are_read_or_are_the_clients_fault(route: str, body: bytes) -> None:
    read(route, body)


@given(st.sampled_from(ROUTES), MEMBERS)
def test_json_of_any_shape_is_read_or_is_the_clients_fault(route: str, members: dict[str, Any]) -> None:
    request = read(route, json.dumps(members).encode())

    if request is not None:
        assert request.model == members["model"] != ""
        assert request.stream is bool(members.get("stream"))


@given(ODD, st.sampled_from(["x", "model", "stream_options", "messages"]), st.booleans())
def test_odd_json_in_any_place_is_read_or_is_the_clients_fault(value: bytes, key: str, streams: bool) -> None:
    plain = {**CHAT_BODY, "stream": streams, "stream_options": {"x": 1}}
    members = [
        b"%b:%b" % (json.dumps(k).encode(), json.dumps(v).encode()) for k, v in plain.items() if k != key
    ]

    read(CHAT, b"{%b}" % b",".join([*members, b'"%b":%b' % (key.encode(), value)]))


@pytest.mark.parametrize(
    ("route", "body", "code", "param", "message"),
    [
        (CHAT, b"{}", "missing_required_parameter", "model", "model: is required"),
        (CHAT, b'{"model":"m"}', "missing_required_parameter", "messages", "messages: is required"),
        (COMPLETIONS, b'{"model":"m"}', "missing_required_parameter", "prompt", "prompt: is required"),
        (EMBEDDINGS, b'{"model":"m"}', "missing_required_parameter", "input", "input: is required"),
        (CHAT, b'{"model":3,"messages":[]}', "invalid_type", "model", "model: expected `str`, got `int`"),
        (CHAT, b'{"model":"","messages":[]}', "invalid_value", "model", "model: must not be empty"),
        (
            CHAT,
            b'{"model":"m","messages":[]}',
            "invalid_value",
            "messages",
            "messages: must hold at least one",
        ),
        (
            CHAT,
            b'{"model":"m","messages":[{"role":"u"},{}]}',
            "missing_required_parameter",
            "messages[1].role",
            "messages[1].role: is required",
        ),
        (
            CHAT,
            b'{"model":"m","messages":[{"role":"u"}],"stream_options":{"include_usage":1}}',
            "invalid_type",
            "stream_options.include_usage",
            "stream_options.include_usage: expected `bool | null`, got `int`",
        ),
        (CHAT, b"[]", "invalid_type", None, "the body: expected `object`, got `array`"),
        (CHAT, b"", "invalid_json", None, "the body is not valid JSON"),
        (CHAT, b'{"model":"\xff","messages":[]}', "invalid_json", None, "the body is not valid JSON"),
        (CHAT, b'{"x":' + b"[" * 100_000, "invalid_json", None, "the body is not valid JSON"),
    ],
)
def test_a_refusal_names_the_member_and_what_is_wrong_with_it(
    route: str, body: bytes, code: str, param: str | None, message: str
) -> None:
    with pytest.raises(ClientError) as caught:
        read_request(route, body)

    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("route", ROUTES)
def test_a_plain_request_goes_on_byte_for_byte(route: str) -> None:
    body = b' {"model" :"m", "messages":[{"role":"u"}],"prompt":1,"input":[], "stream":null}\n'

    request = read_request(route, body)

    assert (request.model, request.stream, request.body, request.hides_usage) == ("m", False, body, False)


@pytest.mark.parametrize(
    ("route", "members", "tokens"),
    [
        (CHAT, {}, None),
        (CHAT, {"max_tokens": 5}, 5),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 7}, 7),
        (CHAT, {"max_tokens": 5, "n": 3}, 15),
        (CHAT, {"max_tokens": "5"}, None),
        (COMPLETIONS, {"max_tokens": 0}, 0),
        (COMPLETIONS, {"n": 2}, None),
        (EMBEDDINGS, {"max_tokens": -1}, 0),
        ("/v1/responses", {}, None),
    ],
)
def test_the_most_that_an_answer_may_have_is_known_where_it_is_said(
    route: str, members: dict[str, object], tokens: int | None
) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user"}], "prompt": "", "input": "", **members})

    assert read_request(route, body.encode()).completion_tokens_max == tokens


@pytest.mark.parametrize(
    ("route", "members", "param"),
    [
        (CHAT, {"max_tokens": -1}, "max_tokens"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens"),
        (COMPLETIONS, {"max_tokens": -1}, "max_tokens"),
        (CHAT, {"n": 1000}, "n"),
        (CHAT, {"n": 0}, "n"),
    ],
)
def test_an_absurd_count_is_refused_with_its_name(route: str, members: dict[str, object], param: str) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user"}], "prompt": "", **members})

    with pytest.raises(ClientError) as caught:
        read_request(route, body.encode())

    assert (caught.value.code, caught.value.param) == ("invalid_value", param)


@pytest.mark.parametrize(
    ("members", "session"),
    [({"user": "u"}, "u"), ({"user": "u", "prompt_cache_key": "k"}, "k"), ({"user": 5}, ""), ({}, "")],
)
def test_a_session_is_named_by_the_body(members: dict[str, object], session: str) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user"}], **members})

    assert read_request(CHAT, body.encode()).session == session


def test_usage_is_asked_for_where_the_client_has_not_and_kept_from_it() -> None:
    request = read_request(CHAT, chat(stream=True))

    assert request.hides_usage
    assert json.loads(request.body) == {
        **CHAT_BODY, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_a_client_that_asks_for_usage_gets_its_body_on_unchanged() -> None:
    body = chat(stream=True, stream_options={"include_usage": True})

    assert read_request(CHAT, body) == InferenceRequest("m", True, body)


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None, "x": [1]}])
def test_stream_options_keep_what_else_they_hold(options: dict[str, Any] | None) -> None:
    request = read_request(CHAT, chat(stream=True, stream_options=options, z=1))

    assert request.hides_usage
    expected = {**(options or {}), "include_usage": True}
    assert json.loads(request.body) == {**CHAT_BODY, "stream": True, "stream_options": expected, "z": 1}


def test_members_that_python_cannot_read_go_on_untouched() -> None:
    body = chat(stream=True, stream_options={"x": "HERE"}).replace(b'"HERE"', b'[1e999,"\xff"]')

    request = read_request(CHAT, body)

    assert b'"x":[1e999,"\xff"]' in request.body
    assert b'"include_usage":true' in request.body


@pytest.mark.parametrize("route", [EMBEDDINGS, "/v1/rerank"])
def test_usage_is_asked_for_only_where_engines_stream_it(route: str) -> None:
    body = b'{"model":"m","input":"x","stream":true}'

    request = read_request(route, body)

    assert (request.stream, request.body, request.hides_usage) == (True, body, False)


def test_an_alias_becomes_the_models_own_name_and_nothing_else_changes() -> None:
    request = read_request(CHAT, chat(x={"model": "m"}))

    named = with_model(request, "caf\u00e9")

    assert named.model == "caf\u00e9"
    assert json.loads(named.body) == {**CHAT_BODY, "model": "caf\u00e9", "x": {"model": "m"}}


def test_the_models_own_name_leaves_the_request_as_it_is() -> None:
    request = read_request(CHAT, chat())

    assert with_model(request, "m") is request


def test_an_alias_written_with_escapes_is_replaced_where_the_engine_will_look() -> None:
    body = b'{"model":"other","m\\u006fdel":"alias","messages":[{"role":"u"}]}'

    named = with_model(read_request(CHAT, body), "m")

    assert msgspec.json.decode(named.body)["model"] == "m"


@pytest.mark.parametrize(
    ("route", "members", "answers"),
    [
        (CHAT, '"stream": true, "messages": [{"role": "user"}]', 1),
        (CHAT, '"stream": true, "messages": [{"role": "user"}], "n": 3', 3),
        (CHAT, '"messages": [{"role": "user"}], "n": 3', 1),
        (COMPLETIONS, '"stream": true, "prompt": ["a", "b"], "n": 2', 4),
    ],
)
def test_answers_that_a_stream_brings_side_by_side_are_counted(
    route: str, members: str, answers: int
) -> None:
    assert read_request(route, f'{{"model": "m", {members}}}'.encode()).answers == answers

"""A member changes, every other byte stays, and a JSON parser agrees with the result."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.wire.splice import insert_member, replace_member

BLANKS = st.text(" \t\r\n", max_size=2)
TEXTS = st.text(st.sampled_from('ab"\\{}[],:/ é\u2028😀\n\x00'), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["model", "stream", "mod", "x"]) | TEXTS


def spelled(draw: st.DrawFn, text: str) -> str:
    """A JSON string that means `text`; each character may be written as an escape."""
    if draw(st.booleans()):
        return json.dumps(text, ensure_ascii=draw(st.booleans()))
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)) + '"'


@st.composite
def objects(draw: st.DrawFn) -> tuple[list[tuple[str, Any]], bytes]:
    """The members of a JSON object in their order, keys perhaps twice, and one way to write it."""
    members = draw(st.lists(st.tuples(KEYS, VALUES), max_size=5))
    written = []
    for key, value in members:
        text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        blanks = [draw(BLANKS) for _ in range(4)]
        written.append(f"{blanks[0]}{spelled(draw, key)}{blanks[1]}:{blanks[2]}{text}{blanks[3]}")
    inside = ",".join(written) or draw(BLANKS)
    return members, f"{draw(BLANKS)}{{{inside}}}{draw(BLANKS)}".encode()


@given(objects(), VALUES)
def test_a_replaced_member_has_the_new_value_and_the_others_the_old_one(
    written: tuple[list[tuple[str, Any]], bytes], value: Any
) -> None:
    members, body = written
    for key in {key for key, _ in members if key.isascii() and key.isalnum()}:
        changed = replace_member(body, key, json.dumps(value).encode())

        assert json.loads(changed) == {**dict(members), key: value}


@given(objects(), st.sampled_from(["model", "stream"]))
def test_replacing_a_member_leaves_every_other_byte_alone(
    written: tuple[list[tuple[str, Any]], bytes], key: str
) -> None:
    members, body = written
    if key not in dict(members):
        return

    before, _, after = replace_member(body, key, b"<<NEW>>").partition(b"<<NEW>>")

    assert body.startswith(before)
    assert body.endswith(after)
    replaced = body[len(before) : len(body) - len(after)]
    assert json.loads(replaced) == dict(members)[key]
    assert replaced == replaced.strip()


@given(objects())
def test_a_missing_member_is_said_so(written: tuple[list[tuple[str, Any]], bytes]) -> None:
    with pytest.raises(KeyError, match="absent"):
        replace_member(written[1], "absent", b"1")


@given(objects(), VALUES)
@example(([], b"{ }"), 1)
def test_an_inserted_member_comes_first_and_nothing_else_changes(
    written: tuple[list[tuple[str, Any]], bytes], value: Any
) -> None:
    members, body = written
    text = json.dumps(value).encode()

    changed = insert_member(body, "absent", text)

    assert json.loads(changed) == {"absent": value, **dict(members)}
    assert next(iter(json.loads(changed))) == "absent"
    assert changed.replace(b'"absent":' + text, b"", 1).replace(b"{,", b"{", 1) == body


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"model":"a","model":"b"}', b'{"model":"a","model":1}'),
        (b'{"model":"a","m\\u006fdel":"b"}', b'{"model":"a","m\\u006fdel":1}'),
        (b'{"x":{"model":"a"},"model":"b"}', b'{"x":{"model":"a"},"model":1}'),
        (b'{"x":["model",{"model":2}],"model" : [1, {}] }', b'{"x":["model",{"model":2}],"model" : 1 }'),
        (b'{"x":"\\"model\\":1,","model":"b"}', b'{"x":"\\"model\\":1,","model":1}'),
        (b'{"x":"model","model":"b"}', b'{"x":"model","model":1}'),
        (b'{"\\n\xff":0,"model":"b"}', b'{"\\n\xff":0,"model":1}'),
    ],
)
def test_only_the_last_member_of_that_name_on_the_top_level_is_replaced(body: bytes, changed: bytes) -> None:
    assert replace_member(body, "model", b"1") == changed

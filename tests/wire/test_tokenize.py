"""What a tokenizer is asked, and what is taken for its answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engines.catalog import SPECS
from penstock.wire.tokenize import Tokenizer, tokens_in


@pytest.mark.parametrize(
    ("engine", "members"),
    [
        ("vllm", {"prompt": "so far", "add_special_tokens": False}),
        ("llamacpp", {"content": "so far", "add_special": False}),
        (
            "remote",
            {
                "prompt": "so far",
                "content": "so far",
                "add_special_tokens": False,
                "add_special": False,
            },
        ),
    ],
)
def test_each_engine_is_asked_in_its_own_words(engine: str, members: dict[str, object]) -> None:
    manner = SPECS[engine].manner
    assert manner is not None
    assert isinstance(manner.tokenizer, Tokenizer)

    asked = json.loads(manner.tokenizer.body("m", "so far"))

    assert asked == {"model": "m", **members}


@pytest.mark.parametrize(
    ("reply", "tokens"),
    [
        (b'{"count":2,"max_model_len":9,"tokens":[5,6],"token_strs":null}', 2),
        (b'{"tokens":[{"id":1,"piece":"a"}]}', 1),
        (b'{"tokens":[]}', None),  # by one that looks for the text elsewhere
        (b'{"tokens":3}', None),
        (b'{"error":"no"}', None),
        (b"", None),
    ],
)
def test_what_tells_of_no_tokens_is_no_answer(reply: bytes, tokens: int | None) -> None:
    assert tokens_in(reply) == tokens


@given(st.binary())
def test_any_answer_is_read_without_harm(reply: bytes) -> None:
    assert tokens_in(reply) is None or b"tokens" in reply

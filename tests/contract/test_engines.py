"""The contract of an engine: the same tests on every kind, simulated and real.

vLLM and Transformers are the real ones, and are only there under `make test-vllm`. A replica is started once for each
kind; the last test ends it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.engines.catalog import SPECS
from penstock.wire.openai import CHAT as CHAT_ROUTE
from penstock.wire.resume import continued, safe_cut
from penstock.wire.tokenize import tokens_in
from tests.contract.engines import (
    BAD,
    CHAT,
    COMPLETIONS,
    DRAIN_S,
    END_S,
    KINDS,
    NAME,
    START_S,
    STORY,
    Engine,
    cause_of,
    endless,
    finish_of,
    kill,
    model,
    question,
    running,
    start,
    text_of,
)
from tests.e2e.processes import free_port, wait_until

pytestmark = pytest.mark.timeout(START_S + END_S)


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A replica of the demo model, of each kind in turn."""
    with running(request.param, tmp_path_factory.mktemp(request.param)) as replica:
        yield replica


def test_nothing_is_wrong_with_what_can_be_served(engine: Engine) -> None:
    assert engine.spec.check(model(engine.kind)) == []
    assert list(engine.spec.warn(model(engine.kind))) == []


def test_it_refuses_who_has_no_key(engine: Engine) -> None:
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}):
        reply = engine.request("POST", CHAT, question(), headers)
        assert reply.status == 401, reply.body


def test_its_key_is_in_no_command_line(engine: Engine) -> None:
    group = subprocess.run(
        ["ps", "-o", "args=", "-g", str(engine.process.pid)], capture_output=True, text=True, check=True
    ).stdout

    assert group
    assert engine.headers["Authorization"].removeprefix("Bearer ") not in group


def test_it_lists_its_model_by_the_name_that_clients_use(engine: Engine) -> None:
    listed = engine.request("GET", "/v1/models").json()

    assert [one["id"] for one in listed["data"]] == [NAME]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_plain_answer_has_its_text_its_end_and_its_usage(engine: Engine, path: str) -> None:
    answer = engine.ask(path, max_tokens=12)

    choice = answer["choices"][0]
    usage = answer["usage"]
    assert choice["message"]["content"] if path == CHAT else choice["text"]
    assert choice["finish_reason"] == "length"
    assert answer["model"] == NAME
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_stream_says_the_same_in_pieces_and_ends_with_usage_and_done(engine: Engine, path: str) -> None:
    answer = engine.ask(path)
    plain = answer["choices"][0]

    events = engine.streamed(path)

    assert events[-1] == "[DONE]"
    assert text_of(events) == (plain["message"]["content"] if path == CHAT else plain["text"])
    assert finish_of(events) == plain["finish_reason"]
    assert counts(events[-2]["usage"]) == counts(answer["usage"])
    assert sum(1 for event in events[:-1] if event["choices"]) > 5
    assert all(event["model"] == NAME for event in events[:-1])


def counts(usage: dict[str, object]) -> list[object]:
    """What of the usage is a number of tokens."""
    return [usage[f"{part}_tokens"] for part in ("prompt", "completion", "total")]


def test_it_stops_at_a_text(engine: Engine) -> None:
    whole = engine.ask()["choices"][0]["message"]["content"]
    word = whole.split()[4]

    choice = engine.ask(stop=[word])["choices"][0]

    said = choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert whole.startswith(said.removesuffix(word))
    assert len(said) < len(whole)


@pytest.mark.parametrize("cut", [30, 80])
def test_it_goes_on_with_a_greedy_answer_as_if_nothing_had_been(engine: Engine, cut: int) -> None:
    manner = engine.spec.manner
    assert manner is not None
    body = question(text=STORY, max_tokens=120, stream=True)
    with engine.stream(body) as events:
        whole = text_of(list(events))
    begun = whole[: safe_cut(whole[:cut], cut)]
    tokens = engine_tokens(engine, begun)

    asked = continued(CHAT_ROUTE, json.dumps(body).encode(), begun, tokens, manner)
    with engine.stream(json.loads(asked)) as events:
        rest = list(events)

    assert begun
    assert begun + text_of(rest) == whole
    assert rest[-1] == "[DONE]"


def engine_tokens(engine: Engine, text: str) -> int:
    """How many tokens its tokenizer says that a text has."""
    manner = engine.spec.manner
    assert manner is not None
    assert manner.tokenizer is not None
    reply = engine.request("POST", manner.tokenizer.path, json.loads(manner.tokenizer.body(NAME, text)))
    assert reply.status == 200, reply.body
    count = tokens_in(reply.body)
    assert count is not None
    return count


def test_it_counts_the_tokens_of_its_own_answers(engine: Engine) -> None:
    answer = engine.ask(max_tokens=30)

    assert engine_tokens(engine, answer["choices"][0]["message"]["content"]) == 30


def test_its_metrics_tell_its_load_and_that_it_goes_on(engine: Engine) -> None:
    before = engine.steps()

    with engine.stream(endless(engine.kind)) as events:
        for _ in range(4):
            next(events)
        busy = wait_until(lambda: engine.load().running, "its load to be told")
        begun = wait_until(lambda: engine.steps() > before and engine.steps(), "a step to be counted")
        assert wait_until(lambda: engine.steps() > begun, "a further one")

    assert busy == 1
    assert engine.load().waiting == 0


def test_it_stops_working_for_a_client_that_has_left(engine: Engine) -> None:
    with engine.stream(endless(engine.kind)) as events:
        for _ in range(4):
            next(events)

    wait_until(lambda: engine.load().running == 0, "it to notice", 5)
    steps = engine.steps()
    engine.ask(max_tokens=2)
    assert engine.steps() - steps < 20


def test_the_streams_that_are_open_when_it_is_ended_are_whole(engine: Engine) -> None:
    with engine.stream(question(max_tokens=200, stream=True)) as events:
        said = [next(events) for _ in range(3)]
        engine.process.send_signal(signal.SIGTERM)
        asked_s = time.monotonic()
        said += events

    code = engine.process.wait(DRAIN_S + END_S)
    assert said[-1] == "[DONE]"
    assert finish_of(said) in ("length", "stop")
    assert code == 0
    assert time.monotonic() - asked_s < DRAIN_S + 10


@pytest.mark.parametrize("wrong", BAD)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sim"])
def test_a_start_that_fails_is_foreseen_and_else_explained(kind: str, wrong: str, tmp_path: Path) -> None:
    make, words = BAD[wrong]
    config = model(kind, make(tmp_path, kind))
    log = tmp_path / "log"

    foreseen = SPECS[kind].check(config)
    process = start(config, log, free_port())
    try:
        code = process.wait(END_S)
    finally:
        kill(process)

    assert len(foreseen) == 1
    assert foreseen[0].startswith("source: ")
    assert code != 0
    cause = cause_of(kind, code, log)
    assert any(word in cause for word in words), f"{cause}\n{log.read_text()[-6000:]}"

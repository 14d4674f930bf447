"""The load of an engine is read from real pages, and nothing that a page may hold makes the reader fail or lie."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from penstock.simulator.engine_model import EngineModel, EngineModelSettings
from penstock.simulator.exposition import Gauges, Metrics
from penstock.wire.exposition import (
    BODY_BYTES_MAX,
    KV_USAGE,
    LINE_BYTES_MAX,
    RUNNING,
    SAMPLES_MAX,
    STEPS,
    WAITING,
    EngineLoad,
    Pulse,
    read_load,
    read_pulse,
)

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/model"} 12.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="org/model"} 5.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="org/model",reason="capacity"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="org/model",reason="deferred"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="org/model"} 0.25
"""
LLAMACPP = b"""\
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 1
"""
SGLANG = b"""\
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 7.0
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="1"} 7.0
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 0.0
sglang:token_usage{model_name="m",tp_rank="0"} 0.61
"""


def page(running: bytes = b" 1", waiting: bytes = b" 2", usage: bytes = b" 0.5") -> bytes:
    samples = ((RUNNING[0], running), (WAITING[1], waiting), (KV_USAGE[0], usage))
    return b"".join(b"%b%b\n" % sample for sample in samples)


@pytest.mark.parametrize(
    ("body", "load"),
    [
        (VLLM, EngineLoad(12, 3, 0.25)),
        (LLAMACPP, EngineLoad(2, 1, None)),
        (SGLANG, EngineLoad(7, 0, 0.61)),
        (page(), EngineLoad(1, 2, 0.5)),
        (page().replace(b"kv_cache", b"gpu_cache"), EngineLoad(1, 2, 0.5)),
        (page().replace(b"\n", b"\r\n"), EngineLoad(1, 2, 0.5)),
        (page().rstrip(b"\n"), EngineLoad(1, 2, 0.5)),
        (page(b" 1 1700000000000", b"{} 2e0", b"\t.5"), EngineLoad(1, 2, 0.5)),
        (page(b'{model_name="a} 9 \\" {b,c"} 1'), EngineLoad(1, 2, 0.5)),
        (page(b'{e="0"} 3\nvllm:num_requests_running{e="1"} 4'), EngineLoad(7, 2, 0.5)),
        (page(usage=b'{e="0"} 0.2\nvllm:kv_cache_usage_perc{e="1"} 0.7'), EngineLoad(1, 2, 0.7)),
    ],
)
def test_the_load_of_each_engine_is_read(body: bytes, load: EngineLoad) -> None:
    assert read_load(body) == load


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"",
            b" ",
            b" NaN",
            b" +Inf",
            b" -1",
            b" 1e12",
            b" 1e9999",
            b" 1_0",
            b" 0x1",
            b" x",
            b"1",
            b" 1 2 3",
        ),
        *(b'{a="b} 1', b'{a="b\\"} 1', b'{a="b"{ 1', b'{a="b"}1', b"\n1"),
    ],
)
def test_a_value_that_cannot_be_is_no_value(value: bytes) -> None:
    assert read_load(page(running=value)) is None
    assert read_load(page(waiting=value)) is None


@pytest.mark.parametrize("usage", [b" NaN", b" -0.1", b" 1.5", b" 37", b""])
def test_a_usage_that_cannot_be_is_not_known(usage: bytes) -> None:
    assert read_load(page(usage=usage)) == EngineLoad(1, 2, None)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"error":"not found"}', b"go_goroutines 1\n", b"\x00\xff"]
)
def test_a_page_without_the_numbers_tells_nothing(body: bytes) -> None:
    assert read_load(body) is None


def test_a_name_counts_only_at_the_beginning_of_a_line_and_whole() -> None:
    assert read_load(b"x " + page()) is None
    assert read_load(page().replace(b"running", b"running_total")) is None
    assert read_load(page(b'{vllm:num_requests_running="1"} 4')) == EngineLoad(4, 2, 0.5)


def test_one_bad_line_hides_no_good_one() -> None:
    body = b'vllm:num_requests_running{e="0} 5\nvllm:num_requests_running nonsense\n' + page()

    assert read_load(body) == EngineLoad(1, 2, 0.5)


def test_a_line_that_is_too_long_is_passed_over_whole() -> None:
    fits = b'{a="%b"} 1' % (b"x" * (LINE_BYTES_MAX - 100))
    too_long = b'{a="%b"} 1' % (b"x" * LINE_BYTES_MAX)

    assert read_load(page(fits)) == EngineLoad(1, 2, 0.5)
    assert read_load(page(too_long)) is None


def test_what_stands_behind_the_limit_is_not_read_and_what_is_cut_by_it_is_not_guessed() -> None:
    filler = b"# x\n" * (BODY_BYTES_MAX // 4)
    names = page()[:-1]
    cut = b"#" * (BODY_BYTES_MAX - len(names) - 1) + b"\n" + names + b"5\n"

    assert read_load(page() + filler) == EngineLoad(1, 2, 0.5)
    assert read_load(filler + page()) is None
    assert read_load(cut) == EngineLoad(1, 2, None)


def test_more_samples_than_any_engine_has_are_not_read() -> None:
    lines = b"".join(b'vllm:num_requests_running{e="%d"} 1\n' % number for number in range(10_000))

    assert read_load(lines + page()) == EngineLoad(SAMPLES_MAX, 2, 0.5)


def test_the_simulated_engine_is_understood() -> None:
    model = EngineModel(EngineModelSettings())
    body = Metrics().render(model, Gauges.of(model), 'a "quoted" {name}\n')

    assert read_load(body) == EngineLoad(0, 0, 0.0)
    assert read_pulse(body, STEPS) == Pulse("vllm:iteration_tokens_total_count", 0.0, 0.0)


@pytest.mark.parametrize(
    ("body", "pulse"),
    [
        (
            VLLM
            + b'vllm:iteration_tokens_total_bucket{le="1.0"} 9.0\nvllm:iteration_tokens_total_count{engine="0"} 7.0\n',
            Pulse("vllm:iteration_tokens_total_count", 7.0, 0.25),
        ),
        (LLAMACPP + b"llamacpp:n_decode_total 22\n", Pulse("llamacpp:n_decode_total", 22.0)),
        (
            SGLANG
            + b'sglang:realtime_tokens_total{mode="decode"} 5\nsglang:realtime_tokens_total{mode="prefill"} 6\n',
            Pulse("sglang:realtime_tokens_total", 11.0, 0.61),
        ),
        (VLLM, None),
        (b"vllm:iteration_tokens_total_count -1\n", None),
        (b"vllm:iteration_tokens_total_count NaN\n", None),
        (b"", None),
    ],
)
def test_the_pulse_is_the_first_counter_of_steps_and_the_cache_that_each_of_them_fills(
    body: bytes, pulse: Pulse | None
) -> None:
    assert read_pulse(body, STEPS) == pulse


def test_a_part_of_a_prompt_that_shows_in_the_cache_alone_is_another_pulse() -> None:
    page = VLLM + b"vllm:iteration_tokens_total_count 7\n"

    assert read_pulse(page, STEPS) != read_pulse(page.replace(b"0.25", b"0.26"), STEPS)


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.floats(0, 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
@example(1, 2, 0.5, '"} 9\\')
def test_what_the_prometheus_library_writes_is_read_whatever_the_model_is_called(
    running: int, waiting: int, usage: float, model: str
) -> None:
    registry = CollectorRegistry()
    for name, value in zip(
        ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
        (running, waiting, usage),
        strict=True,
    ):
        Gauge(name, "text", ["engine", "model_name"], registry=registry).labels("0", model).set(value)

    assert read_load(generate_latest(registry)) == EngineLoad(running, waiting, usage)


PIECES = st.sampled_from(
    [
        *(
            *RUNNING,
            *WAITING,
            *KV_USAGE,
            b"{",
            b"}",
            b'"',
            b"\\",
            b"=",
            b",",
            b" ",
            b"\n",
            b"\r",
            b"1",
            b"0.5",
        ),
        *(b"NaN", b"e", b"-", b"tp_rank", b"reason", b"capacity", b"#", b"\xff"),
    ]
)


@given(st.lists(PIECES, max_size=40).map(b"".join) | st.binary(max_size=200))
def test_no_page_makes_the_reader_fail_or_say_what_cannot_be(body: bytes) -> None:
    pulse = read_pulse(body, (*STEPS, *RUNNING))
    assert pulse is None or (pulse.steps >= 0 and (pulse.kv_usage is None or pulse.kv_usage >= 0))
    load = read_load(body)

    if load is not None:
        assert load.running >= 0
        assert load.waiting >= 0
        assert load.kv_usage is None or 0 <= load.kv_usage <= 1


@pytest.mark.parametrize("filling", [b'"a"', b'{a="', b"\\", b'"\\', b"{", b'a="b",', b" ", b"1"])
def test_a_hostile_page_is_read_in_the_time_of_a_large_one(filling: bytes) -> None:
    line = b"vllm:num_requests_running{" + filling * ((LINE_BYTES_MAX - 100) // len(filling)) + b"\n"

    assert read_load(line * 250 + page(b" 1")) is not None

"""Options as people write them: what they become, and what is said of those that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.bench.options import Options
from penstock.bench.settings import Settings, key_of, read
from penstock.core.errors import PenstockError

URL = "http://127.0.0.1:8000/v1"


def settings(**options: Any) -> Settings:
    return read(Options(url=URL, **options), {})


def test_without_options_it_is_a_closed_loop_for_half_a_minute_after_a_warm_up() -> None:
    made = settings()

    assert made.load.label == "concurrency 8"
    assert (made.duration_s, made.warmup_s, made.requests) == (35.0, 5.0, None)
    assert str(made.mix) == "short"
    assert made.cache.busting


def test_a_number_of_requests_is_all_of_the_run() -> None:
    made = settings(requests=200)

    assert (made.duration_s, made.warmup_s, made.requests) == (None, 0.0, 200)


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({"concurrency": 32}, "concurrency 32"),
        ({"rate": 10}, "10/s poisson"),
        ({"rate": 2.5, "arrivals": "constant"}, "2.5/s constant"),
        ({"rate": 10, "arrivals": "gamma:0.5"}, "10/s gamma 0.5"),
        ({"arrivals": "ramp:1-20"}, "ramp 1-20/s"),
        ({"arrivals": "staircase:1,2,4/30s"}, "staircase 1, 2, 4/s, 30s each"),
        ({"arrivals": "spike:5-50@30s+10s"}, "5/s, 50/s for 10s at 30s"),
    ],
)
def test_every_load_has_its_spelling(options: dict[str, Any], label: str) -> None:
    assert settings(**options).load.label == label


def test_a_course_of_rates_has_no_warm_up_of_its_own_and_a_staircase_its_own_length() -> None:
    made = settings(arrivals="staircase:1,2/10s")

    assert (made.duration_s, made.warmup_s) == (None, 0.0)


def test_lengths_are_those_of_the_kinds_unless_they_are_told() -> None:
    kinds = settings(mix="short=0.7,long=0.3", prompt_tokens="512", output_tokens="uniform:10-20").mix.kinds

    assert [(kind.name, str(kind.prompt), str(kind.output)) for kind in kinds] == [
        ("short", "512", "uniform:10-20"),
        ("long", "512", "uniform:10-20"),
    ]


def test_lengths_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "lengths.txt").write_text("10\n20\n")

    (kind,) = settings(output_tokens=f"file:{tmp_path / 'lengths.txt'}").mix.kinds

    assert kind.output.values == (10, 20)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": 5, "concurrency": 3}, "concurrency and rate: a load is a closed loop or an open one"),
        ({"arrivals": "constant"}, "arrivals: constant needs a rate"),
        ({"arrivals": "ramp:1-20", "rate": 3}, "arrivals: ramp has its own rates"),
        ({"arrivals": "nope", "rate": 3}, "arrivals: 'nope' is none"),
        ({"concurrency": 0}, "concurrency 0: expected 1"),
        ({"rate": -1.0}, "a rate of -1/s"),
        ({"requests": 0}, "requests: 0 should be 1 or more"),
        ({"processes": 65}, "processes: 65 should be 1 to 64"),
        ({"duration": "0s"}, "duration: 0s should be above 0"),
        ({"duration": "5x"}, "duration: '5x': unit 'x'"),
        ({"warmup": "-1s"}, "warmup: '-1s'"),
        ({"mix": "shrt"}, "no kind of prompt is called 'shrt'"),
        ({"prompt_tokens": "many"}, "prompt-tokens: 'many' is no distribution"),
        ({"cache_share": 2.0}, "share: 2 should be 0 to 1"),
        ({"slo": "ttt=1s"}, "slo.ttt: no such limit; did you mean ttft?"),
        ({"min_goodput": "95%"}, "min-goodput: without an SLO nothing is good"),
        ({"max_error_rate": "120%"}, "max-error-rate: '120%' is no part of 1"),
        ({"timeout": "0s"}, "total timeout: it should be above 0"),
        ({"rows": "csv"}, "rows: 'csv' is none of jsonl, parquet, none"),
        ({"count_tokens": "guess"}, "count-tokens: 'guess' is none of"),
        ({"body": "[1]"}, "body: no JSON object"),
        ({"header": ("x",)}, "header: 'x' has no value"),
        ({"key_file": "/nonexistent"}, "key-file: /nonexistent: No such file"),
        ({"key_env": "NOT_SET"}, "key-env: NOT_SET is not set"),
        ({"api_key": "a", "key_env": "B"}, "--api-key and --key-env: the key is given more than once"),
    ],
)
def test_what_makes_no_sense_is_said_with_its_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PenstockError) as told:
        settings(**options)

    assert says in told.value.message


def test_a_url_that_is_none_is_an_error() -> None:
    with pytest.raises(PenstockError, match="expected http://host:port"):
        read(Options(url="ftp://x"), {})


def test_the_key_is_the_first_that_is_set() -> None:
    environ = {"OPENAI_API_KEY": "sk-openai", "GATEWAY_API_KEYS": "one, two"}

    assert key_of(Options(), {}) == ""
    assert key_of(Options(), environ) == "sk-openai"
    assert key_of(Options(), {"GATEWAY_API_KEYS": "one, two"}) == "one"
    assert key_of(Options(), environ | {"PENSTOCK_BENCH_API_KEY": "mine"}) == "mine"
    assert key_of(Options(key_env="OTHER"), environ | {"OTHER": "other"}) == "other"


def test_the_key_can_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-file\n")

    assert key_of(Options(key_file=str(tmp_path / "key")), {"OPENAI_API_KEY": "sk-openai"}) == "sk-file"


def test_what_a_report_tells_of_the_options_has_no_secret() -> None:
    told = Options(url=URL, api_key="sk-1", header=("authorization: Basic abc",), rate=5.0).public()

    assert told == {"url": URL, "rate": 5.0, "header": ["authorization"]}

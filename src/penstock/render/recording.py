"""Recording rules: one vocabulary, `llm:*`, over what engines of several kinds and releases say; and objectives.

Where a figure has several names, the first that a replica shows is taken: the exporter's own, which has read the engine
already, then the engine's, newest first. Ranks of one SGLang engine tell of the same requests: `max`, not `sum`.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.render.rule import Group, Record

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
LONG_WINDOWS = ("1h", "6h", "1d", "3d")
_BY = "by (model, replica)"
_OBJECTIVE = "by (model, objective)"


def _first(*terms: str) -> str:
    return "\nor ".join(terms)


def _level(*terms: str) -> str:
    """A level of an engine, the terms given as `operation name`."""
    return _first(*(f"{operation} {_BY} ({name})" for operation, name in (term.split(" ") for term in terms)))


def _speed(*terms: str, window: str) -> str:
    """How fast counters grow; those joined by `+` are added up."""
    return _first(
        *(
            " + ".join(f"{operation} {_BY} (rate({name}[{window}]))" for name in names.split("+"))
            for operation, names in (term.split(" ") for term in terms)
        )
    )


def _mean(phase: str, metric: str) -> str:
    """Phases of a request add up as means, and never as percentiles."""
    seconds, requests = (
        f"max {_BY} (rate(llm_{name}_total[5m]))" for name in (f"{phase}_seconds", "requests_finished")
    )
    sums, counts = (f"sum {_BY} (rate({metric}_{part}[5m]))" for part in ("sum", "count"))
    return _first(f"{seconds} / ({requests} > 0)", f"{sums} / ({counts} > 0)")


ENGINE = Group(
    "penstock.engines",
    (
        Record(
            "llm:requests_running",
            _level(
                "max llm_requests_running",
                "sum vllm:num_requests_running",
                "max sglang:num_running_reqs",
                "sum llamacpp:requests_processing",
            ),
        ),
        Record(
            "llm:requests_waiting",
            _level(
                "max llm_requests_waiting",
                'sum vllm:num_requests_waiting_by_reason{reason="capacity"}',
                "sum vllm:num_requests_waiting",
                "max sglang:num_queue_reqs",
                "sum llamacpp:requests_deferred",
            ),
        ),
        Record(
            "llm:kv_usage_ratio",
            _level(
                "max llm_kv_cache_usage_ratio",
                "max vllm:kv_cache_usage_perc",
                "max vllm:gpu_cache_usage_perc",
                "max sglang:token_usage",
                "max llamacpp:kv_cache_usage_ratio",
            ),
        ),
        Record(
            "llm:generation_tokens:rate1m",
            _speed(
                "max llm_generation_tokens_total",
                "sum vllm:generation_tokens_total",
                "max sglang:generation_tokens_total",
                "sum llamacpp:tokens_predicted_total",
                window="1m",
            ),
        ),
        Record(
            "llm:prompt_tokens:rate1m",
            _speed(
                "max llm_prompt_tokens_total",
                "sum vllm:prompt_tokens_total",
                "max sglang:prompt_tokens_total",
                "sum llamacpp:prompt_tokens_total",
                window="1m",
            ),
        ),
        # vLLM tells each step; of the others, tokens that come are the proof that they make progress.
        Record(
            "llm:engine_steps:rate1m",
            _first(
                f"max {_BY} (rate(llm_engine_steps_total[1m]))",
                f"sum {_BY} (rate(vllm:iteration_tokens_total_count[1m]))",
                f"sum {_BY} (rate(llamacpp:n_decode_total[1m]))",
                "llm:generation_tokens:rate1m + llm:prompt_tokens:rate1m",
            ),
        ),
        Record(
            "llm:preemptions:rate5m",
            _speed(
                "max llm_preemptions_total",
                "sum vllm:num_preemptions_total",
                "max sglang:num_retracted_requests_total",
                window="5m",
            ),
        ),
        Record(
            "llm:prefix_query_tokens:rate5m",
            _speed(
                "max llm_prefix_cache_query_tokens_total",
                "sum vllm:prefix_cache_queries_total",
                "sum vllm:gpu_prefix_cache_queries_total",
                "max sglang:prompt_tokens_total",
                "sum llamacpp:prompt_tokens_total+llamacpp:prompt_tokens_cached_total",
                window="5m",
            ),
        ),
        Record(
            "llm:prefix_hit_tokens:rate5m",
            _speed(
                "max llm_prefix_cache_hit_tokens_total",
                "sum vllm:prefix_cache_hits_total",
                "sum vllm:gpu_prefix_cache_hits_total",
                "max sglang:cached_tokens_total",
                "sum llamacpp:prompt_tokens_cached_total",
                window="5m",
            ),
        ),
        Record(
            "llm:prefix_hit:ratio5m",
            "llm:prefix_hit_tokens:rate5m / (llm:prefix_query_tokens:rate5m > 0)",
        ),
        Record("llm:queue:mean5m", _mean("queue", "vllm:request_queue_time_seconds")),
        Record("llm:prefill:mean5m", _mean("prefill", "vllm:request_prefill_time_seconds")),
        Record("llm:decode:mean5m", _mean("decode", "vllm:request_decode_time_seconds")),
        Record("llm:e2e:mean5m", _mean("e2e", "vllm:e2e_request_latency_seconds")),
    ),
)


def _quantile(q: float, metric: str, only: str = "") -> str:
    return f"histogram_quantile({q:g}, sum by (model, le) (rate({metric}_bucket{only}[5m])))"


GATEWAY = Group(
    "penstock.gateway",
    (
        Record("llm:gateway_requests:rate5m", "sum by (model) (rate(penstock_requests_total[5m]))"),
        Record(
            "llm:gateway_failures:rate5m",
            'sum by (model) (rate(penstock_requests_total{fault=~"gateway|engine"}[5m]))',
        ),
        # what a client did wrong is nobody's failure, and does not hide one either
        Record(
            "llm:gateway_failures:ratio5m",
            "llm:gateway_failures:rate5m\n"
            '/ (sum by (model) (rate(penstock_requests_total{fault!="client"}[5m])) > 0)',
        ),
        Record("llm:gateway_retries:rate5m", "sum by (model) (rate(penstock_retries_total[5m]))"),
        Record("llm:gateway_ttft:p95_5m", _quantile(0.95, "penstock_ttft_seconds")),
        Record("llm:gateway_tpot:p95_5m", _quantile(0.95, "penstock_tpot_seconds")),
        Record("llm:gateway_itl:p99_5m", _quantile(0.99, "penstock_itl_seconds")),
        # who is refused at once does not make the others fast; who left because it took long tells that it did
        Record(
            "llm:gateway_e2e:p99_5m",
            _quantile(0.99, "penstock_request_duration_seconds", '{outcome!="rejected"}'),
        ),
        Record("llm:gateway_queue_length", "sum by (model) (penstock_queue_length)"),
    ),
)


def _objective_records() -> Iterator[Record]:
    yield Record("llm:slo_budget:ratio", f"max {_OBJECTIVE} (1 - penstock_slo_target_ratio)")
    for window in WINDOWS:
        good, judged = (
            f"sum {_OBJECTIVE} (rate(penstock_slo_{kind}requests_total[{window}]))" for kind in ("good_", "")
        )
        yield Record(f"llm:slo_errors:ratio_rate{window}", f"1 - {good} / ({judged} > 0)")
    for window in LONG_WINDOWS:
        judged, good = (
            f"sum {_OBJECTIVE} (increase(penstock_slo_{kind}requests_total[{window}]))"
            for kind in ("", "good_")
        )
        yield Record(f"llm:slo_bad:increase{window}", f"{judged} - {good}")
    yield Record("llm:slo_judged:increase1h", f"sum {_OBJECTIVE} (increase(penstock_slo_requests_total[1h]))")


OBJECTIVES = Group("penstock.slo", tuple(_objective_records()))
# From sums of hours: a month of raw samples is more than one query may read.
BUDGETS = Group(
    "penstock.slo.budgets",
    (
        Record(
            "llm:slo_budget_left:ratio30d",
            "1 - sum_over_time(llm:slo_bad:increase1h[30d:1h])\n"
            "/ (sum_over_time(llm:slo_judged:increase1h[30d:1h]) > 0) / llm:slo_budget:ratio",
        ),
    ),
    every_s=300,
)

RECORDING = (ENGINE, GATEWAY, OBJECTIVES, BUDGETS)

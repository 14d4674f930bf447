"""Alerts about engines, in the vocabulary `llm:*`, and about the parts that a supervisor runs."""

from __future__ import annotations

from penstock.render.rule import Alert, Severity

PAGE, TICKET, INFO = Severity.PAGE, Severity.TICKET, Severity.INFO
_REPLICA = "{{ $labels.replica }}"
_PERCENT = "{{ $value | humanizePercentage }}"

ENGINE = (
    Alert(
        "EngineStalled",
        # what the engine says, and what the gateway concludes by itself
        "(llm:requests_running > 0 and llm:engine_steps:rate1m == 0)\n"
        'or max by (model, replica) (penstock_replica_state{state="stalled"}) > 0',
        60,
        PAGE,
        f"{_REPLICA} has requests and makes no step",
    ),
    Alert(
        "EngineTargetDown",
        # of one that has shown them within the day: not every engine has such a page
        "(llm_up == 0 and max_over_time(llm_up[1d]) > 0\n"
        'or up{job="penstock-engines"} == 0 and max_over_time(up{job="penstock-engines"}[1d]) > 0)\n'
        'unless on (model, replica) penstock_replica_state{state=~"starting|loading|warming"}',
        120,
        TICKET,
        f"{_REPLICA} does not show its metrics: nothing is known of its queue, its cache and its steps",
    ),
    Alert(
        "EngineMissing",
        # of a model that is still configured, and that nobody serves: where only its metrics are away, that is no page
        "count by (model) (llm:requests_running offset 1h) unless count by (model) (llm:requests_running)\n"
        'and on (model) sum by (model) (penstock_replicas{state=~"ready|busy"}) == 0',
        300,
        PAGE,
        "no engine of {{ $labels.model }} is there any more; an hour ago {{ $value }} were",
    ),
    Alert(
        "EngineCrashLoop",
        "increase(penstock_part_restarts_total[15m]) > 2",
        0,
        PAGE,
        "{{ $labels.part }} was started again {{ $value | humanize }} times in a quarter of an hour",
    ),
    Alert(
        "EngineGivenUp",
        'penstock_part_life{life="given_up"} > 0',
        0,
        PAGE,
        "{{ $labels.part }} failed so often that it is not started again",
    ),
    Alert(
        "KvCacheHigh",
        "llm:kv_usage_ratio > 0.85",
        300,
        TICKET,
        f"{_REPLICA} uses {_PERCENT} of its KV cache",
    ),
    Alert(
        "KvCacheFull",
        "llm:kv_usage_ratio > 0.95",
        120,
        PAGE,
        f"{_REPLICA} uses {_PERCENT} of its KV cache: requests wait or are computed again",
    ),
    Alert(
        "PreemptionStorm",
        "sum by (model) (llm:preemptions:rate5m) > 0.1 * llm:gateway_requests:rate5m > 0",
        600,
        TICKET,
        "{{ $labels.model }}: engines push {{ $value | humanize }} requests a second out of a full KV cache",
    ),
    Alert(
        "EngineQueueBacklog",
        "llm:requests_waiting > 5 * clamp_min(llm:requests_running, 1)",
        300,
        TICKET,
        f"{_REPLICA}: {{{{ $value }}}} requests wait in the engine itself, where no order is kept between tenants",
    ),
    Alert(
        "EngineRejections",
        "sum by (model, replica) (rate(vllm:admission_rejections_total[5m])) > 0",
        600,
        TICKET,
        f"{_REPLICA} turns {{{{ $value | humanize }}}} requests a second away: its own queue is full",
    ),
    Alert(
        "PrefixCacheCollapse",
        "llm:prefix_hit:ratio5m < 0.5 * avg_over_time(llm:prefix_hit:ratio5m[1d])\n"
        "and llm:prefix_query_tokens:rate5m > 100",
        1800,
        INFO,
        f"{_REPLICA}: only {_PERCENT} of the prompt tokens are found in the prefix cache, half of what is usual",
    ),
)

"""Alerts about the gateway, its line, its limits and what it keeps."""

from __future__ import annotations

from penstock.render.rule import Alert, Severity

PAGE, TICKET, INFO = Severity.PAGE, Severity.TICKET, Severity.INFO
_MODEL = "{{ $labels.model }}"
_PERCENT = "{{ $value | humanizePercentage }}"
_COUNT = "{{ $value | humanize }}"

GATEWAY = (
    Alert(
        "GatewayDown",
        'up{job="penstock-gateway"} == 0',
        60,
        PAGE,
        "the gateway at {{ $labels.instance }} does not answer",
    ),
    Alert(
        "GatewayErrorsHigh",
        "llm:gateway_failures:ratio5m > 0.05 and llm:gateway_failures:rate5m > 0.01",
        300,
        TICKET,
        f"{_MODEL}: {_PERCENT} of the requests fail by fault of the gateway or an engine",
    ),
    Alert(
        "GatewayLatencyP99High",
        "llm:gateway_e2e:p99_5m > 60 and llm:gateway_requests:rate5m > 0.01",
        300,
        TICKET,
        f"{_MODEL}: one request in a hundred takes longer than {{{{ $value | humanizeDuration }}}}",
    ),
    Alert(
        "QueueBacklog",
        "llm:gateway_queue_length > 50",
        300,
        TICKET,
        f"{_MODEL}: {{{{ $value }}}} requests wait in line",
    ),
    Alert(
        "QueueNearlyFull",
        "llm:gateway_queue_length > 0.8 * sum by (model) (penstock_queue_length_max) > 0",
        60,
        PAGE,
        f"{_MODEL}: {{{{ $value }}}} requests wait, and hardly more may",
    ),
    Alert(
        "QueueRejections",
        "sum by (model, reason) (rate(penstock_queue_rejections_total[5m]))\n"
        "> on (model) group_left 0.01 * llm:gateway_requests:rate5m",
        600,
        TICKET,
        f"{_MODEL}: {_COUNT} requests a second are turned away: {{{{ $labels.reason }}}}",
    ),
    Alert(
        "StreamsStalled",
        "max by (model) (max_over_time(penstock_stream_silence_max_seconds[1m])) > 10",
        60,
        PAGE,
        f"{_MODEL}: answers have stopped in their midst, one for {{{{ $value | humanizeDuration }}}}",
    ),
    Alert(
        "AnswersInterrupted",
        'sum by (model) (rate(penstock_requests_total{outcome="interrupted"}[5m]))\n'
        "> 0.01 * llm:gateway_requests:rate5m",
        300,
        TICKET,
        f"{_MODEL}: {_COUNT} answers a second break off",
    ),
    Alert(
        "ContinuationsHigh",
        "sum by (model) (rate(penstock_continuations_total[10m])) > 0.02 * llm:gateway_requests:rate5m",
        600,
        TICKET,
        f"{_MODEL}: engines are lost amid {_COUNT} answers a second, which others go on with",
    ),
    Alert(
        "RetriesHigh",
        "llm:gateway_retries:rate5m > 0.05 * llm:gateway_requests:rate5m",
        300,
        TICKET,
        f"{_MODEL}: {_COUNT} attempts a second are made again; a tenth of the traffic may be",
    ),
    Alert(
        "NoReplicaReady",
        'max without (worker) (sum without (state) (penstock_replicas{state=~"ready|busy"})) == 0',
        60,
        PAGE,
        f"{_MODEL}: no replica is ready",
    ),
    Alert(
        "ReplicaNotReady",
        'max by (model, replica, state) (penstock_replica_state{state!~"ready|busy|draining"}) > 0',
        1200,
        TICKET,
        "{{ $labels.replica }} is {{ $labels.state }}, and has been for a long time",
    ),
    Alert(
        "CircuitOpen",
        'max by (model, replica) (penstock_breaker_state{state="open"}) > 0',
        60,
        TICKET,
        "{{ $labels.replica }} fails so often that it gets no requests",
    ),
    Alert(
        "AuthenticationFailures",
        'sum by (instance) (rate(penstock_errors_total{code=~"invalid_api_key|missing_api_key|key_.*"}[5m])) > 1',
        600,
        INFO,
        "{{ $value | humanize }} requests a second come to {{ $labels.instance }} with a key that is none",
    ),
    Alert(
        "BudgetExhausted",
        'sum by (model, limit) (increase(penstock_limits_hit_total{limit=~"usd_per_.*"}[15m])) > 0',
        0,
        INFO,
        f"{_MODEL}: {_COUNT} requests were refused in a quarter of an hour: {{{{ $labels.limit }}}} is spent",
    ),
    Alert(
        "LimitsHit",
        'sum by (model, limit) (rate(penstock_limits_hit_total{limit!~"usd_per_.*"}[5m]))\n'
        "> on (model) group_left 0.2 * llm:gateway_requests:rate5m",
        900,
        INFO,
        f"{_MODEL}: {_COUNT} requests a second, a fifth of all or more, hit {{{{ $labels.limit }}}}",
    ),
    Alert(
        "ConfigReloadFailed",
        "max by (instance) (penstock_config_reload_failed) > 0",
        300,
        TICKET,
        "the gateway at {{ $labels.instance }} refused its new configuration, and goes on with the old one",
    ),
    Alert(
        "GatewayBug",
        "sum by (instance) (increase(penstock_bugs_total[15m])) > 0",
        0,
        TICKET,
        "the gateway at {{ $labels.instance }} met bugs ({{ $value | humanize }}); its log has them",
    ),
    Alert(
        "GatewayLoopSlow",
        "max by (instance) (penstock_event_loop_lag_seconds) > 0.25",
        300,
        TICKET,
        "the gateway at {{ $labels.instance }} is held up, for {{ $value | humanizeDuration }} at a time",
    ),
    Alert(
        "GatewayRestarting",
        'max by (instance) (changes(process_start_time_seconds{job="penstock-gateway"}[15m])) > 2',
        0,
        PAGE,
        "the gateway at {{ $labels.instance }} was started again {{ $value }} times in a quarter of an hour",
    ),
    Alert(
        "GatewayFilesNearlyOut",
        'max by (instance) (process_open_fds{job="penstock-gateway"} / process_max_fds) > 0.8',
        300,
        TICKET,
        f"the gateway at {{{{ $labels.instance }}}} has {_PERCENT} of the files open that it may",
    ),
    Alert(
        "JournalFailing",
        "max by (instance) (penstock_journal_failing) > 0",
        60,
        PAGE,
        "the usage journal at {{ $labels.instance }} can't be written",
    ),
    Alert(
        "LedgerFailing",
        "max by (instance) (penstock_ledger_failing) > 0",
        900,
        TICKET,
        "the ledger at {{ $labels.instance }} does not take in the journal",
    ),
    Alert(
        "ClickHouseFailing",
        "max by (instance) (penstock_clickhouse_failing) > 0",
        600,
        TICKET,
        "ClickHouse takes no rows of the ledger at {{ $labels.instance }}",
    ),
    Alert(
        "SharedStoreDown",
        "min by (instance) (penstock_shared_store_up) == 0",
        60,
        TICKET,
        "Redis is away: the gateway at {{ $labels.instance }} keeps limits by itself",
    ),
)

"""Every family of metrics that a gateway shows, by subject; `docs/reference/metrics.md` is made from this.

Names are `penstock_*`, units last, base units. Labels come from bounded sets only: models, classes and replicas of the
configuration, routes and statuses that are known, codes of our own errors; what is none of them counts as `other`.
Tenants and keys are in the ledger, not here.
"""

from __future__ import annotations

from penstock.telemetry.families import Family


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name, "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(name, "gauge", text, labels)


def _times(name: str, text: str, *labels: str) -> Family:
    return Family(name, "histogram", text, labels)


REQUESTS = _counter(
    "penstock_requests_total",
    "Requests for an engine that have ended.",
    *("route", "model", "class", "status", "outcome", "fault"),
)
ERRORS = _counter("penstock_errors_total", "Requests that ended with an error, by its code.", "model", "code")
LIMITS_HIT = _counter(
    "penstock_limits_hit_total", "Requests that a limit of their own caller refused.", "model", "limit"
)
API_REQUESTS = _counter(
    "penstock_api_requests_total",
    "Requests that the gateway answered by itself: health, models, docs, and routes that there are not (`other`).",
    *("route", "status"),
)
REFUSED = _counter(
    "penstock_connections_refused_total",
    "Connections ended with an error before there was a request: too many, bad HTTP, a head too large or too late.",
    "code",
)
IN_PROGRESS = _gauge("penstock_requests_in_progress", "Requests under way.")
STREAMS = _gauge(
    "penstock_streams", "Streams whose first token has been sent and whose end has not.", "model"
)
SILENCE = _gauge(
    "penstock_stream_silence_max_seconds",
    "The longest time for which a stream that has begun, and whose client reads, has had no token.",
    "model",
)
TOKENS = _counter("penstock_tokens_total", "Tokens in and out.", "model", "kind")
RETRIES = _counter(
    "penstock_retries_total",
    "Attempts that failed before their client had a byte of them, and were made again.",
    *("model", "failure"),
)
CONTINUATIONS = _counter(
    "penstock_continuations_total", "Answers that another replica went on with.", "model"
)
HEDGES = _counter("penstock_hedges_total", "Requests for which a second attempt raced the first.", "model")
REPLAYS = _counter("penstock_replays_total", "Requests answered by an answer made before.", "model")
COST = _counter("penstock_cost_usd_total", "Cost at the configured prices.", "model")

DURATION = _times(
    "penstock_request_duration_seconds",
    "Arrival of a request to its end (E2E), by what that was: only `complete` ones have a whole answer.",
    *("model", "outcome"),
)
TTFT = _times("penstock_ttft_seconds", "Arrival to the first token sent.", "model")
TPOT = _times(
    "penstock_tpot_seconds", "Time per token after the first one, the mean of each request.", "model"
)
ITL = _times(
    "penstock_itl_seconds",
    "Gaps between the tokens of one stream in eight; those in which its client did not read are left out.",
    "model",
)
QUEUE_WAIT = _times(
    "penstock_queue_wait_seconds",
    "Waits in line for a permit, of those too who left before it came.",
    *("model", "class"),
)
OVERHEAD = _times(
    "penstock_gateway_overhead_seconds",
    "Arrival of a request to the start of its first attempt, without the waits for its body and in line.",
    "model",
)

SLO_REQUESTS = _counter(
    "penstock_slo_requests_total", "Requests that an objective judges.", "model", "objective"
)
SLO_GOOD = _counter("penstock_slo_good_requests_total", "Those of them that met it.", "model", "objective")
SLO_TARGET = _gauge(
    "penstock_slo_target_ratio", "What part of the requests must meet the objective.", "model", "objective"
)
SLO_LIMIT = _gauge(
    "penstock_slo_limit_seconds", "The time that a good request stays under.", "model", "objective"
)

QUEUE_LENGTH = _gauge("penstock_queue_length", "Waiting requests.", "model", "class")
QUEUE_LENGTH_MAX = _gauge("penstock_queue_length_max", "Requests that may wait.", "model")
QUEUE_REJECTIONS = _counter(
    "penstock_queue_rejections_total",
    "Requests that the line turned away, and why.",
    *("model", "class", "reason"),
)
PREDICTED_WAIT = _gauge(
    "penstock_queue_predicted_wait_seconds", "Wait of who comes last, as far as it is known.", "model"
)
PERMITS_OUT = _gauge("penstock_permits_out", "Permits that are held.", "model")
PERMITS = _gauge("penstock_permits", "Permits there are.", "model")

REPLICAS = _gauge("penstock_replicas", "Replicas by state.", "model", "state")
REPLICA_STATE = _gauge(
    "penstock_replica_state", "1 for the state that a replica is in.", "model", "replica", "state"
)
REPLICA_IN_FLIGHT = _gauge("penstock_replica_in_flight", "Requests at a replica.", "model", "replica")
BREAKER_STATE = _gauge(
    "penstock_breaker_state",
    "1 for the state that a replica's breaker is in; closed is a trusted one.",
    *("model", "replica", "state"),
)
PART_LIFE = _gauge(
    "penstock_part_life", "1 for what the supervisor says of a part that it runs.", "part", "life"
)
PART_RESTARTS = _counter(
    "penstock_part_restarts_total", "Restarts of a part since its supervisor was started.", "part"
)

JOURNAL_FAILING = _gauge("penstock_journal_failing", "1 while the usage journal can't be written.")
JOURNAL_KEPT = _gauge("penstock_journal_kept_lines", "Lines that wait in memory for it.")
JOURNAL_LINES = _counter("penstock_journal_lines_total", "Lines that were written to it.")
LEDGER_FAILING = _gauge(
    "penstock_ledger_failing", "1 while the ledger could not take in the journal the last time."
)
LEDGER_DAMAGE = _gauge(
    "penstock_journal_damage", "Torn lines and unreadable files that the ledger found in the journal.", "kind"
)
SHARED_STORE_UP = _gauge(
    "penstock_shared_store_up", "0 while the configured Redis is away, and limits are kept by each machine."
)

BUILD = _gauge("penstock_build_info", "The version that runs; always 1.", "version")
GENERATION = _gauge("penstock_config_generation", "How often a configuration was put in force.")
RELOADS = _counter("penstock_config_reloads_total", "Reloads of the configuration.", "result")
RELOAD_FAILED = _gauge(
    "penstock_config_reload_failed", "1 while the last reload was refused, and the old one goes on."
)
DRAINING = _gauge("penstock_draining", "1 while the gateway is stopping.")
BUGS = _counter("penstock_bugs_total", "Failures that nobody expected; the log has them.")
LOOP_LAG = _gauge(
    "penstock_event_loop_lag_seconds", "The longest delay of the event loop in the last minute."
)
CLICKHOUSE_FAILING = _gauge(
    "penstock_clickhouse_failing", "1 while ClickHouse does not take rows of the ledger."
)
CLICKHOUSE_UNSENT = _gauge("penstock_clickhouse_unsent_rows", "Rows that wait in the ledger for it.")
CLICKHOUSE_SENT = _counter("penstock_clickhouse_sent_rows_total", "Rows that it has taken.")
TRACES_SENT = _counter("penstock_traces_spans_sent_total", "Spans that the collector has taken.")
TRACES_FAILED = _counter("penstock_traces_spans_failed_total", "Spans that it did not take in time.")
TRACES_DROPPED = _counter(
    "penstock_traces_spans_dropped_total", "Spans that were let go because too many waited for it."
)

CATALOG: tuple[tuple[str, tuple[Family, ...]], ...] = (
    (
        "Requests",
        (
            *(
                REQUESTS,
                ERRORS,
                LIMITS_HIT,
                API_REQUESTS,
                REFUSED,
                IN_PROGRESS,
                STREAMS,
                SILENCE,
                TOKENS,
                RETRIES,
            ),
            *(CONTINUATIONS, HEDGES, REPLAYS, COST),
        ),
    ),
    ("Times", (DURATION, TTFT, TPOT, ITL, QUEUE_WAIT, OVERHEAD)),
    ("Objectives", (SLO_REQUESTS, SLO_GOOD, SLO_TARGET, SLO_LIMIT)),
    (
        "The line",
        (QUEUE_LENGTH, QUEUE_LENGTH_MAX, QUEUE_REJECTIONS, PREDICTED_WAIT, PERMITS_OUT, PERMITS),
    ),
    (
        "Replicas and parts",
        (REPLICAS, REPLICA_STATE, REPLICA_IN_FLIGHT, BREAKER_STATE, PART_LIFE, PART_RESTARTS),
    ),
    (
        "Stores",
        (JOURNAL_FAILING, JOURNAL_KEPT, JOURNAL_LINES, LEDGER_FAILING, LEDGER_DAMAGE, SHARED_STORE_UP),
    ),
    ("ClickHouse, where it is used", (CLICKHOUSE_FAILING, CLICKHOUSE_UNSENT, CLICKHOUSE_SENT)),
    ("Traces, where they are sent", (TRACES_SENT, TRACES_FAILED, TRACES_DROPPED)),
    ("The gateway itself", (BUILD, GENERATION, RELOADS, RELOAD_FAILED, DRAINING, BUGS, LOOP_LAG)),
)

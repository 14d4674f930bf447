"""Why is it slow? From the client's side inwards: line, prefill, decode, and what was tried again."""

from __future__ import annotations

from penstock.render.dashboards.page import (
    COUNT,
    MODEL,
    PER_SECOND,
    PERCENT,
    SECONDS,
    Page,
    Panel,
    Query,
    Row,
    quantiles,
    rate,
)


def _spent(metric: str) -> str:
    """Seconds that all requests together spent so in a second.

    By Little's law that is how many requests are in this phase at a time; such numbers add up.
    """
    return f"(sum(rate(penstock_{metric}_seconds_sum{{{MODEL}}}[$__rate_interval])) or vector(0))"


_LINE, _OVERHEAD = _spent("queue_wait"), _spent("gateway_overhead")
# Of streams alone; with plain requests beside them it is too small by their time in line, and what follows too large.
_TO_FIRST_TOKEN = f"clamp_min({_spent('ttft')} - {_LINE} - {_OVERHEAD}, 0)"
_AFTER = f"clamp_min({_spent('request_duration')} - {_LINE} - {_OVERHEAD} - {_TO_FIRST_TOKEN}, 0)"

PAGE = Page(
    "penstock-slow",
    "Penstock: why is it slow?",
    "From the client inwards: the line, prefill, decode, the network, and what was tried again. Read it from left to right.",
    (
        Row(
            "Where a request's time goes",
            (
                Panel(
                    "Requests in each phase",
                    "How many are at a time in line; in the gateway's own hands; at an engine before their first token (its "
                    "queue, and prefill; a client's slow upload too); and at one after it (decode; plain requests are there "
                    "all the time). The widest band is where to look.",
                    COUNT,
                    (
                        Query(_LINE, "in line"),
                        Query(_OVERHEAD, "gateway"),
                        Query(_TO_FIRST_TOKEN, "to the first token"),
                        Query(_AFTER, "decode"),
                    ),
                    width=16,
                    stacked=True,
                ),
                Panel(
                    "Engine's phases",
                    "The same from the engine's side where it tells: queue, prefill, decode. A large gap to the left is the "
                    "network, or a gateway that is busy.",
                    SECONDS,
                    (
                        Query(f"llm:queue:mean5m{{{MODEL}}}", "{{replica}} queue"),
                        Query(f"llm:prefill:mean5m{{{MODEL}}}", "{{replica}} prefill"),
                        Query(f"llm:decode:mean5m{{{MODEL}}}", "{{replica}} decode"),
                    ),
                ),
            ),
        ),
        Row(
            "The line",
            (
                Panel(
                    "Wait in line",
                    "For a permit. Long while permits are all out: more replicas, or fewer requests. Long while some are "
                    "free: a limit of the tenant.",
                    SECONDS,
                    quantiles("penstock_queue_wait_seconds", "class"),
                ),
                Panel(
                    "Waiting, by class",
                    "Requests in line. Interactive goes before standard, standard before batch; none starves.",
                    COUNT,
                    (
                        Query(
                            f"sum by (model, class) (penstock_queue_length{{{MODEL}}})", "{{model}} {{class}}"
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Permits",
                    "Requests at engines, and how many there may be. Learned ones fall where an engine queues by itself.",
                    COUNT,
                    (
                        Query(f"sum by (model) (penstock_permits_out{{{MODEL}}})", "{{model}} out"),
                        Query(f"sum by (model) (penstock_permits{{{MODEL}}})", "{{model}} all"),
                    ),
                ),
                Panel(
                    "Turned away",
                    "By the line: full, the wait would be too long, no replica.",
                    PER_SECOND,
                    (Query(rate("penstock_queue_rejections_total", "reason"), "{{reason}}"),),
                ),
                Panel(
                    "Predicted wait",
                    "Of a request that comes now. Beyond its deadline it is refused at once.",
                    SECONDS,
                    (
                        Query(
                            f"max by (model) (penstock_queue_predicted_wait_seconds{{{MODEL}}})", "{{model}}"
                        ),
                    ),
                ),
                Panel(
                    "Gateway overhead",
                    "Arrival to the first attempt, without the waits for the body and in line. Milliseconds mean that the gateway "
                    "has no core, or that Redis is slow.",
                    SECONDS,
                    quantiles("penstock_gateway_overhead_seconds"),
                ),
            ),
        ),
        Row(
            "Streams",
            (
                Panel(
                    "Gaps between tokens",
                    "As they were sent, of one stream in eight. A high p99 over a low p50: prompts of others come between "
                    "the tokens, the engine preempts, or answers are continued elsewhere. Both high: its steps are long.",
                    SECONDS,
                    quantiles("penstock_itl_seconds", "model", of=(0.5, 0.99)),
                    width=12,
                ),
                Panel(
                    "Open streams",
                    "Answers under way.",
                    COUNT,
                    (Query(f"sum by (model) (penstock_streams{{{MODEL}}})", "{{model}}"),),
                    width=12,
                ),
                Panel(
                    "Longest silence",
                    "Of a stream whose client reads. Much more than a token's time: an engine stalls or preempts.",
                    SECONDS,
                    (Query(f"max by (model) (penstock_stream_silence_max_seconds{{{MODEL}}})", "{{model}}"),),
                    width=12,
                    limits=(5, 20),
                ),
                Panel(
                    "Event loop's delay",
                    "The longest of the last minute. Above 50 ms the gateway itself holds tokens up: more workers, or a "
                    "quieter machine.",
                    SECONDS,
                    (Query("max(penstock_event_loop_lag_seconds)", "gateway"),),
                    width=12,
                    limits=(0.05, 0.25),
                ),
            ),
        ),
        Row(
            "Tried again",
            (
                Panel(
                    "Retries",
                    "Attempts that failed before the client saw a byte, and were made again.",
                    PER_SECOND,
                    (Query(rate("penstock_retries_total", "model, failure"), "{{model}} {{failure}}"),),
                ),
                Panel(
                    "Continued answers",
                    "Answers whose replica was lost amid them, and which another went on with.",
                    PER_SECOND,
                    (
                        Query(rate("penstock_continuations_total", "model"), "{{model}} continued"),
                        Query(rate("penstock_hedges_total", "model"), "{{model}} hedged"),
                    ),
                ),
                Panel(
                    "Answers given again",
                    "By an `Idempotency-Key` that was known: no engine had work.",
                    PER_SECOND,
                    (Query(rate("penstock_replays_total", "model"), "{{model}}"),),
                ),
                Panel(
                    "Requests at each replica",
                    "Uneven: routing avoids one, or prefixes and sessions hold traffic together.",
                    COUNT,
                    (Query(f"sum by (replica) (penstock_replica_in_flight{{{MODEL}}})", "{{replica}}"),),
                ),
            ),
        ),
        Row(
            "The engine's cache",
            (
                Panel(
                    "KV cache used",
                    "Near 1 an engine preempts: it throws away what it has computed, and computes it again.",
                    PERCENT,
                    (Query(f"llm:kv_usage_ratio{{{MODEL}}}", "{{replica}}"),),
                    width=12,
                    limits=(0.85, 0.95),
                    most=1.0,
                ),
                Panel(
                    "Prefix cache hits",
                    "Share of the prompts' tokens that were not computed again. A fall: prompts changed, or routing spreads "
                    "what belongs together.",
                    PERCENT,
                    (Query(f"llm:prefix_hit:ratio5m{{{MODEL}}}", "{{replica}}"),),
                    width=12,
                    most=1.0,
                ),
            ),
        ),
    ),
)

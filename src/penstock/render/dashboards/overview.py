"""Is all well? Traffic, latency, errors, and how much of each objective's budget is left."""

from __future__ import annotations

from penstock.render.dashboards.page import (
    COUNT,
    MODEL,
    PER_SECOND,
    PERCENT,
    SECONDS,
    TOKENS_PER_SECOND,
    Page,
    Panel,
    Query,
    Row,
    quantiles,
    rate,
)

_REQUESTS = "penstock_requests_total"

PAGE = Page(
    "penstock-overview",
    "Penstock: overview",
    "Is all well? Traffic, latency, errors, and what is left of each objective's budget.",
    (
        Row(
            "Now",
            (
                Panel(
                    "Requests",
                    "Requests that ended in a second, of every outcome.",
                    PER_SECOND,
                    (Query(f"sum(rate({_REQUESTS}{{{MODEL}}}[$__rate_interval]))"),),
                    "stat",
                    4,
                ),
                Panel(
                    "Our failures",
                    "Share of the requests that failed for a reason of ours: gateway or engine. What a client did wrong is "
                    "not looked at. Above 1 % look at the errors below.",
                    PERCENT,
                    (
                        Query(
                            f'(sum(rate({_REQUESTS}{{{MODEL}, fault=~"gateway|engine"}}[$__rate_interval])) '
                            f"or vector(0))\n"
                            f'/ (sum(rate({_REQUESTS}{{{MODEL}, fault!="client"}}[$__rate_interval])) > 0)'
                        ),
                    ),
                    "stat",
                    4,
                    (0.01, 0.05),
                ),
                Panel(
                    "TTFT p95",
                    "From arrival to the first token, for all but the slowest 5 %.",
                    SECONDS,
                    quantiles("penstock_ttft_seconds", of=(0.95,)),
                    "stat",
                    4,
                ),
                Panel(
                    "In line",
                    "Requests that wait for a permit.",
                    COUNT,
                    (Query(f"sum(penstock_queue_length{{{MODEL}}})"),),
                    "stat",
                    4,
                    (10, 50),
                ),
                Panel(
                    "Replicas ready",
                    "Replicas that are given requests. None of a model: its requests get 503.",
                    COUNT,
                    (
                        Query(
                            "max by (model) (sum by (model, instance, worker) "
                            f'(penstock_replicas{{{MODEL}, state=~"ready|busy"}}))',
                            "{{model}}",
                        ),
                    ),
                    "stat",
                    4,
                    (1, 0.5),
                ),
                Panel(
                    "Alerts firing",
                    "Of all severities, without the watchdog that always fires. Alertmanager has them.",
                    COUNT,
                    (Query('count(ALERTS{alertstate="firing", alertname!="Watchdog"}) or vector(0)'),),
                    "stat",
                    4,
                    (1, 3),
                ),
            ),
        ),
        Row(
            "Objectives",
            (
                Panel(
                    "Budget left, 30 days",
                    "What is left of the failures that each objective allows in 30 days; below 0 it is missed. It adds up whole "
                    "hours, so that it comes with the first one, and follows an hour late.",
                    PERCENT,
                    (Query(f"llm:slo_budget_left:ratio30d{{{MODEL}}}", "{{model}} {{objective}}"),),
                    "bars",
                    12,
                    (0.5, 0.1),
                    1.0,
                ),
                Panel(
                    "Burn rate",
                    "How many times faster than allowed the budget is used up, in an hour. 1 uses it up in 30 days, 14.4 in "
                    "two; pages begin there.",
                    COUNT,
                    (
                        Query(
                            f"llm:slo_errors:ratio_rate1h{{{MODEL}}} / on (model, objective) group_left () "
                            "llm:slo_budget:ratio",
                            "{{model}} {{objective}}",
                        ),
                    ),
                    width=12,
                    limits=(1, 14.4),
                ),
                Panel(
                    "Limits in force",
                    "The time that a good request stays under, by the configuration of now.",
                    SECONDS,
                    (
                        Query(
                            f"max by (model, objective) (penstock_slo_limit_seconds{{{MODEL}}})",
                            "{{model}} {{objective}}",
                        ),
                    ),
                    "stat",
                    12,
                ),
                Panel(
                    "Targets in force",
                    "The share of the requests that must be good.",
                    PERCENT,
                    (
                        Query(
                            f"max by (model, objective) (penstock_slo_target_ratio{{{MODEL}}})",
                            "{{model}} {{objective}}",
                        ),
                    ),
                    "stat",
                    12,
                ),
            ),
        ),
        Row(
            "Traffic",
            (
                Panel(
                    "Requests by outcome",
                    "Complete answers, refusals, answers cut off, and clients that left.",
                    PER_SECOND,
                    (Query(rate(_REQUESTS, "outcome"), "{{outcome}}"),),
                    stacked=True,
                ),
                Panel(
                    "Requests by model",
                    "Where the traffic goes.",
                    PER_SECOND,
                    (Query(rate(_REQUESTS, "model"), "{{model}}"),),
                    stacked=True,
                ),
                Panel(
                    "Tokens",
                    "Tokens of prompts and of answers in a second.",
                    TOKENS_PER_SECOND,
                    (Query(rate("penstock_tokens_total", "model, kind"), "{{model}} {{kind}}"),),
                ),
            ),
        ),
        Row(
            "Latency",
            (
                Panel(
                    "Time to first token",
                    "From arrival to the first token sent, the wait in line included.",
                    SECONDS,
                    quantiles("penstock_ttft_seconds", "model"),
                ),
                Panel(
                    "Time per token",
                    "Mean of each request's gaps after its first token.",
                    SECONDS,
                    quantiles("penstock_tpot_seconds", "model"),
                ),
                Panel(
                    "Whole requests",
                    "Arrival to the last byte, of those that have their whole answer; it grows with the length of answers.",
                    SECONDS,
                    quantiles("penstock_request_duration_seconds", "model", ', outcome="complete"'),
                ),
            ),
        ),
        Row(
            "Errors",
            (
                Panel(
                    "Errors by code",
                    "Requests that ended with an error. The codes are those of the answers and of the log.",
                    PER_SECOND,
                    (Query(rate("penstock_errors_total", "model, code"), "{{model}} {{code}}"),),
                ),
                Panel(
                    "Limits hit",
                    "Requests that a limit of their own caller refused: rate, tokens, parallel requests, budget.",
                    PER_SECOND,
                    (Query(rate("penstock_limits_hit_total", "limit"), "{{limit}}"),),
                ),
                Panel(
                    "Refused without an engine",
                    "Routes that there are not (a client's base URL is wrong), keys that are none, and connections ended "
                    "before there was a request: too many of them (gateway.connections_max), or no HTTP.",
                    PER_SECOND,
                    (
                        Query(
                            "sum by (code) (rate(penstock_connections_refused_total[$__rate_interval]))",
                            "{{code}}",
                        ),
                        Query(
                            "sum by (route, status) (rate(penstock_api_requests_total"
                            '{route!="/ready", status=~"[45].."}[$__rate_interval]))',
                            "{{route}} {{status}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)

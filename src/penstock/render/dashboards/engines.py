"""What do the engines do? Batch, cache, preemption, progress, and the lives of replicas and parts."""

from __future__ import annotations

from penstock.render.dashboards.page import (
    COUNT,
    MODEL,
    PER_SECOND,
    PERCENT,
    TOKENS_PER_SECOND,
    Page,
    Panel,
    Query,
    Row,
)

PAGE = Page(
    "penstock-engines",
    "Penstock: engines",
    "Batch, cache, preemption and progress of each engine in one vocabulary, and the lives of replicas.",
    (
        Row(
            "Replicas",
            (
                Panel(
                    "States",
                    "What the gateway knows of each replica: only ready and busy ones get requests; stalled ones have "
                    "requests and make no progress.",
                    COUNT,
                    (
                        Query(
                            f"max by (replica, state) (penstock_replica_state{{{MODEL}}}) == 1",
                            "{{replica}}: {{state}}",
                        ),
                    ),
                    "states",
                    16,
                ),
                Panel(
                    "Answering",
                    "Engines whose page of metrics can be read.",
                    COUNT,
                    (Query(f"sum by (model) (llm_up{{{MODEL}}})", "{{model}}"),),
                    "stat",
                    8,
                ),
                Panel(
                    "Parts",
                    "What the supervisor says of what it runs: running, waiting to be started again, given up.",
                    COUNT,
                    (Query("max by (part, life) (penstock_part_life) == 1", "{{part}}: {{life}}"),),
                    "states",
                    12,
                ),
                Panel(
                    "Restarts",
                    "In an hour. The log of the part (`penstock logs NAME`) has the cause.",
                    COUNT,
                    (Query("sum by (part) (increase(penstock_part_restarts_total[1h]))", "{{part}}"),),
                    width=6,
                    limits=(1, 3),
                ),
                Panel(
                    "Breakers",
                    "Replicas that are not trusted: open ones get nothing, half-open ones a few requests to prove themselves.",
                    COUNT,
                    (
                        Query(
                            f'max by (replica, state) (penstock_breaker_state{{{MODEL}, state!="closed"}})',
                            "{{replica}} {{state}}",
                        ),
                    ),
                    width=6,
                ),
            ),
        ),
        Row(
            "Batch",
            (
                Panel(
                    "Running",
                    "Requests in the batch of each engine.",
                    COUNT,
                    (Query(f"sum by (replica) (llm_requests_running{{{MODEL}}})", "{{replica}}"),),
                ),
                Panel(
                    "Waiting in the engine",
                    "In its own queue. More than none for long: the gateway gives out too many permits, or requests come "
                    "past the gateway.",
                    COUNT,
                    (Query(f"sum by (replica) (llm_requests_waiting{{{MODEL}}})", "{{replica}}"),),
                ),
                Panel(
                    "Steps",
                    "Forward passes in a second. 0 while requests run is a stall.",
                    PER_SECOND,
                    (Query(f"llm:engine_steps:rate1m{{{MODEL}}}", "{{replica}}"),),
                ),
                Panel(
                    "Generated tokens",
                    "By each engine in a second.",
                    TOKENS_PER_SECOND,
                    (
                        Query(
                            f"sum by (replica) (rate(llm_generation_tokens_total{{{MODEL}}}[$__rate_interval]))",
                            "{{replica}}",
                        ),
                    ),
                ),
                Panel(
                    "Prompt tokens",
                    "Taken in by each engine in a second.",
                    TOKENS_PER_SECOND,
                    (
                        Query(
                            f"sum by (replica) (rate(llm_prompt_tokens_total{{{MODEL}}}[$__rate_interval]))",
                            "{{replica}}",
                        ),
                    ),
                ),
                Panel(
                    "Finished",
                    "Requests that each engine finished in a second.",
                    PER_SECOND,
                    (
                        Query(
                            f"sum by (replica) (rate(llm_requests_finished_total{{{MODEL}}}[$__rate_interval]))",
                            "{{replica}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Cache",
            (
                Panel(
                    "KV cache used",
                    "Of each engine.",
                    PERCENT,
                    (Query(f"max by (replica) (llm_kv_cache_usage_ratio{{{MODEL}}})", "{{replica}}"),),
                    limits=(0.85, 0.95),
                    most=1.0,
                ),
                Panel(
                    "Preemptions",
                    "Requests that lost their cache to others and are computed again: lower the concurrency or the context.",
                    PER_SECOND,
                    (
                        Query(
                            f"sum by (replica) (rate(llm_preemptions_total{{{MODEL}}}[$__rate_interval]))",
                            "{{replica}}",
                        ),
                    ),
                ),
                Panel(
                    "Prefix cache hits",
                    "Share of the looked-up tokens that were there.",
                    PERCENT,
                    (
                        Query(
                            f"sum by (replica) (rate(llm_prefix_cache_hit_tokens_total{{{MODEL}}}[$__rate_interval])) / "
                            f"sum by (replica) (rate(llm_prefix_cache_query_tokens_total{{{MODEL}}}[$__rate_interval]))",
                            "{{replica}}",
                        ),
                    ),
                    most=1.0,
                ),
            ),
        ),
    ),
)

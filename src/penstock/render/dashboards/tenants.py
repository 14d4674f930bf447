"""Who uses how much, and what does it cost? From ClickHouse, where tenants are told apart; sums by model from Prometheus."""

from __future__ import annotations

from penstock.render.dashboards.page import (
    COUNT,
    PER_SECOND,
    PERCENT,
    SECONDS,
    USD,
    Page,
    Panel,
    Query,
    Row,
)

_DAYS = "day >= toDate($__fromTime) AND day <= toDate($__toTime)"
_MINUTES = "minute >= $__fromTime AND minute <= $__toTime"

PAGE = Page(
    "penstock-tenants",
    "Penstock: tenants and cost",
    "Who uses how much, what it costs, and how it was for them. Tenants are told apart in ClickHouse, not in Prometheus.",
    (
        Row(
            "Cost",
            (
                Panel(
                    "Cost by model",
                    "At the configured prices, in an hour.",
                    USD,
                    (Query("sum by (model) (increase(penstock_cost_usd_total[1h]))", "{{model}}"),),
                ),
                Panel(
                    "Cost by tenant and day",
                    "At the prices that held when each request ran.",
                    USD,
                    (
                        Query(
                            "SELECT toDateTime(day) AS time, tenant, sum(cost_nano_usd) / 1e9 AS usd "
                            f"FROM llm_usage_daily WHERE {_DAYS} GROUP BY day, tenant ORDER BY day, tenant"
                        ),
                    ),
                    width=16,
                    stacked=True,
                    source="clickhouse",
                ),
                Panel(
                    "Accounts",
                    "Requests, tokens and cost of each tenant and key; the same as `penstock usage --by tenant,key`.",
                    COUNT,
                    (
                        Query(
                            "SELECT tenant, key_id AS key, sum(requests) AS requests, sum(interrupted) AS interrupted, "
                            "sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens, "
                            f"sum(cost_nano_usd) / 1e9 AS usd FROM llm_usage_daily WHERE {_DAYS} "
                            "GROUP BY tenant, key ORDER BY usd DESC, requests DESC LIMIT 100"
                        ),
                    ),
                    "table",
                    24,
                    source="clickhouse",
                ),
            ),
        ),
        Row(
            "How it was for them",
            (
                Panel(
                    "TTFT p95 by tenant",
                    "A tenant that waits while others do not has used up its share.",
                    SECONDS,
                    (
                        Query(
                            "SELECT toStartOfInterval(minute, INTERVAL 5 MINUTE) AS time, tenant, "
                            "quantilesTDigestMerge(0.5, 0.95, 0.99)(ttft_s)[2] AS ttft_s "
                            f"FROM llm_minutes WHERE {_MINUTES} GROUP BY time, tenant "
                            "HAVING isFinite(ttft_s) ORDER BY time, tenant"
                        ),
                    ),
                    width=12,
                    source="clickhouse",
                ),
                Panel(
                    "Failures by tenant",
                    "Share of its requests that failed for a reason of ours.",
                    PERCENT,
                    (
                        Query(
                            "SELECT toStartOfInterval(minute, INTERVAL 5 MINUTE) AS time, tenant, "
                            f"sum(errors) / sum(requests) AS share FROM llm_minutes WHERE {_MINUTES} "
                            "GROUP BY time, tenant ORDER BY time, tenant"
                        ),
                    ),
                    width=12,
                    most=1.0,
                    source="clickhouse",
                ),
                Panel(
                    "Slowest requests",
                    "By their first token. The request id leads to the log and the trace.",
                    SECONDS,
                    (
                        Query(
                            "SELECT ended_at, request_id, tenant, model, replica, queue_s, ttft_s, tpot_s, outcome "
                            "FROM llm_requests WHERE ended_at >= $__fromTime AND ended_at <= $__toTime AND sign = 1 "
                            "ORDER BY ttft_s DESC NULLS LAST LIMIT 50"
                        ),
                    ),
                    "table",
                    24,
                    source="clickhouse",
                ),
            ),
        ),
        Row(
            "The accounts themselves",
            (
                Panel(
                    "Journal",
                    "1 while it can't be written: accounts may be lost.",
                    COUNT,
                    (
                        Query("max(penstock_journal_failing)", "failing"),
                        Query("max(penstock_journal_kept_lines)", "kept lines"),
                    ),
                    limits=(1, 1),
                ),
                Panel(
                    "Lines of the journal",
                    "Two for each request.",
                    PER_SECOND,
                    (Query("sum(rate(penstock_journal_lines_total[$__rate_interval]))", "lines"),),
                ),
                Panel(
                    "Ledger",
                    "1 while the ledger can't take in the journal, and what of the journal could not be read.",
                    COUNT,
                    (
                        Query("max(penstock_ledger_failing)", "failing"),
                        Query("max by (kind) (penstock_journal_damage)", "{{kind}}"),
                    ),
                    limits=(1, 1),
                ),
                Panel(
                    "Rows that wait for ClickHouse",
                    "In the ledger of each gateway; they are sent once it takes them.",
                    COUNT,
                    (Query("max by (instance) (penstock_clickhouse_unsent_rows)", "{{instance}}"),),
                    limits=(100_000, 10_000_000),
                ),
                Panel(
                    "Rows that ClickHouse has taken",
                    "In a second. They go in batches, some each quarter of a minute.",
                    PER_SECOND,
                    (Query("sum(rate(penstock_clickhouse_sent_rows_total[$__rate_interval]))", "rows"),),
                ),
            ),
        ),
    ),
)

-- What `penstock usage` shows, for as long as the accounts are kept.
CREATE TABLE IF NOT EXISTS llm_usage_daily
(
    day Date,
    tenant LowCardinality(String),
    key_id LowCardinality(String),
    model LowCardinality(String),
    requests Int64,
    interrupted Int64,
    prompt_tokens Int64,
    completion_tokens Int64,
    cost_nano_usd Int64
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (day, tenant, key_id, model)
TTL day + INTERVAL $usage_keep_days DAY
SETTINGS non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS llm_usage_daily_from_requests TO llm_usage_daily AS
SELECT
    toDate(ended_at) AS day,
    tenant,
    key_id,
    model,
    sum(toInt64(sign)) AS requests,
    sumIf(toInt64(sign), outcome = 'interrupted') AS interrupted,
    sum(toInt64(ifNull(prompt_tokens, 0)) * sign) AS prompt_tokens,
    sum(toInt64(ifNull(completion_tokens, 0)) * sign) AS completion_tokens,
    sum(cost_nano_usd * sign) AS cost_nano_usd
FROM llm_requests
GROUP BY day, tenant, key_id, model;

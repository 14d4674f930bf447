-- Latencies and errors minute by minute, for charts over months: quantilesTDigestMerge(0.5, 0.95, 0.99)(ttft_s).
-- What is taken back never had a first token, so that no digest has to forget anything.
CREATE TABLE IF NOT EXISTS llm_minutes
(
    minute DateTime('UTC'),
    model LowCardinality(String),
    tenant LowCardinality(String),
    requests SimpleAggregateFunction(sum, Int64),
    errors SimpleAggregateFunction(sum, Int64),
    prompt_tokens SimpleAggregateFunction(sum, Int64),
    completion_tokens SimpleAggregateFunction(sum, Int64),
    ttft_s AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float64),
    tpot_s AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float64),
    duration_s AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (model, tenant, minute)
TTL minute + INTERVAL $minutes_keep_days DAY
SETTINGS non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS llm_minutes_from_requests TO llm_minutes AS
SELECT
    toStartOfMinute(toDateTime(ended_at, 'UTC')) AS minute,
    model,
    tenant,
    sum(toInt64(sign)) AS requests,
    sumIf(toInt64(sign), fault IN ('gateway', 'engine') OR outcome = 'interrupted') AS errors,
    sum(toInt64(ifNull(prompt_tokens, 0)) * sign) AS prompt_tokens,
    sum(toInt64(ifNull(completion_tokens, 0)) * sign) AS completion_tokens,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(assumeNotNull(ttft_s), isNotNull(ttft_s) AND sign = 1) AS ttft_s,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(assumeNotNull(tpot_s), isNotNull(tpot_s) AND sign = 1) AS tpot_s,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(assumeNotNull(duration_s), isNotNull(duration_s) AND sign = 1) AS duration_s
FROM llm_requests
GROUP BY minute, model, tenant;

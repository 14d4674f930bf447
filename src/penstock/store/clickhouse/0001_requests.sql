-- One row for each admitted request. A row that has to be taken back is followed by its like with the sign -1:
-- count by sum(sign), and add up by sum(x * sign), or read FROM llm_requests FINAL. Rows leave a week at a time.
CREATE TABLE IF NOT EXISTS llm_requests
(
    entry_id String CODEC(ZSTD(1)),
    request_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    key_id LowCardinality(String),
    model LowCardinality(String),
    route LowCardinality(String),
    replica LowCardinality(String),
    started_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    ended_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    duration_s Nullable(Float64),
    queue_s Nullable(Float64),
    ttft_s Nullable(Float64),
    tpot_s Nullable(Float64),
    status UInt16,
    outcome LowCardinality(String),
    fault LowCardinality(String),
    error_code LowCardinality(String),
    stream Bool,
    priority LowCardinality(String),
    attempts UInt16,
    continuations UInt16,
    replayed Bool,
    reserved_tokens UInt64,
    prompt_tokens Nullable(UInt64),
    completion_tokens Nullable(UInt64),
    usage_source LowCardinality(String),
    cost_nano_usd Int64,
    prompt_usd_per_million Float64,
    completion_usd_per_million Float64,
    sign Int8,
    INDEX by_request_id request_id TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = CollapsingMergeTree(sign)
PARTITION BY toMonday(ended_at)
ORDER BY (tenant, model, ended_at, entry_id)
TTL toDateTime(ended_at) + INTERVAL $requests_keep_days DAY
SETTINGS non_replicated_deduplication_window = 100000, ttl_only_drop_parts = 1;

"""For each alert, series that make it fire, and series that look alike and must not: idle, busy, over, too short.

Series are in promtool's notation: `1x80` stands for 81 samples of 1, `0+5x80` grows by 5 with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Series = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """One alert.

    Args:
        fires: series at the end of which it fires.
        labels: those that it then has, beside its name and severity.
        quiet: sets of series with which it never fires, at any minute.
        over: series with which it fired once, and does not at the end.
        minutes: when it is looked at.
        every: the time between two samples.
    """

    alert: str
    fires: Series
    labels: Mapping[str, str]
    quiet: tuple[Series, ...]
    over: Series | None = None
    minutes: int = 20
    every: str = "15s"


def _always(value: float, **labels: str) -> Mapping[str, str]:
    return {f"{_labels(labels)}": f"{value:g}x320"}


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name.rstrip("_")}="{value}"' for name, value in labels.items()) + "}"


def series(name: str, values: str, **labels: str) -> Series:
    """One series; a label that is a word of Python ends in `_`."""
    return {f"{name}{_labels(labels)}": values}


GATEWAY = {"job": "penstock-gateway", "instance": "g"}
ENGINE = {"model": "m", "replica": "m-0"}
EXPORTER = {"job": "penstock-exporter", "instance": "g"}
CARD = {**EXPORTER, "gpu": "0"}
# 400 samples are 100 minutes.
BUSY = series("penstock_requests_total", "0+15x400", model="m", outcome="complete", fault="", **GATEWAY)
IDLE = series("penstock_requests_total", "500x400", model="m", outcome="complete", fault="", **GATEWAY)


def failing(per_sample: int, fault: str = "engine") -> Series:
    """Requests that fail, so many between two samples."""
    return series(
        "penstock_requests_total",
        f"0+{per_sample}x400",
        model="m",
        outcome="rejected",
        fault=fault,
        **GATEWAY,
    )


def level(name: str, high: float, low: float, limits: Mapping[str, str], *, every: str = "15s") -> Case:
    """An alert on a level that is too high; each of `limits` is the name of the alert, or a label of the series."""
    labels = {key: value for key, value in limits.items() if key != "alert"}
    shown = {key: value for key, value in labels.items() if not key.startswith("hidden_")}
    return Case(
        limits["alert"],
        series(name, f"{high:g}x400", **labels),
        shown,
        (series(name, f"{low:g}x400", **labels), series(name, f"{low:g}x8 {high:g}x2 {low:g}x390", **labels)),
        every=every,
    )


# -- objectives ---------------------------------------------------------------------------------------


def judged(objective: str, requests: str, good: str, target: float) -> Series:
    """What a gateway shows of an objective."""
    its = {"model": "m", "objective": objective, **GATEWAY}
    return {
        **series("penstock_slo_requests_total", requests, **its),
        **series("penstock_slo_good_requests_total", good, **its),
        **series("penstock_slo_target_ratio", f"{target:g}x2000", **its),
    }


def _burns() -> Iterator[Case]:
    """One fast and one slow case for each objective; the expressions differ in its name alone."""
    for objective in ("availability", "ttft", "tpot", "e2e", "goodput"):
        its = {"model": "m", "objective": objective}
        name = f"{objective.capitalize()}Burn"
        yield Case(  # a tenth is bad where a thousandth may be
            f"{name}Fast",
            judged(objective, "0+600x80", "0+540x80", 0.999),
            its,
            (judged(objective, "0+1000x80", "0+995x80", 0.999),),  # less than six hours may burn
            minutes=70,
            every="5m",
        )
        yield Case(
            f"{name}Slow",
            judged(objective, "0+10000x500", "0+9950x500", 0.999),
            its,
            (judged(objective, "0+10000x500", "0+9995x500", 0.999),),
            minutes=1500,
            every="10m",
        )


_AVAILABILITY = {"model": "m", "objective": "availability"}
_SPEEDS = (
    Case(
        "AvailabilityBurnFast",  # a target that no failure burns 14.4 times as fast: a total failure still pages
        judged("availability", "0+600x80", "0x80", 0.9),
        _AVAILABILITY,
        (
            judged("availability", "0+600x80", "0+300x80", 0.9),  # half, where a tenth may: not yet
            judged("availability", "0+1x3 4x80", "0x80", 0.999),  # all of four requests, and then none
            judged("availability", "600x80", "0x80", 0.999),  # long ago
        ),
        over=judged("availability", "0+600x80", "0x35 21000+600x45", 0.999),  # for longer than half an hour
        minutes=70,
        every="1m",
    ),
    Case(
        "AvailabilityBurnFast",  # by 6 times, over six hours
        judged("availability", "0+1000x80", "0+990x80", 0.999),
        _AVAILABILITY,
        (judged("availability", "0+1000x80", "0+996x80", 0.999),),
        minutes=400,
        every="10m",
    ),
    Case(
        "AvailabilityBurnSlow",  # by the plain speed, over three days
        judged("availability", "0+10000x500", "0+9985x500", 0.999),
        _AVAILABILITY,
        (judged("availability", "0+10000x500", "0+9992x500", 0.999),),
        minutes=4400,
        every="10m",
    ),
)


# -- gateway ------------------------------------------------------------------------------------------

_GATEWAY_CASES = (
    Case(
        "GatewayDown",
        series("up", "0x80", **GATEWAY),
        GATEWAY,
        (series("up", "1x40 0x2 1x40", **GATEWAY), series("up", "0x80", job="other", instance="g")),
    ),
    Case(
        "GatewayErrorsHigh",
        {**BUSY, **failing(3)},
        {"model": "m"},
        (
            BUSY,
            IDLE,
            {**BUSY, **failing(9, "client")},
            series("penstock_requests_total", "0x40 1x40", model="m", fault="engine"),
        ),
    ),
    Case(
        "GatewayLatencyP99High",
        {
            **BUSY,
            **series("penstock_request_duration_seconds_bucket", "0+14x400", model="m", le="60.0", **GATEWAY),
            **series(
                "penstock_request_duration_seconds_bucket", "0+15x400", model="m", le="120.0", **GATEWAY
            ),
            **series("penstock_request_duration_seconds_bucket", "0+15x400", model="m", le="+Inf", **GATEWAY),
        },
        {"model": "m"},
        (
            {
                **BUSY,
                **series(
                    "penstock_request_duration_seconds_bucket", "0+15x400", model="m", le="60.0", **GATEWAY
                ),
                **series(
                    "penstock_request_duration_seconds_bucket", "0+15x400", model="m", le="+Inf", **GATEWAY
                ),
            },
            IDLE,
        ),
    ),
    Case(
        "QueueBacklog",
        {
            **series("penstock_queue_length", "40x80", model="m", class_="standard", **GATEWAY),
            **series("penstock_queue_length", "20x80", model="m", class_="batch", **GATEWAY),
        },
        {"model": "m"},
        (
            series("penstock_queue_length", "40x80", model="m", class_="standard", **GATEWAY),
            series("penstock_queue_length", "0x10 90x10 0x60", model="m", class_="standard", **GATEWAY),
        ),
    ),
    Case(
        "QueueNearlyFull",
        {
            **series("penstock_queue_length", "85x80", model="m", class_="standard", **GATEWAY),
            **series("penstock_queue_length_max", "100x80", model="m", **GATEWAY),
        },
        {"model": "m"},
        (
            {
                **series("penstock_queue_length", "70x80", model="m", class_="standard", **GATEWAY),
                **series("penstock_queue_length_max", "100x80", model="m", **GATEWAY),
            },
            {  # no line at all
                **series("penstock_queue_length", "0x80", model="m", class_="standard", **GATEWAY),
                **series("penstock_queue_length_max", "0x80", model="m", **GATEWAY),
            },
        ),
    ),
    Case(
        "QueueRejections",
        {
            **BUSY,
            **series(
                "penstock_queue_rejections_total",
                "0+2x400",
                model="m",
                class_="batch",
                reason="queue_full",
                **GATEWAY,
            ),
        },
        {"model": "m", "reason": "queue_full"},
        (
            BUSY,
            {
                **BUSY,
                **series(
                    "penstock_queue_rejections_total",
                    "0+1x4 4x400",
                    model="m",
                    class_="batch",
                    reason="queue_full",
                ),
            },
        ),
    ),
    Case(
        "StreamsStalled",
        series(
            "penstock_stream_silence_max_seconds",
            "0 15 25 2x5 0 15 25 2x5 0 15 25 2x5 12 20x80",
            model="m",
            **GATEWAY,
        ),
        {"model": "m"},
        (series("penstock_stream_silence_max_seconds", "3x80", model="m", **GATEWAY),),
        minutes=15,
    ),
    Case(
        "AnswersInterrupted",
        {
            **BUSY,
            **series("penstock_requests_total", "0+1x400", model="m", outcome="interrupted", fault="engine"),
        },
        {"model": "m"},
        (BUSY, IDLE),
    ),
    Case(
        "ContinuationsHigh",
        {**BUSY, **series("penstock_continuations_total", "0+2x400", model="m", **GATEWAY)},
        {"model": "m"},
        ({**BUSY, **series("penstock_continuations_total", "0x20 1x60", model="m", **GATEWAY)},),
        minutes=30,
    ),
    Case(
        "RetriesHigh",
        {**BUSY, **series("penstock_retries_total", "0+2x400", model="m", failure="lost", **GATEWAY)},
        {"model": "m"},
        ({**BUSY, **series("penstock_retries_total", "0x20 2x60", model="m", failure="lost", **GATEWAY)},),
    ),
    Case(
        "NoReplicaReady",
        {
            **series("penstock_replicas", "0x80", model="m", state="ready", **GATEWAY),
            **series("penstock_replicas", "2x80", model="m", state="starting", **GATEWAY),
        },
        {"model": "m", **GATEWAY},
        (
            {  # one worker has not seen it yet
                **series("penstock_replicas", "0x80", model="m", state="ready", worker="0", **GATEWAY),
                **series("penstock_replicas", "1x80", model="m", state="ready", worker="1", **GATEWAY),
            },
            {
                **series("penstock_replicas", "0x80", model="m", state="ready", **GATEWAY),
                **series("penstock_replicas", "1x80", model="m", state="busy", **GATEWAY),
            },
        ),
    ),
    Case(
        "ReplicaNotReady",
        series("penstock_replica_state", "1x400", state="loading", **ENGINE, **GATEWAY),
        {**ENGINE, "state": "loading"},
        (
            series("penstock_replica_state", "1x400", state="ready", **ENGINE, **GATEWAY),
            series("penstock_replica_state", "1x400", state="draining", **ENGINE, **GATEWAY),
            series("penstock_replica_state", "1x60 stale _x300", state="loading", **ENGINE, **GATEWAY),
        ),
        minutes=30,
    ),
    Case(
        "CircuitOpen",
        series("penstock_breaker_state", "1x80", state="open", **ENGINE, **GATEWAY),
        ENGINE,
        (
            series("penstock_breaker_state", "1x80", state="closed", **ENGINE, **GATEWAY),
            series("penstock_breaker_state", "1x2 stale _x80", state="open", **ENGINE, **GATEWAY),
        ),
    ),
    Case(
        "AuthenticationFailures",
        series("penstock_errors_total", "0+30x400", model="other", code="invalid_api_key", **GATEWAY),
        {"instance": "g"},
        (series("penstock_errors_total", "0+3x400", model="other", code="invalid_api_key", **GATEWAY),),
    ),
    Case(
        "BudgetExhausted",
        series("penstock_limits_hit_total", "0x40 0+1x40", model="m", limit="usd_per_month", **GATEWAY),
        {"model": "m", "limit": "usd_per_month"},
        (
            series("penstock_limits_hit_total", "0+1x80", model="m", limit="requests_per_minute", **GATEWAY),
            series("penstock_limits_hit_total", "7x80", model="m", limit="usd_per_month", **GATEWAY),
        ),
    ),
    Case(
        "LimitsHit",
        {
            **BUSY,
            **series("penstock_limits_hit_total", "0+9x400", model="m", limit="tokens_per_minute", **GATEWAY),
        },
        {"model": "m", "limit": "tokens_per_minute"},
        (
            {
                **BUSY,
                **series(
                    "penstock_limits_hit_total", "0+1x400", model="m", limit="tokens_per_minute", **GATEWAY
                ),
            },
        ),
        minutes=30,
    ),
    Case(
        "ConfigReloadFailed",
        series("penstock_config_reload_failed", "0x4 1x80", worker="0", **GATEWAY),
        {"instance": "g"},
        (series("penstock_config_reload_failed", "0x4 1x8 0x80", worker="0", **GATEWAY),),
    ),
    Case(
        "GatewayBug",
        series("penstock_bugs_total", "0x40 1x80", worker="0", **GATEWAY),
        {"instance": "g"},
        (series("penstock_bugs_total", "3x80", worker="0", **GATEWAY),),
    ),
    Case(
        "GatewayLoopSlow",
        series("penstock_event_loop_lag_seconds", "0.4x80", **GATEWAY),
        {"instance": "g"},
        (series("penstock_event_loop_lag_seconds", "0.4x8 0.01x80", **GATEWAY),),
    ),
    Case(
        "GatewayRestarting",
        series("process_start_time_seconds", "1x10 2x10 3x10 4x60", worker="1", **GATEWAY),
        {"instance": "g"},
        (
            series("process_start_time_seconds", "1x10 2x80", worker="1", **GATEWAY),
            series("process_start_time_seconds", "1x10 2x10 3x10 4x60", job="other", instance="g"),
        ),
        minutes=15,
    ),
    Case(
        "GatewayFilesNearlyOut",
        {
            **series("process_open_fds", "900x80", **GATEWAY),
            **series("process_max_fds", "1024x80", **GATEWAY),
        },
        {"instance": "g"},
        (
            {
                **series("process_open_fds", "500x80", **GATEWAY),
                **series("process_max_fds", "1024x80", **GATEWAY),
            },
        ),
    ),
    Case(
        "JournalFailing",
        series("penstock_journal_failing", "1x80", **GATEWAY),
        {"instance": "g"},
        (series("penstock_journal_failing", "1x2 0x80", **GATEWAY),),
    ),
    Case(
        "LedgerFailing",
        series("penstock_ledger_failing", "1x100", **GATEWAY),
        {"instance": "g"},
        (series("penstock_ledger_failing", "1x20 0x80", **GATEWAY),),
    ),
    Case(
        "ClickHouseFailing",
        series("penstock_clickhouse_failing", "1x100", **GATEWAY),
        {"instance": "g"},
        (series("penstock_clickhouse_failing", "1x20 0x80", **GATEWAY),),
    ),
    Case(
        "SharedStoreDown",
        {
            **series("penstock_shared_store_up", "1x80", worker="0", **GATEWAY),
            **series("penstock_shared_store_up", "0x80", worker="1", **GATEWAY),
        },
        {"instance": "g"},
        (series("penstock_shared_store_up", "1x20 0x2 1x80", **GATEWAY),),
    ),
)


# -- engines ------------------------------------------------------------------------------------------


def vllm(running: str, steps: str) -> Series:
    """What vLLM 0.32 shows of its work."""
    its = {"model_name": "x", "engine": "0", **ENGINE}
    return {
        **series("vllm:num_requests_running", running, **its),
        **series("vllm:iteration_tokens_total_count", steps, **its),
    }


_ENGINE_CASES = (
    Case(
        "EngineStalled",  # its core is stopped: the gauge stands still, and so do the steps
        vllm("3x80", "0+100x20 2000x80"),
        ENGINE,
        (
            vllm("8x80", "0+100x80"),
            vllm("0x80", "500x80"),
            vllm("1x80", "0+1x80"),
            {
                **series("llamacpp:requests_processing", "1x80", **ENGINE),
                **series("llamacpp:tokens_predicted_total", "0+9x80", **ENGINE),
                **series("llamacpp:n_decode_total", "0+9x80", **ENGINE),
            },
        ),
    ),
    Case(
        "EngineStalled",
        series("penstock_replica_state", "1x80", state="stalled", **ENGINE, **GATEWAY),
        ENGINE,
        (series("penstock_replica_state", "1x80", state="busy", **ENGINE, **GATEWAY),),
    ),
    Case(
        "EngineStalled",
        {
            **series("llamacpp:requests_processing", "1x80", **ENGINE),
            **series("llamacpp:n_decode_total", "900x80", **ENGINE),
        },
        ENGINE,
        (),
    ),
    Case(
        "EngineTargetDown",
        {
            **series("llm_up", "1x4 0x80", engine="vllm", **ENGINE, **EXPORTER),
            **series("penstock_replica_state", "1x80", state="ready", **ENGINE),
        },
        {"engine": "vllm", **ENGINE, **EXPORTER},
        (
            {
                **series("llm_up", "1x4 0x80", engine="vllm", **ENGINE, **EXPORTER),
                **series("penstock_replica_state", "1x80", state="loading", **ENGINE),
            },
            # an engine that has no such page
            series("llm_up", "0x80", engine="transformers", **ENGINE, **EXPORTER),
            {
                **series("llm_up", "1x80", engine="vllm", **ENGINE, **EXPORTER),
                **series("penstock_replica_state", "1x80", state="ready", **ENGINE),
            },
        ),
    ),
    Case(
        "EngineTargetDown",
        series("up", "1x4 0x80", job="penstock-engines", instance="e:8000", **ENGINE),
        {"job": "penstock-engines", "instance": "e:8000", **ENGINE},
        (
            series("up", "1x10 0x2 1x80", job="penstock-engines", instance="e:8000", **ENGINE),
            series("up", "0x80", job="penstock-engines", instance="e:8000", **ENGINE),
        ),
    ),
    Case(
        "EngineMissing",
        {
            **series("vllm:num_requests_running", "0x240 _x200", engine="0", **ENGINE),
            **series("penstock_replicas", "0x440", model="m", state="ready"),
        },
        {"model": "m"},
        (
            {
                **series("vllm:num_requests_running", "0x440", engine="0", **ENGINE),
                **series("penstock_replicas", "0x440", model="m", state="ready"),
            },
            # taken out of the configuration
            series("vllm:num_requests_running", "0x240 _x200", engine="0", **ENGINE),
            {  # served, while nobody reads its metrics
                **series("vllm:num_requests_running", "0x240 _x200", engine="0", **ENGINE),
                **series("penstock_replicas", "1x440", model="m", state="ready"),
                **series("penstock_replicas", "0x440", model="m", state="starting"),
            },
        ),
        minutes=80,
    ),
    Case(
        "EngineCrashLoop",
        series("penstock_part_restarts_total", "0x20 1x10 2x10 3x40", part="m-0", **GATEWAY),
        {"part": "m-0", **GATEWAY},
        (series("penstock_part_restarts_total", "0x20 1x60", part="m-0", **GATEWAY),),
        minutes=15,
    ),
    Case(
        "EngineGivenUp",
        series("penstock_part_life", "1x80", part="m-0", life="given_up", **GATEWAY),
        {"part": "m-0", "life": "given_up", **GATEWAY},
        (series("penstock_part_life", "1x80", part="m-0", life="waiting", **GATEWAY),),
    ),
    Case(
        "KvCacheHigh",
        series("vllm:kv_cache_usage_perc", "0.9x80", engine="0", **ENGINE),
        ENGINE,
        (
            series("vllm:kv_cache_usage_perc", "0.8x80", engine="0", **ENGINE),
            series("vllm:kv_cache_usage_perc", "0.2x10 0.99x10 0.2x60", engine="0", **ENGINE),
        ),
    ),
    Case(
        "KvCacheFull",
        series("vllm:gpu_cache_usage_perc", "0.97x80", **ENGINE),  # as vLLM called it until 0.10
        ENGINE,
        (series("sglang:token_usage", "0.9x80", tp_rank="0", **ENGINE),),
    ),
    Case(
        "PreemptionStorm",
        {**BUSY, **series("vllm:num_preemptions_total", "0+3x400", engine="0", **ENGINE)},
        {"model": "m"},
        ({**BUSY, **series("vllm:num_preemptions_total", "0x20 4x60", engine="0", **ENGINE)}, IDLE),
    ),
    Case(
        "EngineQueueBacklog",
        {
            **vllm("8x80", "0+100x80"),
            **series("vllm:num_requests_waiting_by_reason", "50x80", engine="0", reason="capacity", **ENGINE),
        },
        ENGINE,
        (
            {
                **vllm("8x80", "0+100x80"),
                **series(
                    "vllm:num_requests_waiting_by_reason", "9x80", engine="0", reason="capacity", **ENGINE
                ),
                **series(
                    "vllm:num_requests_waiting_by_reason", "90x80", engine="0", reason="deferred", **ENGINE
                ),
            },
        ),
    ),
    Case(
        "EngineRejections",
        series("vllm:admission_rejections_total", "0+2x400", reason="max_num_queued_reqs", **ENGINE),
        ENGINE,
        (series("vllm:admission_rejections_total", "0x20 9x300", reason="max_num_queued_reqs", **ENGINE),),
    ),
    Case(
        "PrefixCacheCollapse",
        {
            **series("vllm:prefix_cache_queries_total", "0+60000x400", engine="0", **ENGINE),
            **series("vllm:prefix_cache_hits_total", "0+54000x200 10800000+6000x200", engine="0", **ENGINE),
        },
        ENGINE,
        (
            {
                **series("vllm:prefix_cache_queries_total", "0+60000x400", engine="0", **ENGINE),
                **series("vllm:prefix_cache_hits_total", "0+54000x400", engine="0", **ENGINE),
            },
            {  # nobody asks
                **series("vllm:prefix_cache_queries_total", "0+60000x200 12000000x200", engine="0", **ENGINE),
                **series("vllm:prefix_cache_hits_total", "0+54000x200 10800000x200", engine="0", **ENGINE),
            },
        ),
        minutes=270,
        every="1m",
    ),
)


# -- GPUs ---------------------------------------------------------------------------------------------


def grows(alert: str, name: str, step: float, **labels: str) -> Case:
    """An alert on a counter that grows; one that stands high and still is quiet."""
    its = {**CARD, **labels}
    return Case(
        alert,
        series(name, f"7x40 7+{step:g}x400", **its),
        its,
        (series(name, "7x400", **its),),
        minutes=40,
    )


_GPU_CASES = (
    level("penstock_gpu_memory_free_bytes", 1e9, 9e9, {"alert": "GpuMemoryLow", **CARD}),
    level("penstock_gpu_temperature_celsius", 88, 80, {"alert": "GpuHot", **CARD}),
    grows("GpuEccUncorrected", "penstock_gpu_ecc_errors_total", 1, kind="uncorrected"),
    level("penstock_gpu_row_remap_failed", 1, 0, {"alert": "GpuRowRemapFailed", **CARD}),
    level("penstock_gpu_row_remap_pending", 1, 0, {"alert": "GpuRowRemapPending", **CARD}),
    Case(
        "GpuRemapGrowth",
        series("penstock_gpu_remapped_rows", "2x40 2+1x60", cause="corrected", **CARD),
        {**CARD, "cause": "corrected"},
        (series("penstock_gpu_remapped_rows", "40x100", cause="corrected", **CARD),),
        minutes=95,
        every="1m",
    ),
    grows("GpuXidFatal", "penstock_gpu_xid_errors_total", 1, action="reboot"),
    grows("GpuXidApplication", "penstock_gpu_xid_errors_total", 1, action="restart_app"),
    Case(
        "GpuLost",
        series("penstock_gpu_up", "1x20 0x60", **CARD),
        CARD,
        (series("penstock_gpu_up", "1x80", **CARD),),
    ),
    Case(
        "GpuDriverGone",
        {
            **series("penstock_gpu_driver_up", "1x20 stale", reason="", **EXPORTER),
            **series("penstock_gpu_driver_up", "_x21 0x60", reason="driver_not_loaded", **EXPORTER),
            **series("penstock_gpu_up", "1x20 stale", **CARD),
        },
        {"reason": "driver_not_loaded", **EXPORTER},
        (
            # a machine that has never had a GPU
            series("penstock_gpu_driver_up", "0x80", reason="library_not_found", **EXPORTER),
            {
                **series("penstock_gpu_driver_up", "1x80", reason="", **EXPORTER),
                **series("penstock_gpu_up", "1x80", **CARD),
            },
        ),
    ),
    level("penstock_gpu_orphan_memory_bytes", 16e9, 2e8, {"alert": "GpuOrphanMemory", **CARD}),
    level("penstock_gpu_recovery_action_code", 2, 0, {"alert": "GpuRecoveryNeeded", **CARD}),
    grows("GpuThrottled", "penstock_gpu_throttle_seconds_total", 3, reason="hw_thermal"),
    Case(
        "GpuNvlinkErrors",
        series("penstock_gpu_nvlink_errors_total", "0+2x400", kind="replay", **CARD),
        {"instance": "g", "gpu": "0"},
        (series("penstock_gpu_nvlink_errors_total", "900x400", kind="replay", **CARD),),
        minutes=40,
    ),
    grows("GpuPcieReplays", "penstock_gpu_pcie_replays_total", 9),
    Case(
        "GpuIdleCost",
        {
            **series("penstock_gpu_utilization_ratio", "0x200", **CARD),
            **series("penstock_gpu_memory_used_bytes", "7e10x200", **CARD),
        },
        CARD,
        (
            {
                **series("penstock_gpu_utilization_ratio", "0x50 0.3 0x50 0.3 0x98", **CARD),
                **series("penstock_gpu_memory_used_bytes", "7e10x200", **CARD),
            },
            {
                **series("penstock_gpu_utilization_ratio", "0x200", **CARD),
                **series("penstock_gpu_memory_used_bytes", "1e8x200", **CARD),
            },
        ),
        minutes=130,
        every="1m",
    ),
)


# -- the machine --------------------------------------------------------------------------------------


def part(alert: str, part: str, whole: str, most: float, few: float, much: float, **labels: str) -> Case:
    """An alert on what part of something is used or left: at `few` it fires, at `much` it does not."""
    its = {**EXPORTER, **labels}
    total = series(whole, f"{most:g}x100", **its)
    return Case(
        alert,
        {**series(part, f"{few:g}x100", **its), **total},
        its,
        ({**series(part, f"{much:g}x100", **its), **total},),
    )


_HOST = "penstock_host_"
_HOST_CASES = (
    part(
        "HostDiskLow", f"{_HOST}disk_free_bytes", f"{_HOST}disk_total_bytes", 1e12, 5e10, 2e11, place="models"
    ),
    part("HostShmLow", f"{_HOST}disk_free_bytes", f"{_HOST}disk_total_bytes", 6.4e7, 1e6, 3e7, place="shm"),
    part("HostMemoryLow", f"{_HOST}memory_available_bytes", f"{_HOST}memory_total_bytes", 1e11, 2e9, 2e10),
    Case(
        "HostOomKill",
        series(f"{_HOST}oom_kills_total", "2x40 3x60", **EXPORTER),
        EXPORTER,
        (series(f"{_HOST}oom_kills_total", "2x100", **EXPORTER),),
    ),
    part(
        "HostFilesNearlyOut",
        f"{_HOST}file_descriptors_open",
        f"{_HOST}file_descriptors_max",
        1e5,
        9e4,
        5e4,
    ),
)


# -- telemetry ----------------------------------------------------------------------------------------

PROMETHEUS = {"job": "prometheus", "instance": "p"}

_TELEMETRY_CASES = (
    Case("Watchdog", {}, {}, ()),
    Case(
        "ExporterDown",
        series("up", "1x4 0x80", job="penstock-exporter", instance="g"),
        {"job": "penstock-exporter", "instance": "g"},
        (
            series("up", "1x20 0x10 1x80", job="penstock-exporter", instance="g"),
            # nobody runs one, which is asked for all the same; the supervisor runs other parts
            {
                **series("up", "0x80", job="penstock-exporter", instance="g"),
                **series("penstock_part_life", "1x80", part="m-0", life="running", **GATEWAY),
            },
        ),
    ),
    Case(
        "ExporterDown",  # a supervisor runs one that has not answered yet
        {
            **series("up", "0x80", job="penstock-exporter", instance="e"),
            **series("penstock_part_life", "1x80", part="exporter", life="waiting", **GATEWAY),
        },
        {"job": "penstock-exporter", "instance": "e"},
        (
            {
                **series("up", "0x8 1x80", job="penstock-exporter", instance="e"),
                **series("penstock_part_life", "1x80", part="exporter", life="running", **GATEWAY),
            },
        ),
    ),
    level(
        "penstock_exporter_read_age_seconds", 90, 3, {"alert": "ExporterBehind", "source": "gpu", **EXPORTER}
    ),
    Case(
        "TelemetryDropped",
        series("penstock_traces_spans_dropped_total", "0+5x100", **GATEWAY),
        GATEWAY,
        (
            series("penstock_traces_spans_dropped_total", "50x100", **GATEWAY),
            series("penstock_exporter_otlp_age_seconds", "30x100", **EXPORTER),
        ),
    ),
    level("scrape_duration_seconds", 3, 0.02, {"alert": "ScrapeSlow", **GATEWAY}),
    level("scrape_samples_post_metric_relabeling", 60_000, 5_000, {"alert": "SeriesMany", **GATEWAY}),
    Case(
        "RuleEvaluationFailing",
        series("prometheus_rule_evaluation_failures_total", "0x40 0+1x40", rule_group="r", **PROMETHEUS),
        {"rule_group": "r", **PROMETHEUS},
        (series("prometheus_rule_evaluation_failures_total", "5x80", rule_group="r", **PROMETHEUS),),
    ),
    Case(
        "AlertmanagerUnreachable",
        series("prometheus_notifications_alertmanagers_discovered", "0x80", **PROMETHEUS),
        {"instance": "p"},
        (series("prometheus_notifications_alertmanagers_discovered", "1x80", **PROMETHEUS),),
    ),
    Case(
        "AlertmanagerUnreachable",  # it is known and does not take what it is told
        {
            **series("prometheus_notifications_alertmanagers_discovered", "1x80", **PROMETHEUS),
            **series("prometheus_notifications_errors_total", "0+1x80", alertmanager="a", **PROMETHEUS),
        },
        {"instance": "p"},
        (series("prometheus_notifications_errors_total", "7x80", alertmanager="a", **PROMETHEUS),),
    ),
    Case(
        "NotificationsFailing",
        series("alertmanager_notifications_failed_total", "0+1x80", integration="webhook", instance="a"),
        {"integration": "webhook", "instance": "a"},
        (series("alertmanager_notifications_failed_total", "4x80", integration="webhook", instance="a"),),
    ),
)

CASES: tuple[Case, ...] = (
    *_burns(),
    *_SPEEDS,
    *_GATEWAY_CASES,
    *_ENGINE_CASES,
    *_GPU_CASES,
    *_HOST_CASES,
    *_TELEMETRY_CASES,
)

"""The numbers of each engine's page are found under its own names, and a page without them gives none."""

from __future__ import annotations

import pytest

from penstock.bench.beside.figures import ENGINE, GATEWAY, GPU, read
from penstock.simulator.engine_model import EngineModel, EngineModelSettings
from penstock.simulator.exposition import Gauges, Metrics

VLLM = b"""\
vllm:num_requests_running{engine="0",model_name="m"} 12.0
vllm:num_requests_waiting{engine="0",model_name="m"} 5.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:num_preemptions_total{engine="0",model_name="m"} 3.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e9
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1000.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 640.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 1000.0
vllm:generation_tokens_total{engine="0",model_name="m"} 256.0
"""
SGLANG = b"""\
sglang:num_running_reqs{model_name="m",tp_rank="0"} 7.0
sglang:num_running_reqs{model_name="m",tp_rank="1"} 7.0
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 2.0
sglang:token_usage{model_name="m",tp_rank="0"} 0.61
sglang:num_retracted_requests_total{model_name="m",tp_rank="0"} 1.0
sglang:prompt_tokens_total{model_name="m"} 4096.0
sglang:cached_tokens_total{model_name="m",cache_source="device"} 3000.0
sglang:cached_tokens_total{model_name="m",cache_source="host"} 168.0
sglang:generation_tokens_total{model_name="m"} 512.0
"""
LLAMACPP = b"""\
llamacpp:prompt_tokens_total 600
llamacpp:prompt_tokens_cached_total 400
llamacpp:tokens_predicted_total 50
llamacpp:tokens_predicted_seconds_total 0.000952
llamacpp:requests_processing 4
llamacpp:requests_deferred 1
"""
ALL = ("running", "waiting", "kv_usage", "preemptions", "prefix_query_tokens", "prefix_hit_tokens")


@pytest.mark.parametrize(
    ("page", "values", "generated"),
    [
        (VLLM, (12.0, 5.0, 0.25, 3.0, 1000.0, 640.0), 256.0),
        (SGLANG, (7.0, 2.0, 0.61, 1.0, 4096.0, 3168.0), 512.0),
        (LLAMACPP, (4.0, 1.0, None, None, 1000.0, 400.0), 50.0),
    ],
)
def test_each_engine_is_read_under_its_own_names(
    page: bytes, values: tuple[float | None, ...], generated: float
) -> None:
    seen = read(page, ENGINE)

    assert tuple(seen.get(name) for name in ALL) == values
    assert seen["generation_tokens"] == generated


def test_names_that_vllm_had_before_are_known() -> None:
    page = b"vllm:gpu_cache_usage_perc 0.5\n"
    page += b"vllm:gpu_prefix_cache_queries_total 10\nvllm:gpu_prefix_cache_hits_total 4\n"

    assert read(page, ENGINE) == {"kv_usage": 0.5, "prefix_query_tokens": 10.0, "prefix_hit_tokens": 4.0}


def test_ranks_that_run_data_parallel_add_up_and_the_fullest_cache_counts() -> None:
    page = b'vllm:num_requests_running{engine="0"} 3\nvllm:num_requests_running{engine="1"} 4\n'
    page += b'vllm:kv_cache_usage_perc{engine="0"} 0.1\nvllm:kv_cache_usage_perc{engine="1"} 0.9\n'

    assert read(page, ENGINE) == {"running": 7.0, "kv_usage": 0.9}


def test_the_simulated_engine_says_all_of_them() -> None:
    model = EngineModel(EngineModelSettings())

    page = Metrics().render(model, Gauges.of(model), "m")

    assert set(read(page, ENGINE)) == {figure.name for figure in ENGINE}


def test_a_gateway_and_a_gpu_exporter_are_read_by_tables_of_their_own() -> None:
    gateway = b'penstock_queue_length{class="batch",model="m"} 2\npenstock_queue_length{class="standard",model="m"} 1\n'
    gpu = b'DCGM_FI_DEV_POWER_USAGE{gpu="0"} 300.5\nDCGM_FI_DEV_POWER_USAGE{gpu="1"} 200\n'
    gpu += b'DCGM_FI_DEV_GPU_UTIL{gpu="0"} 90\nDCGM_FI_DEV_GPU_UTIL{gpu="1"} 50\n'

    gpu += b'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 60\nDCGM_FI_DEV_GPU_TEMP{gpu="1"} 70\n'
    waiting = {"gateway_waiting": 3.0}
    told = {"gpus": 2.0, "gpu_utilization_percent": 70.0, "gpu_power_w": 500.5, "gpu_temperature_c": 70.0}

    assert read(gateway, GATEWAY) == waiting
    assert read(gpu, GPU) == told


@pytest.mark.parametrize(
    "page", [b"", b"<html>no</html>", b"\x00\xff" * 999, b"vllm:num_requests_running NaN\n"]
)
def test_a_page_that_says_nothing_gives_nothing(page: bytes) -> None:
    assert read(page, ENGINE) == {}

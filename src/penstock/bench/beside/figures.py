"""What is read of a page of /metrics beside a load: a table, and nothing that acts.

Each figure has the names that engines give it, newest first. A name that is made of several stands for their sum.
Names were read off vLLM 0.32 (and the older ones off its release notes), llama.cpp's server of November 2026, SGLang's
and the DCGM exporter's documentation, and Penstock's own gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from penstock.wire.exposition import COUNT_MAX, KV_USAGE, RUNNING, WAITING, bounded, values_of

# A fleet that makes a million tokens a second passes this in thirty years.
TOTAL_MAX = 1e15

Together = Callable[[Iterable[float]], float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a page.

    Args:
        name: as the report calls it, its unit last.
        names: the names that pages give it, the best first; those within one of them are added up.
        counter: it only grows, and its growth is what tells; else it is a level.
        most: a larger value is no value.
        together: makes one number of several samples, and of several engines.
        in_page: makes one number of a page's samples, where that is done in another way; None is `together`.
    """

    name: str
    names: tuple[tuple[bytes, ...], ...]
    counter: bool = False
    most: float = COUNT_MAX
    together: Together = sum
    in_page: Together | None = None

    def value(self, body: bytes) -> float | None:
        """Its value in a page; None where the page has it not."""
        for added in self.names:
            values = [values_of(body, (name,), self.most) for name in added]
            if all(values):
                return sum((self.in_page or self.together)(each) for each in values)
        return None


def _level(name: str, *names: bytes, most: float = COUNT_MAX, together: Together = sum) -> Figure:
    return Figure(name, tuple((each,) for each in names), most=most, together=together)


def _counter(name: str, *names: bytes | tuple[bytes, ...]) -> Figure:
    each = tuple((name,) if isinstance(name, bytes) else name for name in names)
    return Figure(name, each, counter=True, most=TOTAL_MAX)


ENGINE = (
    _level("running", *RUNNING),
    _level("waiting", *WAITING),
    # llama.cpp had the last one until the middle of 2025.
    _level("kv_usage", *KV_USAGE, b"llamacpp:kv_cache_usage_ratio", most=1.0, together=max),
    _counter(
        "preemptions",
        b"vllm:num_preemptions_total",
        b"sglang:num_retracted_requests_total",
        b"sglang:num_retracted_reqs_total",
    ),
    # Of vLLM the second one is the name until 0.10. SGLang's and llama.cpp's queries are their prompts: theirs
    # counts the cached part, llama.cpp's does not.
    _counter(
        "prefix_query_tokens",
        b"vllm:prefix_cache_queries_total",
        b"vllm:gpu_prefix_cache_queries_total",
        b"sglang:prompt_tokens_total",
        (b"llamacpp:prompt_tokens_total", b"llamacpp:prompt_tokens_cached_total"),
    ),
    _counter(
        "prefix_hit_tokens",
        b"vllm:prefix_cache_hits_total",
        b"vllm:gpu_prefix_cache_hits_total",
        b"sglang:cached_tokens_total",
        b"llamacpp:prompt_tokens_cached_total",
    ),
    _counter(
        "prompt_tokens",
        b"vllm:prompt_tokens_total",
        b"sglang:prompt_tokens_total",
        b"llamacpp:prompt_tokens_total",
    ),
    _counter(
        "generation_tokens",
        b"vllm:generation_tokens_total",
        b"sglang:generation_tokens_total",
        b"llamacpp:tokens_predicted_total",
    ),
)

GATEWAY = (
    _level("gateway_in_progress", b"penstock_requests_in_progress"),
    _level("gateway_waiting", b"penstock_queue_length"),
    _level("gateway_permits_out", b"penstock_permits_out"),
    _level("gateway_memory_bytes", b"process_resident_memory_bytes", most=TOTAL_MAX),
    _counter("gateway_cpu_seconds", b"process_cpu_seconds_total"),
    _counter("gateway_retries", b"penstock_retries_total"),
    _counter("gateway_continuations", b"penstock_continuations_total"),
)


def _count(values: Iterable[float]) -> float:
    return sum(1 for _ in values)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


# The exporter's own units, which its names do not tell: percent, MiB, watts, degrees, MHz and millijoules.
GPU = (
    Figure("gpus", ((b"DCGM_FI_DEV_GPU_TEMP",),), in_page=_count),
    _level("gpu_utilization_percent", b"DCGM_FI_DEV_GPU_UTIL", most=100.0, together=_mean),
    _level("gpu_memory_utilization_percent", b"DCGM_FI_DEV_MEM_COPY_UTIL", most=100.0, together=_mean),
    _level("gpu_memory_used_mib", b"DCGM_FI_DEV_FB_USED"),
    _level("gpu_power_w", b"DCGM_FI_DEV_POWER_USAGE"),
    _level("gpu_temperature_c", b"DCGM_FI_DEV_GPU_TEMP", together=max),
    _level("gpu_sm_clock_mhz", b"DCGM_FI_DEV_SM_CLOCK", together=_mean),
    _level("gpu_memory_clock_mhz", b"DCGM_FI_DEV_MEM_CLOCK", together=_mean),
    _counter("gpu_energy_mj", b"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"),
)

BY_NAME = {figure.name: figure for figure in (*ENGINE, *GATEWAY, *GPU)}


def read(body: bytes, figures: Iterable[Figure]) -> dict[str, float]:
    """What a page says of `figures`; what it does not say is missing."""
    body = bounded(body)
    values = {figure.name: figure.value(body) for figure in figures}
    return {name: value for name, value in values.items() if value is not None}

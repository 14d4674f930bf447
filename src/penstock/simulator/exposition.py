"""Metrics of the simulated engine, under vLLM's names, in the Prometheus text format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from penstock.simulator.engine_model import EngineModel

# Boundaries are vLLM 0.32's own, so that dashboards and rules read both engines alike.
_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_BETWEEN_TOKENS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
)  # fmt: skip
_STEP_TOKENS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
_REQUEST_TOKENS = (
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0,
    100000.0,
)  # fmt: skip
_FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """Counts of values up to each boundary.

    Args:
        help_text: what is counted.
        bounds: upper boundaries, ascending.
    """

    __slots__ = ("bounds", "counts", "help_text", "total")

    def __init__(self, help_text: str, bounds: Sequence[float]) -> None:
        self.help_text = help_text
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts `value`, `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Its samples."""
        running = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            running += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {float(running)}'
        yield f"{name}_count{{{labels}}} {float(running)}"
        yield f"{name}_sum{{{labels}}} {self.total}"


@dataclass(frozen=True, slots=True)
class Gauges:
    """What the engine tells of its load with each step; it stays what it was while no step is made."""

    running: int
    waiting: int
    kv_usage: float

    @classmethod
    def of(cls, model: EngineModel) -> Gauges:
        """Those of now."""
        return cls(model.running, model.waiting, model.kv_usage)


class Metrics:
    """What the engine counts beside its model."""

    __slots__ = ("finished", "generation_tokens", "histograms", "prompt_tokens", "rejections")

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.rejections = 0
        self.finished = dict.fromkeys(_FINISHED_REASONS, 0)
        self.histograms: Mapping[str, Histogram] = {
            "vllm:iteration_tokens_total": Histogram("Tokens per engine step.", _STEP_TOKENS),
            "vllm:time_to_first_token_seconds": Histogram("Time to first token in seconds.", _FIRST_TOKEN_S),
            "vllm:inter_token_latency_seconds": Histogram(
                "Inter-token latency in seconds.", _BETWEEN_TOKENS_S
            ),
            "vllm:request_time_per_output_token_seconds": Histogram(
                "Mean time per output token of a request in seconds.", _BETWEEN_TOKENS_S
            ),
            "vllm:e2e_request_latency_seconds": Histogram(
                "End-to-end request latency in seconds.", _REQUEST_S
            ),
            "vllm:request_prompt_tokens": Histogram("Prompt tokens of a request.", _REQUEST_TOKENS),
            "vllm:request_generation_tokens": Histogram("Generated tokens of a request.", _REQUEST_TOKENS),
        }

    def request_ended(
        self, reason: str, prompt_tokens: int, tokens: int, e2e_s: float, decode_s: float
    ) -> None:
        """Counts one request.

        Args:
            reason: stop, length, abort or error.
            prompt_tokens: of its prompt.
            tokens: it generated.
            e2e_s: from its arrival to its end.
            decode_s: from its first token to its last.
        """
        self.finished[reason] += 1
        seen = self.histograms
        seen["vllm:e2e_request_latency_seconds"].observe(e2e_s)
        seen["vllm:request_prompt_tokens"].observe(prompt_tokens)
        seen["vllm:request_generation_tokens"].observe(tokens)
        if tokens > 1:
            seen["vllm:request_time_per_output_token_seconds"].observe(decode_s / (tokens - 1))

    def render(self, model: EngineModel, gauges: Gauges, model_name: str) -> bytes:
        """The body of /metrics."""
        escaped = model_name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        labels = f'engine="0",model_name="{escaped}"'
        return "\n".join((*self._lines(model, gauges, labels), "")).encode()

    def _lines(self, model: EngineModel, gauges: Gauges, labels: str) -> Iterator[str]:
        running, waiting = "Requests in the running batch.", "Requests waiting to be processed."
        yield from _single("vllm:num_requests_running", "gauge", running, labels, gauges.running)
        yield from _single("vllm:num_requests_waiting", "gauge", waiting, labels, gauges.waiting)
        name = "vllm:num_requests_waiting_by_reason"
        yield from (f"# HELP {name} Waiting requests by reason.", f"# TYPE {name} gauge")
        yield f'{name}{{{labels},reason="capacity"}} {float(gauges.waiting)}'
        yield f'{name}{{{labels},reason="deferred"}} 0.0'
        kv = "KV cache usage. 1 means 100 percent usage."
        yield from _single("vllm:kv_cache_usage_perc", "gauge", kv, labels, gauges.kv_usage)
        for counter, text, value in (
            ("vllm:prefix_cache_queries_total", "Prefix cache queries, in tokens.", model.prefix_queries),
            ("vllm:prefix_cache_hits_total", "Prefix cache hits, in tokens.", model.prefix_hits),
            ("vllm:num_preemptions_total", "Preemptions.", model.preemptions),
            ("vllm:prompt_tokens_total", "Prefill tokens processed.", self.prompt_tokens),
            ("vllm:generation_tokens_total", "Generation tokens processed.", self.generation_tokens),
        ):
            yield from _single(counter, "counter", text, labels, value)
        name = "vllm:admission_rejections_total"
        yield from (f"# HELP {name} Requests rejected at admission.", f"# TYPE {name} counter")
        yield f'{name}{{{labels},reason="max_num_queued_reqs"}} {float(self.rejections)}'
        name = "vllm:request_success_total"
        yield from (f"# HELP {name} Processed requests by reason of their end.", f"# TYPE {name} counter")
        for reason, count in self.finished.items():
            yield f'{name}{{{labels},finished_reason="{reason}"}} {float(count)}'
        for name, histogram in self.histograms.items():
            yield from (f"# HELP {name} {histogram.help_text}", f"# TYPE {name} histogram")
            yield from histogram.lines(name, labels)


def _single(name: str, kind: str, text: str, labels: str, value: float) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    yield f"{name}{{{labels}}} {float(value)}"

"""What engines say of themselves on their pages of /metrics, in one vocabulary: a table, and nothing that acts.

Each figure has the names that engines give it, newest first. A name that is made of several stands for their sum.
Names were read off vLLM 0.32 (and the older ones off its release notes), llama.cpp's server of November 2026, and
SGLang's documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from penstock.wire.exposition import COUNT_MAX, KV_USAGE, RUNNING, WAITING, bounded, values_of

# A fleet that makes a million tokens a second passes this in thirty years.
TOTAL_MAX = 1e15

# llama.cpp had it until the middle of 2025.
OLD_KV_USAGE = (b"llamacpp:kv_cache_usage_ratio",)

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


def level(name: str, *names: bytes, most: float = COUNT_MAX, together: Together = sum) -> Figure:
    """A number that goes up and down."""
    return Figure(name, tuple((each,) for each in names), most=most, together=together)


def counter(name: str, *names: bytes | tuple[bytes, ...]) -> Figure:
    """A number that only grows."""
    each = tuple((name,) if isinstance(name, bytes) else name for name in names)
    return Figure(name, each, counter=True, most=TOTAL_MAX)


ENGINE = (
    level("running", *RUNNING),
    level("waiting", *WAITING),
    level("kv_usage", *KV_USAGE, *OLD_KV_USAGE, most=1.0, together=max),
    counter(
        "preemptions",
        b"vllm:num_preemptions_total",
        b"sglang:num_retracted_requests_total",
        b"sglang:num_retracted_reqs_total",
    ),
    # Of vLLM the second one is the name until 0.10. SGLang's and llama.cpp's queries are their prompts: theirs
    # counts the cached part, llama.cpp's does not.
    counter(
        "prefix_query_tokens",
        b"vllm:prefix_cache_queries_total",
        b"vllm:gpu_prefix_cache_queries_total",
        b"sglang:prompt_tokens_total",
        (b"llamacpp:prompt_tokens_total", b"llamacpp:prompt_tokens_cached_total"),
    ),
    counter(
        "prefix_hit_tokens",
        b"vllm:prefix_cache_hits_total",
        b"vllm:gpu_prefix_cache_hits_total",
        b"sglang:cached_tokens_total",
        b"llamacpp:prompt_tokens_cached_total",
    ),
    counter(
        "prompt_tokens",
        b"vllm:prompt_tokens_total",
        b"sglang:prompt_tokens_total",
        b"llamacpp:prompt_tokens_total",
    ),
    counter(
        "generation_tokens",
        b"vllm:generation_tokens_total",
        b"sglang:generation_tokens_total",
        b"llamacpp:tokens_predicted_total",
    ),
)


def read(body: bytes, figures: Iterable[Figure]) -> dict[str, float]:
    """What a page says of `figures`; what it does not say is missing."""
    body = bounded(body)
    values = {figure.name: figure.value(body) for figure in figures}
    return {name: value for name, value in values.items() if value is not None}

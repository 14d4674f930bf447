"""What engines say of themselves, in one vocabulary: `llm_*` for each replica, whatever its engine calls it.

Each page is asked for once in an interval, by the one HTTP client, with a limit on its time; more than a MiB of it
is not looked at. A page that can't be read is an error of that replica alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from penstock.core.address import Address
from penstock.core.errors import DeadlineError, PenstockError
from penstock.engines.client import ConnectRefusedError, EngineClient
from penstock.engines.spec import EngineSpec
from penstock.telemetry.families import Families, Family, Kind
from penstock.wire.engine_figures import ENGINE, OLD_KV_USAGE, Figure, counter, level, read
from penstock.wire.exposition import LoadNames

SOURCE = "engines"
LABELS = ("replica", "model", "engine")
TIMEOUT_S_MAX = 2.0
TOGETHER_MAX = 16
"""Pages that are asked for at once."""
FIGURES_MAX = 256
"""Ways of naming them that are kept: one for each model whose owner has names of their own."""
REPLICAS_MAX = 1024
"""Replicas with series of their own; who has more asks several exporters."""


class Failure(StrEnum):
    """Why a page could not be read."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    STATUS = "status"
    UNREADABLE = "unreadable"
    UNKNOWN = "unknown_metrics"


@dataclass(frozen=True, slots=True)
class Target:
    """A replica whose page is read.

    Args:
        spec: the facts of its engine: where its page is, and what its owner says of it.
        api_key: what it asks for; empty where it asks for nothing.
    """

    replica: str
    model: str
    spec: EngineSpec
    address: Address
    api_key: str = field(repr=False, default="")


@dataclass(frozen=True, slots=True)
class Page:
    """What a replica's page said, or why it said nothing."""

    target: Target
    values: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    detail: str = ""


def _metric(name: str, kind: Kind, text: str) -> Family:
    return Family(f"llm_{name}", kind, text, LABELS)


FINISHED = counter("finished", b"vllm:request_success_total", b"sglang:num_requests_total")
# What vLLM alone tells of where the time of its requests went; by its count of them, which FINISHED is, they are means.
PHASES = tuple(
    counter(f"{phase}_seconds", f"vllm:{of}_seconds_sum".encode())
    for phase, of in (
        ("queue", "request_queue_time"),
        ("prefill", "request_prefill_time"),
        ("decode", "request_decode_time"),
        ("e2e", "e2e_request_latency"),
    )
)


@lru_cache(maxsize=FIGURES_MAX)
def figures(load: LoadNames, steps: tuple[bytes, ...]) -> tuple[Figure, ...]:
    """What is read of a page that calls its load and its steps so."""
    own = (
        level("running", *load.running),
        level("waiting", *load.waiting),
        level("kv_usage", *load.kv_usage, *OLD_KV_USAGE, most=1.0, together=max),
        counter("steps", *steps),
    )
    named = {figure.name for figure in own}
    return (*own, *(figure for figure in ENGINE if figure.name not in named), FINISHED, *PHASES)


UP = _metric("up", "gauge", "1 where the page of the engine could be read.")
OF_FIGURE = {
    "running": _metric("requests_running", "gauge", "Requests in the engine's batch."),
    "waiting": _metric("requests_waiting", "gauge", "Requests in the engine's own line."),
    "kv_usage": _metric("kv_cache_usage_ratio", "gauge", "Used part of the KV cache."),
    "preemptions": _metric("preemptions_total", "counter", "Requests that had to make room in the KV cache."),
    "prefix_query_tokens": _metric(
        "prefix_cache_query_tokens_total", "counter", "Prompt tokens looked for in the prefix cache."
    ),
    "prefix_hit_tokens": _metric(
        "prefix_cache_hit_tokens_total", "counter", "Prompt tokens found in the prefix cache."
    ),
    "prompt_tokens": _metric("prompt_tokens_total", "counter", "Prompt tokens."),
    "generation_tokens": _metric("generation_tokens_total", "counter", "Generated tokens."),
    "steps": _metric("engine_steps_total", "counter", "Steps of the engine: it lives as long as they grow."),
    "finished": _metric("requests_finished_total", "counter", "Requests that have ended, however they did."),
    "queue_seconds": _metric("queue_seconds_total", "counter", "Time of its requests in its own line."),
    "prefill_seconds": _metric("prefill_seconds_total", "counter", "Time in which their prompts were read."),
    "decode_seconds": _metric("decode_seconds_total", "counter", "Time in which their answers were made."),
    "e2e_seconds": _metric("e2e_seconds_total", "counter", "Time from their arrival to their end."),
}
METRICS = (UP, *OF_FIGURE.values())


class Engines:
    """The pages of all replicas.

    Args:
        targets: the replicas of now.
        client: opens the connections, and stays open.
        timeout_s: for one page.
        now_s: a clock.
    """

    def __init__(
        self,
        targets: Callable[[], Iterable[Target]],
        client: EngineClient,
        timeout_s: float = TIMEOUT_S_MAX,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reads = 0
        self.took_s = 0.0
        self.pages: Sequence[Page] = ()
        self._targets = targets
        self._client = client
        self._timeout_s = min(timeout_s, TIMEOUT_S_MAX)
        self._now_s = now_s

    async def read(self) -> None:
        """Reads every page."""
        begun_s = self._now_s()
        turn = asyncio.Semaphore(TOGETHER_MAX)

        async def one(target: Target) -> Page:
            async with turn:
                return await self._page(target)

        targets = list(self._targets())[:REPLICAS_MAX]
        self.pages = await asyncio.gather(*map(one, targets))
        self.reads += 1
        self.took_s = self._now_s() - begun_s

    async def _page(self, target: Target) -> Page:
        headers = [(b"authorization", b"Bearer " + target.api_key.encode())] if target.api_key else []
        try:
            reply = await self._client.fetch(
                target.address,
                b"GET",
                target.spec.metrics_path.encode(),
                headers=headers,
                timeout_s=self._timeout_s,
            )
        except DeadlineError:
            return Page(target, failure=Failure.TIMEOUT, detail=f"no answer within {self._timeout_s:g} s")
        except ConnectRefusedError as error:
            return Page(target, failure=Failure.UNREACHABLE, detail=error.message)
        except PenstockError as error:
            return Page(target, failure=Failure.UNREADABLE, detail=error.message)
        if reply.status != 200:
            return Page(target, failure=Failure.STATUS, detail=f"answered {reply.status}")
        values = read(reply.body, figures(target.spec.load, target.spec.steps))
        if not values:
            return Page(
                target, failure=Failure.UNKNOWN, detail="has no metric of an engine that is known here"
            )
        return Page(target, values)


def engine_families(families: Families, pages: Iterable[Page]) -> None:
    """Adds what the pages said."""
    for page in pages:
        labels = (page.target.replica, page.target.model, page.target.spec.kind)
        families.add(UP, page.failure is None, *labels)
        for name, value in page.values.items():
            families.add(OF_FIGURE[name], value, *labels)

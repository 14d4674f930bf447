"""The engines of `m`, which the gateway has two of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.alerts.drill import BURNS, LOAD, TROUBLE, Drill, Lane
from tests.alerts.stack import PAIR, QUEUE_LEN_MAX, Stack
from tests.alerts.traffic import traffic
from tests.e2e.processes import wait_until


@contextmanager
def frozen(stack: Stack) -> Iterator[None]:
    """Both engines stop in their midst; their health checks go on."""
    running = "vllm:num_requests_running"
    # of two lengths, so that some are under way when others begin, which is when an engine freezes
    long, short = ({"ignore_eos": True, "max_tokens": tokens} for tokens in (600, 60))
    with traffic(stack.gateway, 4, **long), traffic(stack.gateway, 2, **short):
        wait_until(
            lambda: all(stack.shown(number, running) >= 2 for number in PAIR), "answers to be under way"
        )
        for number in PAIR:
            stack.engines[number].script("freeze=60s")
        yield
    stack.change_engines(*PAIR)


@contextmanager
def line_filled(stack: Stack) -> Iterator[None]:
    """Far more clients than permits, with long answers."""
    with traffic(stack.gateway, QUEUE_LEN_MAX + 24, pause_s=0.05, max_tokens=120):
        yield


@contextmanager
def failing(stack: Stack) -> Iterator[None]:
    """One engine answers 500 to half of its requests; the other drops a third of its answers in their midst."""
    for number, fault in zip(PAIR, ("status=500:0.5", "reset_after_tokens=3:0.3"), strict=True):
        stack.change_engines(number, options=("--fault-rate", fault))
    with traffic(stack.gateway, 6, pause_s=0.05):
        yield
    stack.change_engines(*PAIR)


@contextmanager
def answers_cut(stack: Stack) -> Iterator[None]:
    """Answers that can't be continued are cut."""
    for number in PAIR:
        stack.engines[number].script("reset_after_tokens=2", 100_000)
    with traffic(stack.gateway, 3, logprobs=1):
        yield
    stack.change_engines(*PAIR)


@contextmanager
def cache_filled(stack: Stack) -> Iterator[None]:
    """Long prompts, more than the KV cache of an engine holds, sent past the gateway."""
    stack.change_engines(*PAIR, options=("--no-prefix-cache",))  # the prompts are alike
    with ExitStack() as over:
        for number in PAIR:
            long = traffic(stack.engines[number], 40, pause_s=0.0, prompt="word " * 200, max_tokens=500)
            over.enter_context(long)
        over.enter_context(traffic(stack.gateway, 2))
        yield
    stack.change_engines(*PAIR)


@contextmanager
def cache_almost_filled(stack: Stack) -> Iterator[None]:
    """Four sequences at a time that fill an engine's 64 blocks to the last few, for sixteen seconds each."""
    slow = ("--no-prefix-cache", "--base-step-s", "1", "--answer-tokens-mean", "0")
    prompt = " ".join(["word"] * 236)
    stack.change_engines(0, options=slow)
    with traffic(stack.engines[0], 6, pause_s=0.0, prompt=prompt, max_tokens=18):
        yield
    stack.change_engines(0)


@contextmanager
def killed(stack: Stack) -> Iterator[None]:
    """Both engines are killed while they answer."""
    with traffic(stack.gateway):
        for number in PAIR:
            stack.stop_engine(number)
        yield
        for number in PAIR:
            stack.start_engine(number)


ENGINES: Lane = (
    Drill("both engines frozen", frozen, ("EngineStalled", "StreamsStalled"), (*TROUBLE, *LOAD)),
    Drill(
        "the line filled",
        line_filled,
        ("QueueBacklog", "QueueNearlyFull", "QueueRejections"),
        (*BURNS, *LOAD, "GatewayErrorsHigh"),
    ),
    Drill(
        "engines that fail now and then",
        failing,
        ("RetriesHigh", "ContinuationsHigh", "CircuitOpen"),
        (*TROUBLE, *LOAD),
    ),
    Drill(
        "answers cut in their midst",
        answers_cut,
        ("AnswersInterrupted", "GatewayErrorsHigh"),
        (*TROUBLE, *LOAD),
    ),
    Drill(
        "more prompts than the KV cache holds",
        cache_filled,
        ("EngineQueueBacklog", "PreemptionStorm"),
        (*TROUBLE, *LOAD),
    ),
    Drill(
        "a KV cache that is almost full",
        cache_almost_filled,
        ("KvCacheHigh", "KvCacheFull"),
        (*TROUBLE, *LOAD),
    ),
    Drill(
        "both engines killed amid answers",
        killed,
        ("NoReplicaReady", "EngineMissing", "ReplicaNotReady"),
        (*TROUBLE, *LOAD),
    ),
)

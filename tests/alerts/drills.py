"""What is broken on purpose, and the alerts that must come of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from tests.alerts.stack import QUEUE_LEN_MAX, TARGETS, Stack, restart_exporter, restart_gateway
from tests.alerts.traffic import traffic
from tests.e2e.processes import wait_until

Broken = AbstractContextManager[None]


@dataclass(frozen=True)
class Drill:
    """One of them.

    Args:
        breaks: breaks it, and mends it when it is left.
        alerts: those that must fire.
        may: those that may fire beside them.
    """

    name: str
    breaks: Callable[[Stack], Broken]
    alerts: tuple[str, ...]
    may: tuple[str, ...] = ()


# What may come along with almost any trouble of engines.
BURNS = tuple(
    f"{name}Burn{speed}"
    for name in ("Availability", "Ttft", "Tpot", "E2e", "Goodput")
    for speed in ("Fast", "Slow")
)

TROUBLE = (
    *BURNS,
    *("GatewayErrorsHigh", "RetriesHigh", "CircuitOpen", "AnswersInterrupted", "ContinuationsHigh"),
    *("NoReplicaReady", "ReplicaNotReady", "EngineMissing", "EngineTargetDown", "GatewayLoopSlow"),
)
LOAD = (
    "QueueBacklog",
    "QueueRejections",
    "KvCacheHigh",
    "KvCacheFull",
    "PreemptionStorm",
    "EngineQueueBacklog",
)


@contextmanager
def engines_killed(stack: Stack) -> Iterator[None]:
    """Both engines are killed while they answer."""
    with traffic(stack.gateway):
        for number in range(2):
            stack.stop_engine(number)
        yield
        for number in range(2):
            stack.start_engine(number)


@contextmanager
def engines_frozen(stack: Stack) -> Iterator[None]:
    """Both engines stop in their midst; their health checks go on."""
    # of two lengths, so that some are under way when others begin
    with traffic(stack.gateway, 2, max_tokens=400), traffic(stack.gateway, 2, max_tokens=60):
        for engine in stack.engines:
            engine.script("freeze=40s")
        yield
    for number in range(2):
        stack.stop_engine(number)
        stack.start_engine(number)


@contextmanager
def line_filled(stack: Stack) -> Iterator[None]:
    """Far more clients than permits, with long answers."""
    with traffic(stack.gateway, QUEUE_LEN_MAX + 24, pause_s=0.05, max_tokens=120):
        yield


@contextmanager
def engines_failing(stack: Stack) -> Iterator[None]:
    """One engine answers 500 to half of its requests; the other drops a third of its answers in their midst."""
    for number, fault in enumerate(("status=500:0.5", "reset_after_tokens=3:0.3")):
        stack.stop_engine(number)
        stack.start_engine(number, "--fault-rate", fault)
    with traffic(stack.gateway, 6, pause_s=0.05):
        yield
    for number in range(2):
        stack.stop_engine(number)
        stack.start_engine(number)


@contextmanager
def answers_cut(stack: Stack) -> Iterator[None]:
    """Answers that can't be continued are cut."""
    for engine in stack.engines:
        engine.script("reset_after_tokens=2", 100_000)
    with traffic(stack.gateway, 3, logprobs=1):
        yield
    for number in range(2):
        stack.stop_engine(number)
        stack.start_engine(number)


@contextmanager
def decoding_slow(stack: Stack) -> Iterator[None]:
    """Engines take a tenth of a second for each token."""
    for number in range(2):
        stack.stop_engine(number)
        stack.start_engine(number, "--base-step-s", "0.1")
    with traffic(stack.gateway, 3):
        yield
    for number in range(2):
        stack.stop_engine(number)
        stack.start_engine(number)


@contextmanager
def cache_filled(stack: Stack) -> Iterator[None]:
    """Long prompts, more than the KV cache of an engine holds, sent past the gateway."""
    for number in range(2):
        stack.stop_engine(number)
        stack.start_engine(number, "--no-prefix-cache")  # the prompts are alike
    with ExitStack() as over:
        for engine in stack.engines:
            over.enter_context(traffic(engine, 40, pause_s=0.0, prompt="word " * 200, max_tokens=500))
        over.enter_context(traffic(stack.gateway, 2))
        yield
    for number in range(2):
        stack.stop_engine(number)
        stack.start_engine(number)


@contextmanager
def cache_almost_filled(stack: Stack) -> Iterator[None]:
    """Four sequences at a time that fill an engine's 64 blocks to the last few, for sixteen seconds each."""
    slow = ("--no-prefix-cache", "--base-step-s", "1", "--answer-tokens-mean", "0")
    prompt = " ".join(["word"] * 236)
    stack.stop_engine(0)
    stack.start_engine(0, *slow)
    with traffic(stack.engines[0], 6, pause_s=0.0, prompt=prompt, max_tokens=18):
        yield
    stack.stop_engine(0)
    stack.start_engine(0)


@contextmanager
def limits_hit(stack: Stack) -> Iterator[None]:
    """Tenants without money and with one request a minute go on asking; others try keys."""
    with ExitStack() as over:
        for tenant in ("poor", "few"):
            secret = json.loads(
                stack.gateway.penstock("keys", "create", "--tenant", tenant, "--json").stdout
            )["secret"]
            over.enter_context(
                traffic(stack.gateway, 2, pause_s=0.1, headers={"Authorization": f"Bearer {secret}"})
            )
        over.enter_context(
            traffic(stack.gateway, 2, pause_s=0.1, headers={"Authorization": "Bearer sk-none"})
        )
        yield


@contextmanager
def configuration_spoilt(stack: Stack) -> Iterator[None]:
    """The file has a mistake, and is to be followed."""
    path = stack.folder / "penstock.toml"
    good = path.read_text()
    path.write_text("[gateway]\nnonsense = 1\n")
    stack.gateway.process.send_signal(signal.SIGHUP)
    yield
    path.write_text(good)
    stack.gateway.process.send_signal(signal.SIGHUP)


@contextmanager
def journal_blocked(stack: Stack) -> Iterator[None]:
    """The journal's files are gone, and its folder is a file."""
    journal = stack.gateway.home / "journal"
    with traffic(stack.gateway, 1):
        shutil.rmtree(journal)
        journal.write_text("")
        yield
        journal.unlink()


@contextmanager
def gateway_killed(stack: Stack) -> Iterator[None]:
    """The gateway is killed."""
    stack.gateway.process.kill()
    stack.gateway.process.wait()
    yield
    restart_gateway(stack)


@contextmanager
def gateway_restarting(stack: Stack) -> Iterator[None]:
    """It is killed again and again."""
    for _ in range(3):
        stack.gateway.process.kill()
        stack.gateway.process.wait()
        restart_gateway(stack)
        wait_until(lambda: stack.watch.up(TARGETS), "each of them to be scraped")
    yield


@contextmanager
def exporter_killed(stack: Stack) -> Iterator[None]:
    """The exporter is killed."""
    stack.exporter.kill()
    stack.exporter.wait()
    yield
    restart_exporter(stack)


@contextmanager
def gpu_tells(stack: Stack, **changes: object) -> Iterator[None]:
    """The GPU tells something else."""
    stack.gpu.tell(**changes)
    yield
    stack.gpu.tell()


@contextmanager
def gpu_wears_out(stack: Stack) -> Iterator[None]:
    """Errors of memory and links, one after the other; what nobody owns holds memory."""
    stack.gpu.tell(
        ecc_uncorrected=3,
        remapped=(1, 1, 1, 1),
        xids=[79, 31],
        processes={str(os.getpid()): 20 * 2**30},
        fields={
            "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": 1,
            "NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": 5,
        },
    )
    yield
    stack.gpu.tell()


DRILLS = (
    Drill("both engines frozen", engines_frozen, ("EngineStalled", "StreamsStalled"), (*TROUBLE, *LOAD)),
    Drill(
        "the line filled",
        line_filled,
        ("QueueBacklog", "QueueNearlyFull", "QueueRejections", "TtftBurnFast", "E2eBurnFast"),
        (*BURNS, *LOAD, "GatewayErrorsHigh", "GatewayLoopSlow"),
    ),
    Drill(
        "engines that fail now and then",
        engines_failing,
        ("RetriesHigh", "ContinuationsHigh", "CircuitOpen"),
        TROUBLE,
    ),
    Drill("answers cut in their midst", answers_cut, ("AnswersInterrupted", "GatewayErrorsHigh"), TROUBLE),
    Drill("slow tokens", decoding_slow, ("TpotBurnFast",), TROUBLE),
    Drill(
        "more prompts than the KV cache holds",
        cache_filled,
        ("EngineQueueBacklog", "PreemptionStorm"),
        (*TROUBLE, *LOAD, "PrefixCacheCollapse", "StreamsStalled"),
    ),
    Drill(
        "a KV cache that is almost full",
        cache_almost_filled,
        ("KvCacheHigh", "KvCacheFull"),
        (*TROUBLE, *LOAD),
    ),
    Drill(
        "limits and unknown keys",
        limits_hit,
        ("BudgetExhausted", "LimitsHit", "AuthenticationFailures"),
        BURNS,
    ),
    Drill("a configuration with a mistake", configuration_spoilt, ("ConfigReloadFailed",)),
    Drill("a journal that can't be written", journal_blocked, ("JournalFailing",), ("LedgerFailing", *BURNS)),
    Drill("an overheated GPU", partial(gpu_tells, temperature_c=91), ("GpuHot",)),
    Drill(
        "a GPU that wears out",
        gpu_wears_out,
        (
            *("GpuEccUncorrected", "GpuRowRemapFailed", "GpuRowRemapPending", "GpuXidFatal"),
            *("GpuXidApplication", "GpuRecoveryNeeded", "GpuOrphanMemory"),
        ),
        ("GpuNvlinkErrors", "GpuRemapGrowth", "GpuMemoryLow"),
    ),
    Drill(
        "little memory left on a GPU",
        partial(gpu_tells, used_mib=80_500),
        ("GpuMemoryLow",),
        ("GpuOrphanMemory",),
    ),
    Drill("a GPU that fell off its bus", partial(gpu_tells, lost=True), ("GpuLost",), ("GpuRecoveryNeeded",)),
    Drill(
        "both engines killed amid answers",
        engines_killed,
        (
            *("NoReplicaReady", "AvailabilityBurnFast", "GoodputBurnFast"),
            *("EngineMissing", "ReplicaNotReady"),
        ),
        TROUBLE,
    ),
    Drill("the exporter killed", exporter_killed, ("ExporterDown",)),
    Drill("the gateway killed", gateway_killed, ("GatewayDown",), TROUBLE),
    Drill(
        "a gateway that ends again and again",
        gateway_restarting,
        ("GatewayRestarting",),
        ("GatewayDown", *BURNS),
    ),
)

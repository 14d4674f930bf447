"""The engine of `worn` and `ruined`, and that of `long`; objectives are missed there, where nothing else was served."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from tests.alerts.drill import BURNS, LOAD, TROUBLE, Drill, Lane
from tests.alerts.stack import WORN, Stack
from tests.alerts.traffic import traffic
from tests.e2e.processes import wait_until

DRIPS = {"sim_fault": "trickle=5ms"}  # the first event takes most of a second, and so does each after it
FAILS = {"sim_fault": "status=500"}
# Of seven requests three fail; of the four others two are slow: less than a page is worth, more than a tenth.
PARTLY: tuple[Mapping[str, Any], ...] = ({}, FAILS, DRIPS, FAILS, {}, DRIPS, FAILS)
WORDS = " ".join(["word"] * 300)


@contextmanager
def dripping(stack: Stack) -> Iterator[None]:
    """Each answer comes a byte at a time."""
    with traffic(stack.gateway, 6, model="ruined", **DRIPS):
        yield


@contextmanager
def refusing(stack: Stack) -> Iterator[None]:
    """Each request is answered 500."""
    with traffic(stack.gateway, 3, model="ruined", **FAILS):
        yield


@contextmanager
def partly(stack: Stack) -> Iterator[None]:
    """Some requests fail and some are slow, for a long time."""
    with traffic(stack.gateway, 7, model="worn", each=lambda number: PARTLY[number % len(PARTLY)]):
        yield


@contextmanager
def prompts_changed(stack: Stack) -> Iterator[None]:
    """Prompts that were alike begin with something else each time."""
    engine, count = stack.engines[WORN], itertools.count()

    def fresh(_: int) -> Mapping[str, Any]:
        return {"prompt": f"{next(count)} {WORDS}"}

    with traffic(engine, 2, model="worn", prompt=WORDS):
        hits = partial(stack.shown, WORN, "vllm:prefix_cache_hits_total")
        wait_until(lambda: hits() > 100 * len(WORDS.split()), "prompts to be found in the cache")
    with traffic(engine, 2, model="worn", each=fresh):
        yield


@contextmanager
def crowded(stack: Stack) -> Iterator[None]:
    """Others use the engine too, which lets one wait and no more."""
    stack.change_engines(WORN, options=("--max-num-seqs", "1", "--max-num-waiting", "1"))
    with traffic(stack.engines[WORN], 6, model="worn", pause_s=0.1, max_tokens=50):
        yield
    stack.change_engines(WORN)


@contextmanager
def stopped(stack: Stack) -> Iterator[None]:
    """The engine's process is stopped whole, as if its machine hung."""
    for model in BOTH:
        wait_until(partial(_serves, stack, model), f"{model} to be served")
    stack.engines[WORN].process.send_signal(signal.SIGSTOP)
    yield
    stack.engines[WORN].process.send_signal(signal.SIGCONT)


def _serves(stack: Stack, model: str) -> bool:
    return stack.gateway.ask("Tell me.", model, max_tokens=1).status == 200


@contextmanager
def long_answers(stack: Stack) -> Iterator[None]:
    """Answers of more than a minute, one after the other."""
    with traffic(stack.gateway, 24, pause_s=0.5, model="long", each=lambda n: {"max_tokens": 62 + n % 24}):
        yield


MORE = (*TROUBLE, *LOAD)
BOTH = ("worn", "ruined")
WORN_OUT: Lane = (
    Drill(
        "answers that drip",
        dripping,
        ("TtftBurnFast", "TpotBurnFast", "E2eBurnFast", "GoodputBurnFast"),
        BURNS,
        models=("ruined",),
    ),
    Drill(
        "an engine that refuses all",
        refusing,
        ("AvailabilityBurnFast",),
        MORE,
        models=("ruined",),
    ),
    Drill(
        "an engine that is worn",
        partly,
        tuple(f"{name}BurnSlow" for name in ("Availability", "Ttft", "Tpot", "E2e", "Goodput")),
        MORE,
        models=("worn",),
    ),
    Drill(
        "prompts that are never alike",
        prompts_changed,
        ("PrefixCacheCollapse",),
        MORE,
        BOTH,
        patience_s=250.0,
    ),
    Drill("an engine that others use too", crowded, ("EngineRejections",), MORE, BOTH),
    Drill("an engine that hangs whole", stopped, ("EngineTargetDown",), MORE, BOTH),
)
LONG_ANSWERS: Lane = (
    Drill(
        "answers of more than a minute",
        long_answers,
        ("GatewayLatencyP99High",),
        LOAD,
        models=("long",),
        patience_s=250.0,
    ),
)

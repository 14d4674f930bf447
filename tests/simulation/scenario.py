"""What is drawn from a seed: clients, tenants, replicas, their settings, and what will go wrong when."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from penstock.policy.breaker import BreakerLimits
from penstock.policy.budget import Cost, Limits
from penstock.policy.fair import SHARE
from penstock.policy.route import STRATEGIES

HORIZON_S = 60.0
REQUESTS = 200
USD_PER_TOKEN = 1e-5
FAULTS = ("die", "stall", "break", "slow", "flaky")
CHANGES = ("concurrency", "drain", "undrain", "remove", "add", "queue", "limits", "weight")


@dataclass(slots=True)
class Tenant:
    """Who sends requests.

    Args:
        rate: its part of all requests.
        tokens_max: the most that one of its requests asks for.
        bad_part: the part of its requests that an engine answers with a 4xx.
        uses_part: the part of what it asks for that its answers take at most.
        begins_part: the part of the time that is over when it begins.
    """

    name: str
    priority: str
    weight: float
    limits: Limits
    rate: float
    tokens_max: int
    bad_part: float
    uses_part: float
    begins_part: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that will come in.

    Args:
        status: what a sound engine answers.
        patience_s: how long its client stays.
    """

    at_s: float
    tenant: int
    prompt_tokens: int
    max_tokens: int
    completion_tokens: int
    status: int
    patience_s: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that will go wrong, or be changed.

    Args:
        which: of the replicas or tenants that there are then.
    """

    at_s: float
    kind: str
    which: int
    duration_s: float
    amount: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that chance decides before a run; what it decides in the run is drawn from `seed` as well."""

    seed: int
    strategy: str
    concurrency: tuple[int, ...]
    tenants: tuple[Tenant, ...]
    queue_len_max: int
    sheds: bool
    retries_max: int
    breaker: BreakerLimits
    slow_start_s: float
    queue_s: float
    first_token_s: float
    stall_s: float
    total_s: float
    arrivals: tuple[Arrival, ...]
    troubles: tuple[Trouble, ...]


def cost_of(tokens: int) -> Cost:
    """What so many tokens cost."""
    return Cost(tokens, tokens * USD_PER_TOKEN)


def draw(seed: int) -> Scenario:
    """The scenario of a seed: one in three is a contest for few permits among tenants of one class."""
    rng = random.Random(seed)
    contest = rng.random() < 0.33
    sizes, replicas = ((1, 1, 2), (1, 1, 2)) if contest else ((1, 1, 2, 3, 6), (1, 2, 2, 3, 4))
    concurrency = tuple(rng.choice(sizes) for _ in range(rng.choice(replicas)))
    tenants = tuple(_tenant(rng, i) for i in range(rng.choice((2, 3, 4) if contest else (1, 2, 3, 4))))
    load = 4.0 if contest else rng.choice((0.4, 0.9, 1.5, 4.0))
    if contest:
        for tenant in tenants:
            tenant.priority, tenant.limits, tenant.tokens_max = "standard", Limits(), 200
    arrivals = _arrivals(rng, tenants, span_s=min(HORIZON_S, 1.2 * REQUESTS / sum(concurrency) / load))
    return Scenario(
        seed=seed,
        strategy=rng.choice(tuple(STRATEGIES)),
        concurrency=concurrency,
        tenants=tenants,
        queue_len_max=1000 if contest else rng.choice((0, 3, 10, 40, 1000)),
        sheds=not contest and rng.random() < 0.7,
        retries_max=rng.choice((0, 1, 2, 3)),
        breaker=BreakerLimits(
            failures_in_row_max=rng.choice((1, 2, 5)),
            requests_min=rng.choice((4, 20)),
            ejection_s=rng.choice((0.5, 5.0)),
            ejected_share_max=rng.choice((0.5, 1.0)),
            probe_patience_s=rng.choice((2.0, 60.0)),
        ),
        slow_start_s=rng.choice((0.0, 5.0)),
        queue_s=600.0 if contest else rng.choice((1.0, 5.0, 30.0)),
        first_token_s=rng.choice((1.0, 5.0)),
        stall_s=rng.choice((0.5, 3.0)),
        total_s=600.0 if contest else rng.choice((10.0, 60.0)),
        arrivals=arrivals,
        troubles=_troubles(rng, arrivals[-1].at_s + 5.0),
    )


def _tenant(rng: random.Random, number: int) -> Tenant:
    limits = Limits()
    if rng.random() < 0.25:
        limits = _limits(rng)
    return Tenant(
        name=f"t{number}",
        priority=rng.choice((*SHARE, "standard", "standard")),
        weight=rng.choice((1.0, 1.0, 1.0, 4.0, 0.5)),
        limits=limits,
        rate=rng.choice((1.0, 1.0, 10.0)),
        tokens_max=rng.choice((20, 200, 200, 2000)),
        bad_part=rng.choice((0.0, 0.0, 0.0, 0.1, 0.9)),
        uses_part=rng.choice((1.0, 1.0, 0.5, 0.05)),
        begins_part=rng.choice((0.0, 0.0, 0.3, 0.6)),
    )


def _limits(rng: random.Random) -> Limits:
    return Limits(
        requests_per_minute=rng.choice((None, 5, 40)),
        tokens_per_minute=rng.choice((None, 3000, 20000)),
        parallel_requests=rng.choice((None, 1, 4)),
        usd_per_day=rng.choice((None, 0.02, 0.1)),
    )


def _arrivals(rng: random.Random, tenants: tuple[Tenant, ...], span_s: float) -> tuple[Arrival, ...]:
    senders = rng.choices(range(len(tenants)), [tenant.rate for tenant in tenants], k=REQUESTS)
    bursty = rng.random() < 0.3
    found = []
    for sender in senders:
        tenant = tenants[sender]
        at_s = (tenant.begins_part + rng.random() * (1.0 - tenant.begins_part)) * span_s
        max_tokens = rng.randint(1, tenant.tokens_max)
        bad = rng.random() < tenant.bad_part
        found.append(
            Arrival(
                at_s=at_s // 5.0 * 5.0 if bursty else at_s,
                tenant=sender,
                prompt_tokens=rng.randint(1, tenant.tokens_max),
                max_tokens=max_tokens,
                completion_tokens=max(
                    1, math.ceil(max_tokens * tenant.uses_part * rng.choice((1.0, rng.random())))
                ),
                status=rng.choice((400, 404, 408, 413, 429)) if bad else 200,
                patience_s=rng.random() * 10.0 if rng.random() < 0.1 else 1e9,
            )
        )
    return tuple(sorted(found, key=lambda arrival: arrival.at_s))


def _troubles(rng: random.Random, span_s: float) -> tuple[Trouble, ...]:
    kinds = [rng.choice(FAULTS) for _ in range(rng.choice((0, 1, 3, 8)))]
    kinds += [rng.choice(CHANGES) for _ in range(rng.choice((0, 0, 2, 6)))]
    return tuple(
        Trouble(rng.random() * span_s, kind, rng.randrange(1000), rng.choice((0.5, 5.0, 20.0)), rng.random())
        for kind in kinds
    )

"""Everything that one look at the gateway shows: fleet, lines, limits; of this worker, and of all together."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from penstock import __version__
from penstock.gateway.lines import Lines
from penstock.gateway.replicas import Replicas
from penstock.gateway.settings import Settings
from penstock.policy.budget import LIMIT_NAMES, Subject
from penstock.policy.fleet import State
from penstock.store.keys import KeyRing
from penstock.store.limits import LimitStore

# Keys shown, those in use first; each costs a look at the limits.
KEYS_SHOWN_MAX = 1000


class Overview:
    """Looks at the parts of one gateway.

    Args:
        in_progress: requests under way.
        draining: whether the gateway is stopping.
        others: what `own` is of the other workers of this gateway.
    """

    def __init__(
        self,
        settings: Settings,
        replicas: Replicas,
        lines: Lines,
        limits: LimitStore,
        keys: KeyRing,
        *,
        in_progress: Callable[[], int],
        draining: Callable[[], bool],
        others: Callable[[], Awaitable[Sequence[dict[str, Any]]]],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._replicas = replicas
        self._lines = lines
        self._limits = limits
        self._keys = keys
        self._in_progress = in_progress
        self._draining = draining
        self._others = others
        self._clock = clock

    def own(self) -> dict[str, Any]:
        """What this worker knows."""
        return {
            "version": __version__,
            "generation": self._settings.generation,
            "workers": 1,
            "draining": self._draining(),
            "in_progress": self._in_progress(),
            "replicas": self._of_replicas(),
            "queues": {
                name: dataclasses.asdict(line.snapshot()) for name, line in self._lines.by_model.items()
            },
        }

    async def all(self) -> dict[str, Any]:
        """What all workers of this gateway know together, and how everybody stands with their limits."""
        return {**merged([self.own(), *(await self._others())]), "limits": await self.limits()}

    async def limits(self) -> list[dict[str, Any]]:
        """How each tenant and each key stands."""
        callers = self._settings.tenants
        keys = self._keys.valid()[:KEYS_SHOWN_MAX]
        subjects = [
            *(callers.subject(name) for name in callers.by_name),
            *(Subject(f"key:{key.counted_as}", key.limits) for key in keys),
        ]
        unique = list({subject.id: subject for subject in subjects}.values())
        return [
            {
                "limits": {name: getattr(subject.limits, name) for name in LIMIT_NAMES},
                **dataclasses.asdict(balance),
            }
            for subject, balance in zip(unique, await self._limits.usage(unique), strict=True)
        ]

    def _of_replicas(self) -> list[dict[str, Any]]:
        now_s = self._clock()
        return [
            {
                "name": replica.name,
                "model": replica.model,
                "engine": replica.engine,
                "address": str(replica.address),
                "state": replica.state,
                "cause": replica.cause,
                "evidence": replica.evidence,
                "since_s": round(max(0.0, now_s - replica.since_s), 1),
                "in_flight": self._replicas.in_flight.get(replica.name, 0),
                "ready_at": int(replica in self._replicas.fleet.ready(replica.model)),
                "concurrency": self._lines.permits_of(replica.name),
            }
            for replica in self._replicas.fleet.replicas
        ]


def merged(views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One view of several workers: the first one's words, everybody's numbers."""
    first = views[0]
    return {
        **first,
        "workers": len(views),
        "draining": any(view["draining"] for view in views),
        "in_progress": sum(view["in_progress"] for view in views),
        "replicas": [
            {
                **_stalled(one["name"], views, one),
                **{key: _sum_of(key, one["name"], views) for key in ("in_flight", "ready_at")},
            }
            for one in first["replicas"]
        ],
        "queues": {
            model: _together([view["queues"][model] for view in views if model in view["queues"]])
            for model in first["queues"]
        },
    }


def _stalled(name: str, views: Sequence[dict[str, Any]], one: dict[str, Any]) -> dict[str, Any]:
    """What a worker knows of this replica that has seen it stall, or else `one`: only requests of its own tell."""
    found = (seen for view in views for seen in view["replicas"] if seen["name"] == name)
    return next((seen for seen in found if seen["state"] == State.STALLED), one)


def _sum_of(key: str, name: str, views: Iterable[dict[str, Any]]) -> int:
    return sum(one[key] for view in views for one in view["replicas"] if one["name"] == name)


def _together(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    waits = [line["predicted_wait_s"] for line in lines if line["predicted_wait_s"] is not None]
    return {
        **{
            key: sum(line[key] for line in lines)
            for key in ("length", "length_max", "permits_out", "capacity")
        },
        **{key: _summed([line[key] for line in lines]) for key in ("by_class", "by_tenant")},
        "predicted_wait_s": max(waits, default=None),
    }


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return total

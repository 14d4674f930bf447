"""Rules for Prometheus as data: what is recorded, and what is alerted on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = r"(\d+)([smhd])"
# Ranges, subqueries and offsets of an expression.
_TIMES = re.compile(rf"(?<=\[){_DURATION}(?=[\]:])|(?<=:){_DURATION}(?=\])|(?<=offset ){_DURATION}")


class Severity(StrEnum):
    """Who is told, and when."""

    PAGE = "page"  # somebody, now: users feel it, or soon will
    TICKET = "ticket"  # somebody, on the next working day
    INFO = "info"  # nobody; it is there for who looks
    NONE = "none"  # it always fires: a dead man's switch


@dataclass(frozen=True, slots=True)
class Record:
    """A recording rule; `name` is `level:metric:operation`."""

    name: str
    expr: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alerting rule.

    Args:
        expr: in PromQL; ranges are in whole s, m, h or d.
        for_s: seconds for which it must hold.
        summary: one line for whoever is woken, a template of Prometheus.
        runbook: its page; by default that of its own name.
    """

    name: str
    expr: str
    for_s: int
    severity: Severity
    summary: str
    runbook: str = ""

    @property
    def page(self) -> str:
        """The name of its runbook's page."""
        return f"{self.runbook or self.name}.md"


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated together, one after the other.

    Args:
        every_s: how often; None for as often as everything else.
    """

    name: str
    rules: tuple[Record | Alert, ...]
    every_s: int | None = None


@dataclass(frozen=True, slots=True)
class Style:
    """How rules are written.

    Args:
        runbooks: what links to runbooks begin with.
        time_scale: all times are multiplied by it; below 1, a drill sees in seconds what takes hours.
    """

    runbooks: str = "docs/runbooks/"
    time_scale: float = 1.0

    def duration(self, seconds: float) -> str:
        """As Prometheus reads it, in the largest unit that holds it whole."""
        milliseconds = max(1, round(seconds * self.time_scale * 1000))
        for unit, size_s in reversed(_UNITS_S.items()):
            if milliseconds % (size_s * 1000) == 0:
                return f"{milliseconds // (size_s * 1000)}{unit}"
        return f"{milliseconds}ms"

    def expr(self, text: str) -> str:
        """The expression with its times scaled."""
        if self.time_scale == 1.0:
            return text

        def scaled(found: re.Match[str]) -> str:
            count, unit = [part for part in found.groups() if part is not None]
            return self.duration(int(count) * _UNITS_S[unit])

        return _TIMES.sub(scaled, text)

    def group(self, group: Group) -> Mapping[str, Any]:
        """The group, as it stands in a file of rules."""
        every = {} if group.every_s is None else {"interval": self.duration(group.every_s)}
        return {"name": group.name, **every, "rules": [self._rule(rule) for rule in group.rules]}

    def _rule(self, rule: Record | Alert) -> Mapping[str, Any]:
        if isinstance(rule, Record):
            return {"record": rule.name, "expr": self.expr(rule.expr)}
        held = {"for": self.duration(rule.for_s)} if rule.for_s else {}
        return {
            "alert": rule.name,
            "expr": self.expr(rule.expr),
            **held,
            "labels": {"severity": rule.severity.value},
            "annotations": {"summary": rule.summary, "runbook_url": f"{self.runbooks}{rule.page}"},
        }

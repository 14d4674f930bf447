"""Alerts that an objective's budget burns: each looks at a long window, so that it matters, and at a short one, so that
it still goes on. Rates and windows are those of Google's SRE workbook, chapter 5, for 30 days.

A page comes at 14.4 times the speed that a month's budget allows (2 % of it in an hour) or at 6 times (5 % in six
hours), a ticket at 3 times or at the plain speed. With few requests one that fails is a large part: so many must have
been bad. A target so low that even a total failure burns no faster is met by all but a total failure.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.core.config_slo import AVAILABILITY, GOODPUT
from penstock.render.rule import Alert, Severity

BAD_REQUESTS_MIN = 5
ERRORS_MAX = 0.99
# How fast, over which long and which short window.
PAGE = ((14.4, "1h", "5m"), (6, "6h", "30m"))
TICKET = ((3, "1d", "2h"), (1, "3d", "6h"))

_WHAT = {
    AVAILABILITY: "requests fail",
    "ttft": "first tokens are late",
    "tpot": "tokens come slowly",
    "e2e": "whole requests take too long",
    GOODPUT: "requests fail or are too slow",
}


def _burns(objective: str, speeds: tuple[tuple[float, str, str], ...]) -> str:
    return "\nor ".join(_burn(objective, *speed) for speed in speeds)


def _burn(objective: str, speed: float, long: str, short: str) -> str:
    its = f'{{objective="{objective}"}}'
    most = f"clamp_max({speed:g} * llm:slo_budget:ratio{its}, {ERRORS_MAX:g})"
    return (
        f"(llm:slo_errors:ratio_rate{long}{its} > {most}\n"
        f"  and llm:slo_errors:ratio_rate{short}{its} > {most}\n"
        f"  and llm:slo_bad:increase{long}{its} >= {BAD_REQUESTS_MIN})"
    )


def _alerts() -> Iterator[Alert]:
    for objective, what in _WHAT.items():
        name = f"{objective.capitalize()}Burn"
        for suffix, severity, speeds in (("Fast", Severity.PAGE, PAGE), ("Slow", Severity.TICKET, TICKET)):
            yield Alert(
                f"{name}{suffix}",
                _burns(objective, speeds),
                0,
                severity,
                f"{{{{ $labels.model }}}}: {what}, {{{{ $value | humanizePercentage }}}} of them; its budget for "
                f"the month burns {'fast' if suffix == 'Fast' else 'steadily'}",
                runbook=name,
            )


OBJECTIVES = tuple(_alerts())

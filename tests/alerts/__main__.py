"""`python -m tests.alerts`: breaks a stack in many ways, and sees that each alert comes, and none while all is well.

Times of rules are a twentieth of what they are (`TIME_SCALE`), scrapes and evaluations come twice a second. Prints a
table of detection times, from the moment something was broken to the webhook (of `info` alerts, to Prometheus); exits
with 1 where an alert did not come, or one came that must not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.render.alerts import ALERTS
from penstock.render.alerts.host import HOST
from penstock.render.rule import Severity
from tests.alerts.drills import DRILLS, Drill
from tests.alerts.stack import TIME_SCALE, Stack, stack
from tests.alerts.traffic import traffic
from tests.alerts.watch import ALWAYS

QUIET_S = 40.0
PATIENCE_S = 100.0
LOOK_EVERY_S = 0.25
TOLD = {alert.name: alert.severity in (Severity.PAGE, Severity.TICKET) for alert in ALERTS}
# The machine is a real one, with others on it.
MACHINE = {alert.name for alert in HOST}
ALERT = {alert.name: alert for alert in ALERTS}


@dataclass(frozen=True)
class Detected:
    """An alert and how long it took; None where it did not come."""

    drill: str
    alert: str
    after_s: float | None


def main() -> int:
    """The exit code."""
    options = _options()
    wrong: list[str] = []
    found: list[Detected] = []
    with tempfile.TemporaryDirectory(prefix="penstock-alerts-") as name, stack(Path(name)) as made:
        if not options.only:
            wrong += _quiet(made, "idle", busy=False) + _quiet(made, "busy", busy=True)
        for drill in DRILLS:
            if not options.only or any(word in drill.name for word in options.only):
                detected, beside = _run(made, drill)
                found += detected
                wrong += [
                    f"{one.alert} did not come: {drill.name}" for one in detected if one.after_s is None
                ]
                wrong += [f"{alert} came, and must not: {drill.name}" for alert in beside]
        wrong += [f"a rule can't be evaluated: {trouble}" for trouble in made.watch.troubles()]
    sys.stdout.write(f"{table(found)}\n")
    for line in wrong:
        _say(f"error: {line}")
    return 1 if wrong else 0


def table(found: Sequence[Detected]) -> str:
    """The detection times, as Markdown."""
    lines = [
        "| broken | alert | severity | seen after | for | at full scale, about |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        alert = ALERT[one.alert]
        seen = "never" if one.after_s is None else f"{one.after_s:.1f} s"
        held = f"{alert.for_s * TIME_SCALE:g} s" if alert.for_s else "at once"
        full = "" if one.after_s is None else _words(one.after_s / TIME_SCALE)
        lines.append(f"| {one.drill} | {one.alert} | {alert.severity} | {seen} | {held} | {full} |")
    return "\n".join(lines)


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _quiet(made: Stack, name: str, *, busy: bool) -> list[str]:
    """Alerts that fire while nothing is wrong."""
    _say(f"{name}: {QUIET_S:g} s")
    made.watch.told.forget()
    seen: set[str] = set()
    end_s = time.monotonic() + QUIET_S
    with traffic(made.gateway, 6 if busy else 0, pause_s=0.0):
        while time.monotonic() < end_s:
            seen |= made.watch.firing() | set(made.watch.told.seen())
            time.sleep(LOOK_EVERY_S)
    return [f"{alert} fired while {name}" for alert in sorted(seen - {ALWAYS, *MACHINE})]


def _run(made: Stack, drill: Drill) -> tuple[list[Detected], list[str]]:
    """What came of a drill, and what came beside it that may not."""
    _settle(made)
    _say(drill.name)
    made.watch.told.forget()
    begun_s = time.monotonic()
    at_prometheus: dict[str, float] = {}
    with drill.breaks(made):
        while time.monotonic() - begun_s < PATIENCE_S:
            for alert in made.watch.firing():
                at_prometheus.setdefault(alert, time.monotonic())
            seen = {**at_prometheus, **made.watch.told.seen()}
            told = {
                name: at_s for name, at_s in seen.items() if not TOLD[name] or name in made.watch.told.seen()
            }
            if set(drill.alerts) <= set(told):
                break
            time.sleep(LOOK_EVERY_S)
    detected = [
        Detected(drill.name, alert, told[alert] - begun_s if alert in told else None)
        for alert in drill.alerts
    ]
    for one in detected:
        _say(f"  {one.alert}: {'never' if one.after_s is None else f'{one.after_s:.1f} s'}")
    return detected, sorted({*told} - {*drill.alerts, *drill.may, *MACHINE, ALWAYS})


def _settle(made: Stack) -> None:
    """Waits until no alert fires but those that look back further than a drill lasts."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        late = {name for name in made.watch.pending() if not name.endswith(("BurnFast", "BurnSlow"))}
        if late <= {ALWAYS, "GpuRemapGrowth", *MACHINE}:
            return
        time.sleep(LOOK_EVERY_S)
    _say(f"  (still there: {', '.join(sorted(late))})")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.alerts", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="WORD", help="drills whose names have one of these"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.alerts`: breaks a stack in many ways, and sees that each alert comes, and none while all is well.

Times of rules are a twentieth of what they are (`TIME_SCALE`), scrapes and evaluations come twice a second. Drills that
do not touch each other go on side by side. Prints a table of detection times, from the moment something was broken to
the webhook (of `info` alerts, to Prometheus); exits with 1 where an alert did not come, or one came that must not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from penstock.render.alerts import ALERTS
from tests.alerts.drills import ROUNDS
from tests.alerts.running import MACHINE, Ran, run_round, say, unexplained
from tests.alerts.stack import TIME_SCALE, Stack, stack
from tests.alerts.traffic import traffic
from tests.alerts.unseen import UNSEEN
from tests.alerts.watch import ALWAYS

QUIET_S = 40.0
ALERT = {alert.name: alert for alert in ALERTS}


def main() -> int:
    """The exit code."""
    words = _words()
    begun_s = time.monotonic()
    wrong: list[str] = []
    ran: list[Ran] = []
    with tempfile.TemporaryDirectory(prefix="penstock-alerts-") as name, stack(Path(name)) as made:
        say(f"the stack is up: {time.monotonic() - begun_s:.0f} s")
        if not words:
            wrong += _quiet(made, "idle", busy=False) + _quiet(made, "busy", busy=True)
        since_s = time.monotonic()
        for lanes in ROUNDS:
            wanted = (tuple(one for one in lane if _is_wanted(one.name, words)) for lane in lanes)
            ran += run_round(made, tuple(lane for lane in wanted if lane))
        wrong += [f"{alert} did not come: {one.drill.name}" for one in ran for alert in _missing(one)]
        wrong += unexplained(made, ran, since_s)
        wrong += [f"a rule can't be evaluated: {trouble}" for trouble in made.watch.troubles()]
    sys.stdout.write(f"{table(ran)}\n\n{time.monotonic() - begun_s:.0f} s in all\n")
    for line in wrong:
        say(f"error: {line}")
    return 1 if wrong else 0


def table(ran: Sequence[Ran]) -> str:
    """The detection times, and why the others were not seen, as Markdown."""
    lines = [
        "| broken | alert | severity | seen after | for | at full scale, about |",
        "|---|---|---|---|---|---|",
    ]
    for one in ran:
        for name, seconds in one.after_s.items():
            alert = ALERT[name]
            seen = "never" if seconds is None else f"{seconds:.1f} s"
            held = f"{alert.for_s * TIME_SCALE:g} s" if alert.for_s else "at once"
            full = "" if seconds is None else _words_for(seconds / TIME_SCALE)
            lines.append(f"| {one.drill.name} | {name} | {alert.severity} | {seen} | {held} | {full} |")
    lines += ["", "| by promtool only | why |", "|---|---|"]
    lacking = {name: one.lacked for one in ran if one.lacked for name in one.drill.alerts}
    return "\n".join([*lines, *(f"| {name} | {why} |" for name, why in {**UNSEEN, **lacking}.items())])


def _missing(ran: Ran) -> list[str]:
    return [name for name, seconds in ran.after_s.items() if seconds is None]


def _words_for(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _quiet(made: Stack, name: str, *, busy: bool) -> list[str]:
    """Alerts that fire while nothing is wrong."""
    say(f"{name}: {QUIET_S:g} s")
    begun_s = time.monotonic()
    with traffic(made.gateway, 6 if busy else 0, pause_s=0.0):
        time.sleep(QUIET_S)
    seen = {fired.name for fired in (*made.watch.fired.since(begun_s), *made.watch.told.since(begun_s))}
    return [f"{alert} fired while {name}" for alert in sorted(seen - {ALWAYS, *MACHINE})]


def _is_wanted(name: str, words: Sequence[str]) -> bool:
    return not words or any(word in name for word in words)


def _words() -> Sequence[str]:
    parser = argparse.ArgumentParser(prog="python -m tests.alerts", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="WORD", help="drills whose names have one of these"
    )
    words: Sequence[str] = parser.parse_args().only
    return words


if __name__ == "__main__":
    sys.exit(main())

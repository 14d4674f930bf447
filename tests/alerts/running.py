"""Drills that are run, and what came of them."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from penstock.render.alerts import ALERTS
from penstock.render.alerts.host import HOST
from penstock.render.prometheus import GROUP_EVERY_S
from penstock.render.rule import Severity
from tests.alerts.drill import BURNS, PATIENCE_S, Drill, Lane, Round
from tests.alerts.seen import Fired
from tests.alerts.stack import TIME_SCALE, Stack
from tests.alerts.watch import ALWAYS, LOOK_EVERY_S

TOLD = {alert.name for alert in ALERTS if alert.severity in (Severity.PAGE, Severity.TICKET)}
# The machine is a real one, with others on it.
MACHINE = {alert.name for alert in HOST}
# For so long after a drill what it broke may still be told of: the longest window of most rules, and `for`. What
# objectives have lost counts for six hours.
AFTERMATH_S, LOST_S = 120.0, 6 * 3600 * TIME_SCALE
# Alertmanager does not tell again of what comes back before it has told that it was over.
CLEAR_S = GROUP_EVERY_S * TIME_SCALE + 2.0


@dataclass(frozen=True)
class Ran:
    """A drill that was run, from its beginning to its end, in monotonic seconds.

    Args:
        after_s: how long each of its alerts took; None for one that did not come.
        lacked: what it would have needed; then it was not run.
    """

    drill: Drill
    begun_s: float
    ended_s: float
    after_s: Mapping[str, float | None]
    lacked: str = ""

    def explains(self, fired: Fired) -> bool:
        """Whether this is where an alert may have come from."""
        late_s = LOST_S if fired.name in BURNS else AFTERMATH_S
        return self.begun_s <= fired.at_s <= self.ended_s + late_s and self.drill.expects(
            fired.name, fired.model
        )


def run_round(made: Stack, lanes: Round) -> list[Ran]:
    """Runs the lanes of a round side by side."""
    with ThreadPoolExecutor(max(1, len(lanes))) as pool:
        return [ran for lane in pool.map(lambda lane: _run_lane(made, lane), lanes) for ran in lane]


def unexplained(made: Stack, ran: Sequence[Ran], since_s: float) -> list[str]:
    """Alerts that were told of since then, and that no drill may have brought about."""
    quietly = [fired for fired in made.watch.fired.since(since_s) if fired.name not in TOLD]
    return sorted(
        f"{fired.name} {fired.model} came, and must not: {', '.join(_during(ran, fired)) or 'nothing was broken'}"
        for fired in (*made.watch.told.since(since_s), *quietly)
        if fired.name not in {ALWAYS, *MACHINE} and not any(one.explains(fired) for one in ran)
    )


def say(line: str) -> None:
    """Tells how far it is."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _during(ran: Sequence[Ran], fired: Fired) -> list[str]:
    return [one.drill.name for one in ran if one.begun_s <= fired.at_s <= one.ended_s]


def _run_lane(made: Stack, lane: Lane) -> list[Ran]:
    return [_run(made, drill) for drill in lane]


def _run(made: Stack, drill: Drill) -> Ran:
    if lacked := drill.lacks():
        say(f"{drill.name}: not here: {lacked}")
        return Ran(drill, 0.0, 0.0, {}, lacked)
    _settle(made, drill)
    begun_s = time.monotonic()
    after_s: dict[str, float | None] = dict.fromkeys(drill.alerts)
    try:
        with drill.breaks(made):
            while None in after_s.values() and time.monotonic() < begun_s + drill.patience_s:
                time.sleep(LOOK_EVERY_S)
                for fired in _seen(made, drill, begun_s):
                    if after_s.get(fired.name, 0.0) is None:
                        after_s[fired.name] = fired.at_s - begun_s
    except Exception:  # the others go on, and this one has failed
        say(f"{drill.name}: {traceback.format_exc()}")
        after_s = dict.fromkeys(drill.alerts)
    for name, seconds in after_s.items():
        say(f"{drill.name}: {name}: {'never' if seconds is None else f'{seconds:.1f} s'}")
    return Ran(drill, begun_s, time.monotonic(), after_s)


def _seen(made: Stack, drill: Drill, since_s: float) -> list[Fired]:
    """What of its alerts has come; of those that somebody is told of, what was told."""
    fired = [
        one for one in made.watch.fired.since(since_s) if drill.untold or one.name not in TOLD
    ] + made.watch.told.since(since_s)
    return [one for one in fired if drill.awaits(one.name, one.model)]


def _settle(made: Stack, drill: Drill) -> None:
    """Waits until none of its alerts fires, is about to, or is taken for firing: it would not be told of again."""
    clear_s = time.monotonic()
    end_s = clear_s + PATIENCE_S
    late: set[str] = set()
    while time.monotonic() < end_s:
        if late := {name for name, model in made.watch.pending() if drill.awaits(name, model)}:
            clear_s = time.monotonic()
        elif time.monotonic() - clear_s > CLEAR_S:
            return
        time.sleep(LOOK_EVERY_S)
    say(f"{drill.name}: still there: {', '.join(sorted(late))}")

"""What was seen to fire counts once, and is laid to the drill that may have brought it about."""

from __future__ import annotations

from contextlib import nullcontext

from tests.alerts.drill import Drill
from tests.alerts.running import AFTERMATH_S, LOST_S, Ran
from tests.alerts.seen import Fired, Seen

HOT = {"alertname": "GpuHot", "gpu": "0"}


def ran(*alerts: str, models: tuple[str, ...] = ("m",)) -> Ran:
    """A drill that went on from 100 s to 110 s."""
    drill = Drill("something broken", lambda _: nullcontext(), alerts, models=models)
    return Ran(drill, 100.0, 110.0, dict.fromkeys(alerts))


def test_an_alert_that_goes_on_counts_once_and_one_that_comes_again_counts_again() -> None:
    seen = Seen()

    for begun in ("1", "1", "2"):
        seen.note(HOT, begun)
    seen.note({**HOT, "gpu": "1"}, "1")

    assert [fired.name for fired in seen.since(0.0)] == ["GpuHot"] * 3


def test_a_drill_explains_its_own_alerts_from_its_beginning_to_some_time_after_it() -> None:
    broken = ran("QueueBacklog")

    told = [broken.explains(Fired("QueueBacklog", "m", at_s)) for at_s in (99.0, 100.0, 110.0 + AFTERMATH_S)]

    assert told == [False, True, True]
    assert not broken.explains(Fired("QueueBacklog", "m", 111.0 + AFTERMATH_S))
    assert not broken.explains(Fired("GpuHot", "", 105.0))


def test_a_drill_explains_no_alert_about_a_model_that_it_left_alone() -> None:
    broken = ran("QueueBacklog", models=("c",))

    assert broken.explains(Fired("QueueBacklog", "c", 105.0))
    assert not broken.explains(Fired("QueueBacklog", "m", 105.0))


def test_what_an_objective_has_lost_is_explained_for_longer() -> None:
    assert ran("TtftBurnSlow").explains(Fired("TtftBurnSlow", "m", 110.0 + LOST_S))

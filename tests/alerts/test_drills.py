"""Each alert is seen to fire by a drill, or there is a reason why it is not; and the documentation says which."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from penstock.render.alerts import ALERTS
from tests.alerts.drills import ROUNDS
from tests.alerts.unseen import UNSEEN
from tests.alerts.watch import ALWAYS

DRILLED = Counter(name for lanes in ROUNDS for lane in lanes for drill in lane for name in drill.alerts)
PAGE = Path(__file__).parents[2] / "docs" / "observability.md"


def test_each_alert_has_one_drill_or_a_reason_why_it_has_none() -> None:
    told = DRILLED + Counter([*UNSEEN, ALWAYS])

    assert dict(told) == {alert.name: 1 for alert in ALERTS}


def test_the_documentation_has_a_row_for_each() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert [name for name in (*DRILLED, *UNSEEN) if f"| {name} |" not in text] == []

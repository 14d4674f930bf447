"""Every alert, as data. What to do about one is in `docs/runbooks/NAME.md`."""

from __future__ import annotations

from penstock.render.alerts.engine import ENGINE
from penstock.render.alerts.gateway import GATEWAY
from penstock.render.alerts.gpu import GPU
from penstock.render.alerts.host import HOST
from penstock.render.alerts.objectives import OBJECTIVES
from penstock.render.alerts.telemetry import TELEMETRY
from penstock.render.rule import Alert, Group

GROUPS = (
    Group("penstock.alerts.objectives", OBJECTIVES),
    Group("penstock.alerts.gateway", GATEWAY),
    Group("penstock.alerts.engines", ENGINE),
    Group("penstock.alerts.gpus", GPU),
    Group("penstock.alerts.host", HOST),
    Group("penstock.alerts.telemetry", TELEMETRY),
)
ALERTS: tuple[Alert, ...] = (*OBJECTIVES, *GATEWAY, *ENGINE, *GPU, *HOST, *TELEMETRY)

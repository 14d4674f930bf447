"""All dashboards."""

from __future__ import annotations

from penstock.render.dashboards import engines, gpus, overview, slow, telemetry, tenants
from penstock.render.dashboards.page import Page

PAGES: tuple[Page, ...] = (
    *(overview.PAGE, slow.PAGE, engines.PAGE),
    *(gpus.PAGE, tenants.PAGE, telemetry.PAGE),
)

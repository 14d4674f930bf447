"""Writes what is generated: the example, pages of `docs`, heads of runbooks, and what `deploy` has of renders."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.bench.analysis.definitions import with_chapter
from penstock.core.config import Config
from penstock.core.config_reference import example_toml, reference_page
from penstock.core.config_sources import load_config
from penstock.exporter.reference import exporter_page
from penstock.render.alerts import ALERTS, GROUPS
from penstock.render.grafana import grafana
from penstock.render.prometheus import prometheus
from penstock.render.runbook import INDEX, by_page, index, with_head
from penstock.render.systemd import Site, units
from penstock.telemetry.reference import metrics_page

ROOT = Path(__file__).resolve().parent.parent
SITE = Site(command=Path("/opt/penstock/bin/penstock"), config=Path("/etc/penstock/penstock.toml"))


def example_monitoring() -> dict[str, str]:
    """What Prometheus and Grafana are set up by for the example with every setting uncommented, by its paths."""
    toml = re.sub(r"(?m)^# ", "", example_toml())
    loaded = load_config(toml_text=toml, toml_name="", environ={}, dotenv_text=None, dotenv_name="")
    return {
        **{f"deploy/prometheus/{name}": text for name, text in prometheus(loaded.config).items()},
        **{f"deploy/grafana/{name}": text for name, text in grafana(loaded.config).items()},
    }


def runbooks() -> dict[str, str]:
    """The pages of all alerts with their heads, and the index, by their paths."""
    folder = ROOT / "docs" / "runbooks"
    pages = {
        page: with_head(page, alerts, (folder / page).read_text(encoding="utf-8"))
        for page, alerts in by_page(ALERTS).items()
    }
    subjects = [(group.name.rpartition(".")[2], group.rules) for group in GROUPS]
    return {f"docs/runbooks/{name}": text for name, text in {INDEX: index(subjects), **pages}.items()}


def main() -> None:
    """Writes the files and names them."""
    bench = ROOT / "docs" / "bench.md"
    for name, text in (
        ("penstock.example.toml", example_toml()),
        ("docs/reference/config.md", reference_page()),
        ("docs/reference/exporter.md", exporter_page()),
        ("docs/reference/metrics.md", metrics_page()),
        *example_monitoring().items(),
        *runbooks().items(),
        ("docs/bench.md", with_chapter(bench.read_text(encoding="utf-8"))),
        *((f"deploy/systemd/{name}", text) for name, text in units(Config(), SITE).items()),
    ):
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()

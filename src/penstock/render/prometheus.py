"""What Prometheus and Alertmanager are set up by, made from the configuration.

Rules are the same for every configuration: objectives are read from the gateway, which knows those in force.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from penstock.core.config import Config, ModelConfig
from penstock.render.alerts import GROUPS
from penstock.render.recording import RECORDING
from penstock.render.rule import Group, Style
from penstock.render.yaml_text import yaml_text

HEAD = "Made by `penstock render prometheus` from the configuration; change that, and render again."
CONFIG_FILE = "prometheus.yml"
ALERTMANAGER_FILE = "alertmanager.yml"
GATEWAY_JOB, EXPORTER_JOB, ENGINES_JOB = "penstock-gateway", "penstock-exporter", "penstock-engines"
# A page of metrics is some megabytes at most, and some tens of thousands of series; more is a mistake of its maker.
BODY_MAX = "16MB"
SAMPLES_MAX = 100_000

# Times of Alertmanager, in seconds: first together, then what is new in a group, then once more.
GROUP_WAIT_S, GROUP_EVERY_S, REPEAT_EVERY_S = 10, 60, 4 * 3600
HEARTBEAT_EVERY_S = 300


def prometheus(config: Config, time_scale: float = 1.0) -> dict[str, str]:
    """The files, by their paths.

    Args:
        time_scale: all times of rules and notifications are multiplied by it; for drills.
    """
    style = Style(config.monitoring.runbooks, time_scale)
    return {
        CONFIG_FILE: yaml_text(_scraping(config), HEAD),
        "rules/recording.yml": _rules(RECORDING, style),
        "rules/alerts.yml": _rules(GROUPS, style),
        ALERTMANAGER_FILE: yaml_text(_telling(config, style), HEAD),
    }


def _rules(groups: Sequence[Group], style: Style) -> str:
    return yaml_text({"groups": [style.group(group) for group in groups]}, HEAD)


def _scraping(config: Config) -> Mapping[str, Any]:
    monitoring = config.monitoring
    every = Style().duration(monitoring.scrape_every_s)
    engines = [_targets(model) for model in config.models if model.engine == "remote"]
    flat = [target for targets in engines for target in targets]
    return {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": every if monitoring.scrape_every_s < 10 else "10s",
            "evaluation_interval": every,
        },
        "rule_files": ["rules/*.yml"],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [str(monitoring.alertmanager.reachable())]}]}]
        },
        "scrape_configs": [
            _job(GATEWAY_JOB, [{"targets": [str(config.gateway.admin.reachable())]}]),
            _job(EXPORTER_JOB, [{"targets": [str(config.exporter.listen.reachable())]}]),
            *([_job(ENGINES_JOB, flat)] if flat else []),
            _job("prometheus", [{"targets": [str(monitoring.prometheus.reachable())]}]),
            _job("alertmanager", [{"targets": [str(monitoring.alertmanager.reachable())]}]),
        ],
    }


def _job(name: str, targets: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {
        "job_name": name,
        "sample_limit": SAMPLES_MAX,
        "body_size_limit": BODY_MAX,
        "static_configs": targets,
    }


def _targets(model: ModelConfig) -> list[Mapping[str, Any]]:
    """The replicas of a remote model. Those that Penstock starts have ports of the day: the exporter reads them."""
    return [
        {
            "targets": [url.removeprefix("http://").rstrip("/")],
            "labels": {"model": model.name, "replica": f"{model.name}-{number}"},
        }
        for number, url in enumerate(model.sources)
    ]


def _telling(config: Config, style: Style) -> Mapping[str, Any]:
    monitoring = config.monitoring
    repeat = style.duration(REPEAT_EVERY_S)
    heartbeat = style.duration(HEARTBEAT_EVERY_S)
    return {
        "route": {
            "receiver": "nobody",
            "group_by": ["alertname", "model"],
            "group_wait": style.duration(GROUP_WAIT_S),
            "group_interval": style.duration(GROUP_EVERY_S),
            "repeat_interval": repeat,
            "routes": [
                {"receiver": "page", "matchers": ['severity="page"']},
                {"receiver": "ticket", "matchers": ['severity="ticket"']},
                # who expects it knows that alerting works; it goes where pages go
                {"receiver": "page", "matchers": ['alertname="Watchdog"'], "repeat_interval": heartbeat},
            ],
        },
        # what follows from something worse is not told beside it
        "inhibit_rules": [
            _inhibits('alertname="GatewayDown"', 'alertname=~"EngineMissing|.*Burn.*"', ()),
            _inhibits('alertname="NoReplicaReady"', 'alertname=~".*Burn.*|GatewayErrorsHigh"', ("model",)),
            _inhibits('alertname="EngineGivenUp"', 'alertname="EngineCrashLoop"', ("part",)),
            _inhibits('alertname="KvCacheFull"', 'alertname="KvCacheHigh"', ("replica",)),
            _inhibits('alertname=~".*BurnFast"', 'alertname=~".*BurnSlow"', ("model", "objective")),
        ],
        "receivers": [
            {"name": "nobody"},
            _receiver("page", monitoring.page_webhook),
            _receiver("ticket", monitoring.ticket_webhook),
        ],
    }


def _inhibits(source: str, target: str, equal: Sequence[str]) -> Mapping[str, Any]:
    same = {"equal": list(equal)} if equal else {}
    return {"source_matchers": [source], "target_matchers": [target], **same}


def _receiver(name: str, url: SecretStr | None) -> Mapping[str, Any]:
    if url is None:
        return {"name": name}
    return {"name": name, "webhook_configs": [{"url": url.get_secret_value(), "send_resolved": True}]}

"""Prometheus and Alertmanager at short intervals, and a webhook that notes when it is told of which alert."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.core.config import Config
from penstock.render.prometheus import prometheus
from tests.e2e.processes import free_port, stop, wait_until
from tests.tools import needs

ALWAYS = "Watchdog"


@dataclass
class Told:
    """What the webhook was told of: alerts that fire now, and when each was told first since `forget`."""

    firing: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, alerts: list[dict[str, Any]]) -> None:
        with self.lock:
            for alert in alerts:
                name = alert["labels"]["alertname"]
                if alert["status"] == "firing":
                    self.firing.setdefault(name, time.monotonic())

    def forget(self) -> None:
        with self.lock:
            self.firing.clear()

    def seen(self) -> dict[str, float]:
        with self.lock:
            return dict(self.firing)


class _Hook(http.server.BaseHTTPRequestHandler):
    told: Told

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.told.note(body["alerts"])
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


class Watch:
    """The two programs, and what they say.

    Args:
        url: of Prometheus.
    """

    def __init__(self, told: Told, url: str) -> None:
        self.told = told
        self._url = url

    def firing(self) -> set[str]:
        """Alerts that fire in Prometheus now."""
        data = self._ask("/api/v1/alerts")["alerts"]
        return {one["labels"]["alertname"] for one in data if one["state"] == "firing"}

    def pending(self) -> set[str]:
        """Alerts that fire now or are about to."""
        return {one["labels"]["alertname"] for one in self._ask("/api/v1/alerts")["alerts"]}

    def up(self, jobs: int) -> bool:
        """Whether so many targets are scraped."""
        targets = self._ask("/api/v1/targets?state=active")["activeTargets"]
        return sum(target["health"] == "up" for target in targets) >= jobs

    def troubles(self) -> list[str]:
        """Rules that can't be evaluated, and why."""
        groups = self._ask("/api/v1/rules")["groups"]
        return [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")]

    def _ask(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self._url + path, timeout=10) as reply:
                return json.loads(reply.read())["data"]
        except OSError:
            return {"alerts": [], "activeTargets": [], "groups": []}


@contextmanager
def watching(folder: Path, config: dict[str, Any], time_scale: float) -> Iterator[Watch]:
    """Both programs, by what is rendered for `config`; they tell a webhook of pages and tickets."""
    told = Told()
    hook = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Hook", (_Hook,), {"told": told}), bind_and_activate=True
    )
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{hook.server_port}/"
    port, am_port = free_port(), free_port()
    monitoring = {
        "prometheus": f"127.0.0.1:{port}",
        "alertmanager": f"127.0.0.1:{am_port}",
        "page_webhook": url,
        "ticket_webhook": url,
        **config.get("monitoring", {}),
    }
    for name, text in prometheus(
        Config.model_validate({**config, "monitoring": monitoring}), time_scale
    ).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    commands = (
        [
            *(needs("prometheus", "prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--rules.alert.resend-delay=1s"),
        ],
        [
            *(needs("prometheus-alertmanager", "prometheus-alertmanager"), "--config.file=alertmanager.yml"),
            *("--storage.path=am", "--cluster.listen-address="),
            f"--web.listen-address=127.0.0.1:{am_port}",
        ],
    )
    running: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            log = (folder / f"{Path(command[0]).name}.log").open("w")
            running.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, text=True))
        watch = Watch(told, f"http://127.0.0.1:{port}")
        wait_until(lambda: ALWAYS in told.seen(), "the alert that always fires")
        yield watch
    finally:
        for process in running:
            stop(process)
        hook.shutdown()
        hook.server_close()

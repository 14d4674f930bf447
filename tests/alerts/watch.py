"""Prometheus and Alertmanager at short intervals, and a webhook that notes when it is told of which alert."""

from __future__ import annotations

import http.server
import json
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from penstock.core.config import Config
from penstock.render.prometheus import CONFIG_FILE, prometheus
from penstock.render.yaml_text import yaml_text
from tests.alerts.seen import Seen
from tests.e2e.processes import free_port, stop, wait_until
from tests.tools import needs

ALWAYS = "Watchdog"
LOOK_EVERY_S = 0.25


class _Hook(http.server.BaseHTTPRequestHandler):
    watch: Watch

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        refused = self.watch.refused & {alert["labels"]["alertname"] for alert in body["alerts"]}
        for alert in body["alerts"] if not refused else ():
            if alert["status"] == "firing":
                self.watch.told.note(alert["labels"], alert["startsAt"])
        self.send_response(500 if refused else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@dataclass
class Watch:
    """The two programs, and what they say.

    Args:
        folder: of their files.
        port, alertmanager_port: where they are.
        told: what the webhook was told of.
        fired: what fired in Prometheus, where not all is told to anybody.
        refused: alerts that the webhook refuses to hear of.
    """

    folder: Path
    port: int
    alertmanager_port: int
    told: Seen = field(default_factory=Seen)
    fired: Seen = field(default_factory=Seen)
    refused: set[str] = field(default_factory=set)
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def start(self, name: str) -> None:
        """Starts one of them."""
        if name == "prometheus":
            command = [needs(name, name), f"--config.file={CONFIG_FILE}", "--storage.tsdb.path=data"]
            command += [f"--web.listen-address=127.0.0.1:{self.port}", "--rules.alert.resend-delay=1s"]
        else:
            command = [needs(name, name), "--config.file=alertmanager.yml", "--storage.path=am"]
            command += [
                f"--web.listen-address=127.0.0.1:{self.alertmanager_port}",
                "--cluster.listen-address=",
            ]
        log = (self.folder / f"{name}.log").open("a")
        self.running[name] = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, text=True)

    def look(self) -> None:
        """Notes what fires in Prometheus, until all is over."""
        while not self.over.wait(LOOK_EVERY_S):
            for one in self._alerts():
                if one["state"] == "firing":
                    self.fired.note(one["labels"], one["activeAt"])

    def pending(self) -> set[tuple[str, str]]:
        """Alerts that fire now or are about to, and those that Alertmanager still takes for firing; with models."""
        known = _ask(self.alertmanager_port, "/api/v2/alerts") or []
        return {
            (one["labels"]["alertname"], one["labels"].get("model", "")) for one in (*self._alerts(), *known)
        }

    def up(self, jobs: int) -> bool:
        """Whether so many targets are scraped."""
        targets = self._tell("/api/v1/targets?state=active", "activeTargets")
        return sum(target["health"] == "up" for target in targets) >= jobs

    def is_up(self, port: int) -> bool:
        """Whether what listens there is scraped."""
        targets = self._tell("/api/v1/targets?state=active", "activeTargets")
        return any(one["health"] == "up" and one["scrapeUrl"].endswith(f":{port}/metrics") for one in targets)

    def troubles(self) -> list[str]:
        """Rules that can't be evaluated, and why."""
        groups = self._tell("/api/v1/rules", "groups")
        return [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")]

    def ask_too(self, job: Mapping[str, Any]) -> None:
        """Has Prometheus scrape something else as well."""
        path = self.folder / CONFIG_FILE
        config = yaml.safe_load(path.read_text())
        config["scrape_configs"].append(job)
        path.write_text(yaml_text(config))
        self.reload()

    def ask_no_more(self, name: str) -> None:
        """Has Prometheus scrape that job no more."""
        path = self.folder / CONFIG_FILE
        config = yaml.safe_load(path.read_text())
        config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] != name]
        path.write_text(yaml_text(config))
        self.reload()

    def reload(self) -> None:
        """Has Prometheus read its files again."""
        self.running["prometheus"].send_signal(signal.SIGHUP)

    def _alerts(self) -> list[dict[str, Any]]:
        return self._tell("/api/v1/alerts", "alerts")

    def _tell(self, path: str, member: str) -> list[dict[str, Any]]:
        answer = _ask(self.port, path)
        found: list[dict[str, Any]] = answer["data"][member] if answer else []
        return found


def _ask(port: int, path: str) -> Any:
    """What one of them answers; None where it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
            return json.loads(reply.read())
    except OSError:
        return None


@contextmanager
def watching(folder: Path, config: dict[str, Any], time_scale: float) -> Iterator[Watch]:
    """Both programs, by what is rendered for `config`; they tell a webhook of pages and tickets."""
    watch = Watch(folder, free_port(), free_port())
    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Hook", (_Hook,), {"watch": watch}))
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{hook.server_port}/"
    monitoring = {
        "prometheus": f"127.0.0.1:{watch.port}",
        "alertmanager": f"127.0.0.1:{watch.alertmanager_port}",
        "page_webhook": url,
        "ticket_webhook": url,
        **config.get("monitoring", {}),
    }
    rendered = prometheus(Config.model_validate({**config, "monitoring": monitoring}), time_scale)
    for name, text in rendered.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    begun_s = time.monotonic()
    looking = threading.Thread(target=watch.look, daemon=True)
    try:
        for name in ("prometheus", "prometheus-alertmanager"):
            watch.start(name)
        looking.start()
        wait_until(lambda: watch.told.since(begun_s), "the alert that always fires")
        yield watch
    finally:
        watch.over.set()
        for process in watch.running.values():
            stop(process)
        hook.shutdown()
        hook.server_close()

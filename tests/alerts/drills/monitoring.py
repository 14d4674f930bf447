"""What alerts are made from and told by."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.alerts.drill import TROUBLE, Drill, Lane
from tests.alerts.stack import Stack

# A match of many with many: the right side has several states of each model.
BAD_RULE = """groups:
- name: own
  rules:
  - record: own:broken
    expr: penstock_replica_state * on (model) penstock_replica_state
"""
SERIES = 52_000
SLOW_S = 2.5
JOB = "huge"


@contextmanager
def bad_rule(stack: Stack) -> Iterator[None]:
    """Somebody has added a rule that can't be evaluated."""
    path = stack.watch.folder / "rules" / "own.yml"
    path.write_text(BAD_RULE)
    stack.watch.reload()
    yield
    path.unlink()
    stack.watch.reload()


class _Huge(http.server.BaseHTTPRequestHandler):
    page = "".join(f'vllm:lora_requests_info{{adapter="{n}"}} 1\n' for n in range(SERIES)).encode()

    def do_GET(self) -> None:
        time.sleep(SLOW_S)
        self.send_response(200)
        self.send_header("content-length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def huge_page(stack: Stack) -> Iterator[None]:
    """An engine whose page of metrics is huge and slow, asked with the patience that is usual."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Huge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    labels = {"job": "penstock-engines", "model": "huge", "replica": "huge-0"}
    stack.watch.ask_too(
        {
            "job_name": JOB,
            "scrape_interval": "5s",
            "scrape_timeout": "5s",
            "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"], "labels": labels}],
        }
    )
    try:
        yield
    finally:
        stack.watch.ask_no_more(JOB)
        server.shutdown()
        server.server_close()


@contextmanager
def webhook_refusing(stack: Stack) -> Iterator[None]:
    """Whoever is to be told of a hot GPU answers 500."""
    with ExitStack() as over:
        stack.watch.refused = {"GpuHot"}
        over.callback(stack.watch.refused.clear)
        over.enter_context(stack.gpus.told(temperature_c=91))
        yield


@contextmanager
def alertmanager_killed(stack: Stack) -> Iterator[None]:
    """Alertmanager is killed."""
    name = "prometheus-alertmanager"
    stack.watch.running[name].kill()
    stack.watch.running[name].wait()
    yield
    stack.watch.start(name)


PROMETHEUS: Lane = (
    Drill("a rule that can't be evaluated", bad_rule, ("RuleEvaluationFailing",)),
    Drill(
        "an engine with a huge, slow page",
        huge_page,
        ("ScrapeSlow", "SeriesMany"),
        TROUBLE,
        models=("huge",),
    ),
)
TELLING: Lane = (
    Drill("a webhook that refuses", webhook_refusing, ("NotificationsFailing",), ("GpuHot",)),
    Drill("Alertmanager killed", alertmanager_killed, ("AlertmanagerUnreachable",), ("GpuHot",), untold=True),
)

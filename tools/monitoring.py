"""Runs Prometheus and Alertmanager by what `penstock render prometheus` makes, until Ctrl-C: `make monitoring`.

The programs that are installed are used, else containers where docker is. Their data stays in `build/monitoring`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from penstock.cli.loading import begin
from penstock.core.address import Address
from penstock.core.config import Config

FOLDER = Path("build/monitoring").resolve()
IMAGES = {"prometheus": "prom/prometheus:v2.55.1", "prometheus-alertmanager": "prom/alertmanager:v0.27.0"}
LOOK_EVERY_S = 0.2


def main() -> int:
    """The exit code: 1 where a program is missing, or ends by itself."""
    made = subprocess.run(
        [sys.executable, "-m", "penstock", "render", "prometheus", "-o", str(FOLDER)],
        stdout=subprocess.DEVNULL,
    )
    if made.returncode:
        return made.returncode
    config = begin(None).load().config
    try:
        commands = [_prometheus(config), _alertmanager(config)]
    except LookupError as error:
        print(f"error: {error}", file=sys.stderr)
        print("hint: apt-get install prometheus prometheus-alertmanager, or install docker", file=sys.stderr)
        return 1
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)
    running = [subprocess.Popen(command, cwd=FOLDER, start_new_session=True) for command in commands]
    for name, address in (
        ("Prometheus", config.monitoring.prometheus),
        ("Alertmanager", config.monitoring.alertmanager),
    ):
        print(f"{name}: http://{address.reachable()}", file=sys.stderr)
    try:
        while all(process.poll() is None for process in running):
            time.sleep(LOOK_EVERY_S)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _prometheus(config: Config) -> list[str]:
    address = config.monitoring.prometheus
    (FOLDER / "prometheus").mkdir(exist_ok=True)
    return _command(
        "prometheus",
        (
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=prometheus",
            "--storage.tsdb.retention.time=35d",
        ),
        address,
    )


def _alertmanager(config: Config) -> list[str]:
    (FOLDER / "alertmanager").mkdir(exist_ok=True)
    options = ("--config.file=alertmanager.yml", "--storage.path=alertmanager", "--cluster.listen-address=")
    return _command("prometheus-alertmanager", options, config.monitoring.alertmanager)


def _command(program: str, options: tuple[str, ...], address: Address) -> list[str]:
    listen = f"--web.listen-address={address}"
    found = shutil.which(program) or shutil.which(program.removeprefix("prometheus-"))
    if found:
        return [found, *options, listen]
    docker = shutil.which("docker")
    if docker is None:
        raise LookupError(f"neither {program} nor docker is installed")
    user = f"{os.getuid()}:{os.getgid()}"
    mount = f"{FOLDER}:/penstock"
    run = [docker, "run", "--rm", "--init", "--network=host", f"--user={user}", f"--volume={mount}"]
    return [*run, "--workdir=/penstock", IMAGES[program], *options, listen]


if __name__ == "__main__":
    sys.exit(main())

"""The exporter as a process: alone, and beside what `penstock up` runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.store.home import Home
from penstock.store.runtime import PartReports
from tests.e2e.processes import (
    Server,
    environment,
    free_port,
    penstock_up,
    remote,
    sim_engine,
    stop,
    wait_until,
)
from tests.exporter.test_otlp import receiver

SIM = '[[models]]\nname = "m"\nengine = "sim"\n'


@contextmanager
def exporter(folder: Path, toml: str, *options: str) -> Iterator[Server]:
    """`penstock exporter`, once it answers."""
    port, log = free_port(), folder / "exporter.log"
    (folder / "penstock.toml").write_text(toml)
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "exporter", *options],
            stdout=sink,
            stderr=sink,
            text=True,
            cwd=folder,
            env=environment(
                folder / "home",
                PENSTOCK_EXPORTER__LISTEN=f"127.0.0.1:{port}",
                PENSTOCK_EXPORTER__EVERY="200ms",
                PENSTOCK_EXPORTER__OTLP_EVERY="200ms",
            ),
        )
    server = Server(process, port, log)
    try:
        wait_until(lambda: answers(server), "the exporter to answer")
        yield server
    finally:
        stop(process)


def answers(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    try:
        return server.request("GET", "/health").status == 200
    except OSError:
        return False


def shows(server: Server, *beginnings: str) -> None:
    """Waits until its page has a line that begins so, for each of them."""

    def look() -> bool:
        lines = server.request("GET", "/metrics").body.decode().splitlines()
        return all(any(line.startswith(one) for line in lines) for one in beginnings)

    wait_until(look, f"{beginnings} on the page")


def test_gpus_engines_and_host_are_shown_through_what_happens_to_them(tmp_path: Path) -> None:
    script = tmp_path / "gpus.json"

    def gpus_tell(**machine: object) -> None:
        fresh = tmp_path / "fresh.json"
        fresh.write_text(json.dumps(machine))
        fresh.replace(script)

    gpus_tell(gpus=[{"temperature_c": 91, "processes": {str(os.getpid()): 4096}}])
    with (
        sim_engine(tmp_path, "--model", "m") as engine,
        exporter(tmp_path, remote("m", engine), "--fake-gpus", str(script)) as server,
    ):
        shows(
            server,
            'penstock_gpu_temperature_celsius{gpu="0",',
            'penstock_gpu_orphan_memory_bytes{gpu="0",',
            'llm_requests_running{replica="m-0",model="m",engine="remote"} 0',
            'penstock_host_disk_free_bytes{place="model_cache"} ',
        )
        gpus_tell(error="NVML_ERROR_DRIVER_NOT_LOADED")
        shows(server, 'penstock_gpu_driver_up{reason="driver_not_loaded"} 0')
        engine.stop()
        shows(server, 'llm_up{replica="m-0",model="m",engine="remote"} 0')
        gpus_tell(gpus=[{}])
        shows(server, 'penstock_gpu_driver_up{reason=""} 1', "penstock_host_load")
        wait_until(lambda: '"read_again"' in server.log.read_text(), "the log to say so")
        code = server.stop(signal.SIGTERM)

    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    told = [(line["event"], line["source"], line.get("reason")) for line in lines if "source" in line]
    assert code == 0
    assert ("not_read", "gpu", "driver_not_loaded") in told
    assert ("read_again", "gpu", None) in told
    assert told.count(("not_read", "replica m-0", "unreachable")) == 1


def test_an_address_that_is_taken_ends_it_with_what_to_do(tmp_path: Path) -> None:
    with exporter(tmp_path, SIM) as server:
        second = subprocess.run(
            [sys.executable, "-m", "penstock", "exporter"],
            cwd=tmp_path,
            env=environment(tmp_path / "home", PENSTOCK_EXPORTER__LISTEN=f"127.0.0.1:{server.port}"),
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert second.returncode == 1
    assert f"exporter.listen: can't listen on 127.0.0.1:{server.port}: " in second.stderr
    assert "set exporter.listen to another address" in second.stderr


def test_the_same_is_pushed_and_an_endpoint_that_goes_is_a_line_in_the_log(tmp_path: Path) -> None:
    with receiver() as collector:
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        with exporter(tmp_path, f'exporter = {{ otlp_endpoint = "{endpoint}" }}\n{SIM}') as server:
            wait_until(lambda: len(collector.taken) > 1, "two pushes")
            collector.status = 403
            wait_until(lambda: '"refused"' in server.log.read_text(), "the log to say so")
            shows(server, "penstock_exporter_otlp_age_seconds", "penstock_host_load")
            assert server.stop() == 0

    assert server.log.read_text().count('"refused"') == 1


def test_under_up_it_reads_the_replicas_and_ends_with_them(tmp_path: Path) -> None:
    port = free_port()
    toml = f'exporter = {{ enabled = true, listen = "127.0.0.1:{port}", every = "200ms" }}\n{SIM}'

    with penstock_up(tmp_path, toml, GATEWAY_API_KEYS="sk-x") as up:
        beside = Server(up.process, port, up.log)
        wait_until(lambda: answers(beside), "the exporter to answer")
        shows(beside, 'llm_requests_running{replica="m-0",model="m",engine="sim"} 0')
        assert up.stop() == 0

    assert "exporter: started" in up.log.read_text()
    assert [one.name for one in PartReports(Home(up.home).parts).all() if one.life == "running"] == []


def test_an_exporter_that_can_not_listen_is_said_and_missed_by_nobody(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        toml = f'exporter = {{ enabled = true, listen = "127.0.0.1:{port}" }}\n{SIM}'
        with penstock_up(tmp_path, toml) as up:
            assert up.request("GET", "/ready").status == 200

    assert f"warning: no exporter: exporter.listen: 127.0.0.1:{port} is in use by" in up.log.read_text()

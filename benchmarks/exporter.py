"""`python -m benchmarks.exporter`: what `penstock exporter` costs at one scrape a second.

It reads eight GPUs that are not there, this host, and simulated engines, once a second, and is scraped as often. CPU is
user + system of its process, children none; more than `CORE_SHARE_MAX` of one core is a failure. What the real driver
itself spends inside NVML is not in it: that is for `tools/gpu_check.py`, on a machine with GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

CORE_SHARE_MAX = 0.01
WARM_S = 3.0


def main() -> int:
    """The exit code: 1 where it costs too much."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exporter", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--gpus", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--engines", type=int, default=2, help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        urls = [stack.enter_context(engine()) for _ in range(options.engines)]
        port = 19101
        process = stack.enter_context(exporter(Path(folder), urls, options.gpus, port))
        time.sleep(WARM_S)
        found = measure(psutil.Process(process.pid), f"http://127.0.0.1:{port}/metrics", options.seconds)
    print(json.dumps({"gpus": options.gpus, "engines": options.engines, **found}))
    return 0 if found["core_share"] < CORE_SHARE_MAX else 1


def measure(process: psutil.Process, url: str, seconds: int) -> dict[str, float]:
    """Scrapes once a second; returns what that took."""
    before, begun_s, scrapes_s = process.cpu_times(), time.monotonic(), []
    page = b""
    for second in range(seconds):
        time.sleep(max(0.0, begun_s + second - time.monotonic()))
        asked_s = time.perf_counter()
        with urllib.request.urlopen(url, timeout=10) as answer:
            page = answer.read()
        scrapes_s.append(time.perf_counter() - asked_s)
    time.sleep(max(0.0, begun_s + seconds - time.monotonic()))
    after, took_s = process.cpu_times(), time.monotonic() - begun_s
    spent_s = after.user + after.system - before.user - before.system
    return {
        "seconds": round(took_s, 1),
        "core_share": round(spent_s / took_s, 5),
        "scrape_ms_median": round(sorted(scrapes_s)[len(scrapes_s) // 2] * 1000, 2),
        "page_bytes": len(page),
        "samples": sum(1 for line in page.splitlines() if not line.startswith(b"#")),
        "memory_mib": round(process.memory_info().rss / 2**20, 1),
    }


@contextmanager
def engine() -> Iterator[str]:
    """A simulated engine; gives its URL."""
    argv = [sys.executable, "-m", "penstock", "sim", "engine", "--port=0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def exporter(folder: Path, urls: list[str], gpus: int, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The exporter of GPUs that are not there and of these engines, once it answers."""
    machine = {"gpus": [{"processes": {str(os.getpid()): 2**34}, "nvlinks": [1] * 18} for _ in range(gpus)]}
    (folder / "gpus.json").write_text(json.dumps(machine))
    sources = ", ".join(f'"{url}"' for url in urls)
    (folder / "penstock.toml").write_text(
        f'exporter = {{ every = "1s", listen = "127.0.0.1:{port}" }}\n'
        f'[[models]]\nname = "m"\nengine = "remote"\nsource = [{sources}]\n'
    )
    argv = [sys.executable, "-m", "penstock", "exporter", "--fake-gpus", "gpus.json"]
    environ = {**os.environ, "PENSTOCK_HOME": str(folder / "home")}
    process = subprocess.Popen(argv, cwd=folder, env=environ)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())

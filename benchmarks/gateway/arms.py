"""The arms, one record each. To add a peer, write a function that returns its `Launch`; list it in `ARMS`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway.client import KEY


@dataclass(frozen=True, slots=True)
class Place:
    """What an arm is given: the backend's port, ports of its own, and an empty folder."""

    backend: int
    port: int
    spare_port: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start an arm.

    Args:
        argv: the command; it must stay in the foreground.
        files: texts to write first, by their path.
        env: the environment, in full.
    """

    argv: tuple[str, ...]
    files: Mapping[Path, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arm:
    """One column of the comparison; `launch` is None where the client talks to the backend itself."""

    name: str
    launch: Callable[[Place], Launch] | None


def nginx(place: Place) -> Launch:
    """nginx with one worker."""
    config = place.folder / "nginx.conf"
    folders = "\n".join(
        f"    {kind}_temp_path {place.folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    text = f"""
daemon off; {user}
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log {place.folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
{folders}
    keepalive_requests 1000000;
    upstream backend {{ server 127.0.0.1:{place.backend}; keepalive 256; }}
    server {{
        listen 127.0.0.1:{place.port};
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""
    argv = ("nginx", "-p", str(place.folder), "-e", f"{place.folder}/error.log", "-c", str(config))
    return Launch(argv, {config: text}, {"PATH": os.environ.get("PATH", "") + ":/usr/sbin"})


def penstock(place: Place) -> Launch:
    """Penstock's gateway with everything that is on by default, its log in a file."""
    config = place.folder / "penstock.toml"
    text = f"""
[gateway]
listen = "127.0.0.1:{place.port}"
admin = "127.0.0.1:{place.spare_port}"
[[models]]
name = "bench"
engine = "remote"
source = "http://127.0.0.1:{place.backend}"
"""
    kept = {name: value for name, value in os.environ.items() if name.startswith("PYTHON") or name == "PATH"}
    env = {**kept, "PENSTOCK_HOME": str(place.folder / "home"), "GATEWAY_API_KEYS": KEY}
    argv = (sys.executable, "-m", "penstock", "--config", str(config), "gateway")
    return Launch(argv, {config: text}, env)


ARMS = {arm.name: arm for arm in (Arm("direct", None), Arm("nginx", nginx), Arm("penstock", penstock))}

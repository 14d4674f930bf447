"""The arms, one record each. To add a peer, write a function that returns its `Launch`; list it in `ARMS`.

One worker each, and nothing switched on that a proxy of this kind does not need; Penstock alone runs with all it has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.gateway.client import KEY
from benchmarks.gateway.peers import AbsentError, Package
from benchmarks.gateway.plan import ONE_WORKER, TRACED, TWO_WORKERS

SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
# More than any load has streams: nobody but the proxy itself holds a request back.
CONCURRENCY = 8_000


@dataclass(frozen=True, slots=True)
class Place:
    """What an arm is given: the backend's port, ports of its own, an empty folder, and its environment."""

    backend: int
    port: int
    spare_port: int
    folder: Path
    venv: Path

    def script(self, name: str) -> str:
        """The path of a command of the environment."""
        return str(self.venv / "bin" / name)


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
    """One row of the comparison.

    Args:
        name: as `--arms` and the tables have it.
        launch: None where the client talks to the backend itself.
        written_in: for the table.
        package: where pip installs it.
        program: where the system has to have it, its Debian package's name too.
        workers: among which its memory is divided.
    """

    name: str
    launch: Callable[[Place], Launch] | None
    written_in: str = ""
    package: Package | None = None
    program: str = ""
    workers: int = 1

    def prepared(self, cache: Path) -> Path:
        """Its virtual environment, or Penstock's own for those that need none.

        Raises:
            AbsentError: it can't be had.
        """
        if self.program and not shutil.which(self.program, path=SYSTEM_PATH):
            raise AbsentError(f"it is not installed: apt-get install {self.program}")
        return self.package.installed(cache) if self.package else Path(sys.prefix)

    def version(self) -> str:
        """What is measured; call it once it is prepared."""
        if self.package:
            return self.package.version()
        if self.program:
            said = subprocess.run(
                (str(shutil.which(self.program, path=SYSTEM_PATH)), "-v"),
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            found = re.search(r"\d+(?:\.\d+)+", said.stdout + said.stderr)
            return found[0] if found else "?"
        return version("penstock") if self.launch else ""


def nginx(place: Place) -> Launch:
    """nginx with one worker. Bodies of a long prompt are kept in memory, as the others do."""
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
events {{ worker_connections {2 * CONCURRENCY}; }}
http {{
    access_log off;
{folders}
    keepalive_requests 1000000;
    client_max_body_size 64m;
    client_body_buffer_size 256k;
    upstream backend {{ server 127.0.0.1:{place.backend}; keepalive 256; }}
    server {{
        listen 127.0.0.1:{place.port};
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""
    argv = ("nginx", "-p", str(place.folder), "-e", f"{place.folder}/error.log", "-c", str(config))
    return Launch(argv, {config: text}, {"PATH": SYSTEM_PATH})


def haproxy(place: Place) -> Launch:
    """HAProxy with one thread; without `http-no-delay` tokens leave in pairs."""
    config = place.folder / "haproxy.cfg"
    text = f"""
global
    maxconn {CONCURRENCY}
    nbthread 1
defaults
    mode http
    option http-no-delay
    option abortonclose
    http-reuse always
    timeout connect 5s
    timeout client 600s
    timeout server 600s
frontend public
    bind 127.0.0.1:{place.port}
    default_backend engine
backend engine
    server one 127.0.0.1:{place.backend}
"""
    return Launch(("haproxy", "-db", "-f", str(config)), {config: text}, {"PATH": SYSTEM_PATH})


def _rust_router(*command: str) -> Callable[[Place], Launch]:
    """SMG, sglang-router and vllm-router: three branches of one program, with the same flags.

    Args:
        command: what starts it; the first word is a command of the environment.
    """

    def launch(place: Place) -> Launch:
        argv = (
            place.script(command[0]), *command[1:],
            "--host=127.0.0.1", f"--port={place.port}", "--policy=round_robin",
            "--worker-urls", f"http://127.0.0.1:{place.backend}",
            "--prometheus-host=127.0.0.1", f"--prometheus-port={place.spare_port}",
            "--log-level=error", "--disable-retries", "--disable-circuit-breaker",
        )  # fmt: skip
        return Launch(argv, env=_plain_env(place))

    return launch


def production_stack(place: Place) -> Launch:
    """The router of vLLM's production stack, for one engine that it is told of."""
    argv = (
        place.script("vllm-router"), "--host=127.0.0.1", f"--port={place.port}",
        "--service-discovery=static", f"--static-backends=http://127.0.0.1:{place.backend}",
        "--static-models=bench", "--routing-logic=roundrobin",
    )  # fmt: skip
    return Launch(argv, env=_plain_env(place))


def textbook(place: Place) -> Launch:
    """`textbook.py`, by uvicorn with uvloop and httptools."""
    argv = (
        place.script("uvicorn"), "textbook:app", f"--app-dir={Path(__file__).parent}",
        "--host=127.0.0.1", f"--port={place.port}", "--log-level=warning", "--no-access-log",
    )  # fmt: skip
    return Launch(argv, env={**_plain_env(place), "BACKEND": f"http://127.0.0.1:{place.backend}"})


def litellm(place: Place) -> Launch:
    """LiteLLM's proxy without a database, its price list from its own package."""
    config = place.folder / "litellm.yaml"
    text = f"""
model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{place.backend}/v1
      api_key: none
litellm_settings:
  telemetry: false
general_settings:
  dangerously_permit_weak_or_unset_master_key: true
"""
    argv = (
        place.script("litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(place.port),
        "--num_workers", "1", "--telemetry", "False",
    )  # fmt: skip
    env = {**_plain_env(place), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    return Launch(argv, {config: text}, env)


def _penstock(workers: int, *, traced: bool = False) -> Callable[[Place], Launch]:
    """Penstock's gateway with everything that is on by default, its log in a file.

    `concurrency` says what this backend is: an engine that runs as many streams as it is sent. It takes traces as well:
    of one request in twenty, which is what traces are set to where they are on.
    """

    def launch(place: Place) -> Launch:
        config = place.folder / "penstock.toml"
        text = f"""
[gateway]
listen = "127.0.0.1:{place.port}"
admin = "127.0.0.1:{place.spare_port}"
{f"workers = {workers}" if workers > 1 else ""}
[traces]
{f'endpoint = "http://127.0.0.1:{place.backend}"' if traced else ""}
[[models]]
name = "bench"
engine = "remote"
source = "http://127.0.0.1:{place.backend}"
concurrency = {CONCURRENCY}
"""
        kept = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
        home = str(place.folder / "home")
        env = {**kept, "PATH": SYSTEM_PATH, "PENSTOCK_HOME": home, "GATEWAY_API_KEYS": KEY}
        argv = (sys.executable, "-m", "penstock", "--config", str(config), "gateway")
        return Launch(argv, {config: text}, env)

    return launch


def _plain_env(place: Place) -> dict[str, str]:
    return {
        "PATH": f"{place.venv / 'bin'}{os.pathsep}{SYSTEM_PATH}",
        "HOME": str(place.folder),
        "LANG": "C.UTF-8",
    }


RUST_ROUTERS = ("vllm-router", "sglang-router", "smg")
ARMS = {
    arm.name: arm
    for arm in (
        Arm("direct", None),
        Arm("nginx", nginx, "C", program="nginx"),
        Arm("haproxy", haproxy, "C", program="haproxy"),
        Arm("vllm-router", _rust_router("vllm-router"), "Rust", Package("vllm-router", "vllm-router")),
        Arm(
            "sglang-router",
            _rust_router("python", "-m", "sglang_router.launch_router"),
            "Rust",
            Package("sglang-router", "sglang-router"),
        ),
        Arm("smg", _rust_router("smg", "launch"), "Rust", Package("smg", "smg")),
        Arm(
            "production-stack",
            production_stack,
            "Python, FastAPI + aiohttp",
            Package("production-stack", "vllm-router", python_min=(3, 12)),
        ),
        Arm("textbook", textbook, "Python, FastAPI + httpx", Package("textbook", "fastapi")),
        Arm("litellm", litellm, "Python", Package("litellm", "litellm")),
        Arm(ONE_WORKER, _penstock(1), "Python"),
        Arm(TWO_WORKERS, _penstock(2), "Python", workers=2),
        Arm(TRACED, _penstock(1, traced=True), "Python"),
    )
}
QUICK_ARMS = ("direct", "nginx", ONE_WORKER)
OURS = (ONE_WORKER, TWO_WORKERS, TRACED)

"""The units for systemd: what systemd says of them, and what holds for any configuration."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from tests.tools import needs

from penstock.core.config import Config
from penstock.core.errors import PenstockError
from penstock.engines import sim
from penstock.engines.client import EngineClient
from penstock.render.systemd import FILES_MAX, UNIT_NAME_MAX, Part, Site, stop_timeout_s, units, unseen
from penstock.store.runtime import Registry
from penstock.supervisor.parts import GatewayPart, ReplicaPart

ROOT = Path(__file__).parents[2]
# systemd's own measure of what a service could do, 0 to 100; each part is held to what it has.
EXPOSURE_MAX = {
    "penstock.service": 22,
    "penstock-gateway.service": 16,
    "penstock-engine@.service": 20,
    "penstock-exporter.service": 16,
}
ODD = "odd $\"\\ 'name%"
LOCAL = {"name": "demo", "engine": "llamacpp", "source": "demo"}
CONFIGS = {
    "the demo": {},
    "a port below 1024": {"gateway": {"listen": "0.0.0.0:443", "workers": 4}},
    "a model elsewhere": {"models": [{"name": "far", "engine": "remote", "source": "http://127.0.0.1:9"}]},
    "names that are no words": {
        "models": [{**LOCAL, "name": name} for name in ("org/name", '"$HOME"\\', "%i", "-x", "é")]
    },
    "long drains": {"gateway": {"drain_timeout": "24h", "connections_max": 1_000_000}},
}


def site(folder: Path, config: str = "penstock.toml", **other: str) -> Site:
    """An installation in `folder`."""
    command = folder / "bin" / "penstock"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.touch()
    command.chmod(0o755)
    return Site(command=command, config=folder / config, **other)


def settings(text: str) -> dict[str, str]:
    """The settings of a unit; the last one counts."""
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def of_parts(config: Config, **other: str) -> dict[str, dict[str, str]]:
    made = units(
        config, Site(Path("/opt/penstock/bin/penstock"), Path("/etc/penstock/penstock.toml"), **other)
    )
    return {name: settings(text) for name, text in made.items()}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("place", ["opt", "a folder% é"])
def test_systemd_finds_no_mistake_in_any_unit(config: object, place: str, tmp_path: Path) -> None:
    files = units(
        Config.model_validate(config), site(tmp_path / place, f"{ODD}/penstock.toml", vllm_venv=f"/opt/{ODD}")
    )
    folder = tmp_path / "units"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    instances = [name.removesuffix(".d/name.conf") for name in files if name.endswith(".conf")]
    for name in instances:  # an instance is checked with what it adds
        (folder / name).symlink_to("penstock-engine@.service")
    names = [*(name for name in files if not name.endswith(".conf")), *instances]

    checked = subprocess.run(
        [needs("systemd-analyze", "systemd"), "verify", "--man=no", *(f"./{name}" for name in names)],
        cwd=folder,
        capture_output=True,
        text=True,
    )

    assert checked.returncode == 0
    assert (checked.stdout + checked.stderr) == ""  # of an unknown key it only tells


@pytest.mark.parametrize("name", EXPOSURE_MAX)
def test_systemd_finds_little_that_a_unit_could_do(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(units(Config(), site(tmp_path))[name])

    checked = subprocess.run(
        [
            needs("systemd-analyze", "systemd"),
            *("security", "--offline=true", f"--threshold={EXPOSURE_MAX[name]}", f"./{name}"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


@given(
    drain_s=st.floats(0.001, 86400),
    workers=st.integers(1, 64),
    replicas=st.integers(1, 64),
)
def test_systemd_waits_longer_than_any_part_takes_to_stop(
    drain_s: float, workers: int, replicas: int
) -> None:
    config = Config.model_validate(
        {
            "gateway": {"drain_timeout": drain_s, "workers": workers},
            "models": [{**LOCAL, "replicas": replicas}],
        }
    )

    gateway = GatewayPart(config.gateway.listen, (), {}, config.gateway.drain_timeout_s, EngineClient())
    engine = ReplicaPart(
        *(config.models[0], sim.SPEC, 0, Registry(Path()), EngineClient(), time.time),
        gateway_drain_s=config.gateway.drain_timeout_s,
    )

    assert stop_timeout_s(config, Part.GATEWAY) > gateway.stop_within_s
    assert stop_timeout_s(config, Part.ENGINE) > config.gateway.drain_timeout_s + engine.stop_within_s
    assert stop_timeout_s(config, Part.SUPERVISOR) > gateway.stop_within_s + engine.stop_within_s
    for name, part in zip(EXPOSURE_MAX, Part, strict=True):
        assert int(of_parts(config)[name]["TimeoutStopSec"]) == stop_timeout_s(config, part)


@given(name=st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=128))
def test_every_name_of_a_model_is_an_instance_of_its_own_or_refused(name: str) -> None:
    config = Config.model_validate({"models": [{**LOCAL, "name": name}, {**LOCAL, "name": f"{name[:127]}-"}]})

    try:
        target = units(config, Site(Path("/bin/penstock"), None))["penstock.target"]
    except PenstockError as error:
        event(error.code)
        return

    instances = re.findall(r"Wants=(penstock-engine@.*)", target)
    assert len(set(instances)) == 2
    for instance in instances:
        assert re.fullmatch(r"penstock-engine@(?:[A-Za-z0-9_:.-]|\\x[0-9a-f]{2})+\.service", instance)
        assert len(instance) <= UNIT_NAME_MAX


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ('/opt/"/bin/penstock', "/etc/a.toml"),
        ("/opt/$x/penstock", "/etc/a.toml"),
        ("/opt/penstock", "/etc/\nUser=root"),
    ],
)
def test_a_path_that_would_be_read_as_something_else_is_refused(command: str, config: str) -> None:
    with pytest.raises(PenstockError, match=r"systemd runs no program|a unit can't name"):
        units(Config(), Site(Path(command), Path(config)))


def test_no_unit_holds_a_secret() -> None:
    config = Config.model_validate(
        {
            "gateway": {"api_keys": ["sk-secret-1"], "admin_key": "sk-secret-2"},
            "models": [
                {"name": "far", "engine": "remote", "source": "http://127.0.0.1:9", "api_key": "sk-secret-3"}
            ],
            "shared": {"redis": "redis://:sk-secret-4@127.0.0.1"},
        }
    )

    made = units(config, Site(Path("/opt/penstock/bin/penstock"), None))

    assert "secret" not in "".join(made.values())
    assert "LoadCredential=penstock.env" in made["penstock-gateway.service"]


def test_devices_are_open_only_to_parts_that_compute_on_them() -> None:
    local, remote = of_parts(Config()), of_parts(Config.model_validate(CONFIGS["a model elsewhere"]))

    for name in ("penstock.service", "penstock-engine@.service", "penstock-exporter.service"):
        assert local[name]["DevicePolicy"] == "closed"
    assert local["penstock-gateway.service"]["PrivateDevices"] == "yes"
    assert remote["penstock.service"]["PrivateDevices"] == "yes"


def test_only_engines_may_make_code_and_have_groups_of_their_own() -> None:
    made = of_parts(Config())

    for name in ("penstock.service", "penstock-engine@.service"):
        assert "MemoryDenyWriteExecute" not in made[name]
        assert made[name]["Delegate"] == "yes"
    for name in ("penstock-gateway.service", "penstock-exporter.service"):
        assert made[name]["MemoryDenyWriteExecute"] == "yes"
        assert made[name]["ProtectControlGroups"] == "yes"


def test_a_low_port_is_the_one_capability_that_a_unit_is_given() -> None:
    made = of_parts(Config.model_validate(CONFIGS["a port below 1024"]))

    assert made["penstock-gateway.service"]["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    assert made["penstock-engine@.service"]["AmbientCapabilities"] == ""
    assert of_parts(Config())["penstock-gateway.service"]["CapabilityBoundingSet"] == ""


def test_a_gateway_may_open_as_many_files_as_its_connections_need() -> None:
    for connections in (1, 200_000, 1_000_000):
        config = Config.model_validate({"gateway": {"connections_max": connections}})

        files = int(of_parts(config)["penstock-gateway.service"]["LimitNOFILE"])

        assert min(FILES_MAX, 2 * connections) < files + 1
        assert files <= FILES_MAX


def test_a_model_in_a_home_is_seen_and_one_in_a_temporary_folder_is_told_of() -> None:
    at_home, temporary = (
        Config.model_validate({"models": [{**LOCAL, "source": source}]})
        for source in ("/home/ada/models/a.gguf", "/tmp/b.gguf")
    )

    assert of_parts(Config())["penstock.service"]["ProtectHome"] == "yes"
    assert of_parts(at_home)["penstock.service"]["ProtectHome"] == "read-only"
    assert unseen(temporary, Site(Path("/opt/penstock/bin/penstock"), None)) == (Path("/tmp/b.gguf"),)
    assert unseen(at_home, Site(Path("/opt/penstock/bin/penstock"), None)) == ()


def test_the_target_wants_what_is_rendered_beside_it() -> None:
    made = units(Config(), Site(Path("/bin/penstock"), None), [Part.GATEWAY, Part.ENGINE])

    assert [*made] == ["penstock-gateway.service", "penstock-engine@.service", "penstock.target"]
    assert re.findall(r"Wants=(.*)", made["penstock.target"]) == [
        "penstock-gateway.service",
        "penstock-engine@penstock-demo.service",
    ]
    assert [*units(Config(), Site(Path("/bin/penstock"), None), [Part.ENGINE])] == [
        "penstock-engine@.service"
    ]


def test_the_units_in_deploy_are_those_of_the_demo() -> None:
    site = Site(Path("/opt/penstock/bin/penstock"), Path("/etc/penstock/penstock.toml"))
    folder = ROOT / "deploy" / "systemd"

    on_disk = {path.name: path.read_text("utf-8") for path in folder.iterdir()}

    assert on_disk == units(Config(), site), "run tools/generate_reference.py"

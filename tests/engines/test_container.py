"""Engines in containers: what docker or podman is told, as data."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from penstock.core.config import ModelConfig
from penstock.engines import sglang, vllm
from penstock.engines.container import in_image, inside
from penstock.engines.paths import DEMO_FOLDER
from penstock.engines.spec import Launch, Placement
from penstock.supervisor.exits import explained
from penstock.supervisor.process import Ended

KEY = "secret-of-the-replica"
IMAGE = "vllm/vllm-openai:v0.32.0"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker on the PATH, and nothing else."""
    return runtime("docker", tmp_path, monkeypatch)


def runtime(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / "bin" / name
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent))
    monkeypatch.setenv("HOME", str(folder))
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return path


def model(source: str = "meta-llama/Llama", image: str = IMAGE, **engine_args: object) -> ModelConfig:
    return ModelConfig(name="org/llama", engine="vllm", source=source, image=image, engine_args=engine_args)


def placed(gpus: tuple[int, ...] | None = (0, 1)) -> Placement:
    return Placement("127.0.0.1", 41231, KEY, gpus=gpus, drain_timeout_s=30.0)


def pairs(argv: tuple[str, ...], option: str) -> list[str]:
    """The values of an option that may be repeated."""
    return [value for name, value in pairwise(argv) if name == option]


def test_it_is_the_same_command_in_a_container_that_only_loopback_reaches(docker: Path) -> None:
    launch = vllm.launch(model(max_model_len=8192), placed())

    argv = launch.argv
    assert argv[:6] == (str(docker), "run", "--rm", "--init", "--name", "penstock-org-llama-41231")
    assert pairs(argv, "--publish") == ["127.0.0.1:41231:8000"]
    assert pairs(argv, "--shm-size") == ["16g"]
    assert pairs(argv, "--gpus") == ['"device=0,1"']
    assert int(pairs(argv, "--stop-timeout")[0]) > 30
    assert argv[argv.index("--entrypoint") :] == (
        *("--entrypoint", "vllm", IMAGE, "serve", "meta-llama/Llama", "--host", "0.0.0.0", "--port", "8000"),
        *("--served-model-name", "org/llama", "--shutdown-timeout", "30", "--max-model-len", "8192"),
    )
    assert launch.cleanup == (str(docker), "rm", "--force", "penstock-org-llama-41231")


def test_no_value_of_a_variable_is_in_its_command_line(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("VLLM_PORT", "tcp://10.0.0.1:1")

    launch = vllm.launch(model(), placed())

    named = pairs(launch.argv, "--env")
    assert {"VLLM_API_KEY", "HF_TOKEN", "VLLM_LOGGING_LEVEL", "TRITON_CACHE_DIR"} <= set(named)
    assert "VLLM_PORT" not in named
    assert not any("=" in name for name in named)
    assert not any(secret in word for word in launch.argv for secret in (KEY, "hf_secret"))
    assert launch.env["VLLM_API_KEY"] == KEY
    assert "CUDA_VISIBLE_DEVICES" not in launch.env


def test_what_it_reads_is_mounted_so_and_what_it_keeps_is_not(docker: Path, tmp_path: Path) -> None:
    (tmp_path / "a,b.jinja").write_text("x")
    (tmp_path / "lora").mkdir()
    (tmp_path / "hub").mkdir()

    argv = vllm.launch(
        model(
            str(DEMO_FOLDER),
            chat_template=str(tmp_path / "a,b.jinja"),
            lora_modules=[f"mine={tmp_path}/lora", {"name": "b", "path": f"{tmp_path}/none"}],
            download_dir=str(tmp_path / "hub"),
        ),
        placed(),
    ).argv

    assert pairs(argv, "--mount") == [
        f"type=bind,source={DEMO_FOLDER},target={DEMO_FOLDER},readonly",
        f'type=bind,"source={tmp_path}/a,b.jinja","target={tmp_path}/a,b.jinja",readonly',
        f"type=bind,source={tmp_path}/lora,target={tmp_path}/lora,readonly",
        "type=volume,source=penstock-huggingface,target=/root/.cache/huggingface",
        "type=volume,source=penstock-engine-cache,target=/root/.cache/penstock",
        f"type=bind,source={tmp_path}/hub,target={tmp_path}/hub",
    ]


def test_the_models_that_are_here_already_are_used(docker: Path, tmp_path: Path) -> None:
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)

    mounts = pairs(vllm.launch(model(), placed()).argv, "--mount")

    assert mounts[0] == f"type=bind,source={tmp_path}/.cache/huggingface,target=/root/.cache/huggingface"


def test_a_cache_of_the_hub_that_lies_elsewhere_is_used(
    docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))

    mounts = pairs(vllm.launch(model(), placed()).argv, "--mount")

    assert f"type=bind,source={tmp_path}/elsewhere,target=/root/.cache/huggingface/hub" in mounts


def test_podman_names_gpus_in_its_own_way_and_need_have_no_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime("podman", tmp_path, monkeypatch)

    argv = vllm.launch(model(), placed()).argv

    assert "--init" not in argv
    assert pairs(argv, "--device") == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    assert "--gpus" not in argv


@pytest.mark.parametrize(
    ("gpus", "devices", "option"),
    [((), ("/dev/null",), []), (None, (), []), (None, ("/dev/null",), ["all"]), ((3,), (), ['"device=3"'])],
)
def test_it_gets_all_gpus_that_are_there_or_those_that_are_chosen(
    docker: Path, gpus: tuple[int, ...] | None, devices: tuple[str, ...], option: list[str]
) -> None:
    environ = {"PATH": str(docker.parent)}

    launch = in_image(Launch(("vllm",)), model(), placed(gpus), environ, gpu_devices=devices)

    assert pairs(launch.argv, "--gpus") == option


def test_the_tag_of_its_image_tells_its_version(docker: Path) -> None:
    assert vllm.check(model(swap_space=4)) == [
        "engine_args.swap_space: vLLM 0.32.0 no longer has it: V1 recomputes what it preempts and swaps nothing; "
        "lower max_num_seqs or raise gpu_memory_utilization"
    ]
    assert "--shutdown-timeout" not in vllm.launch(model(image="vllm/vllm-openai:v0.9.2"), placed()).argv


def test_a_tag_that_tells_no_version_leaves_arguments_to_vllm(docker: Path) -> None:
    own = model(image="registry:5000/our-vllm", swap_space=4, anything=1)

    assert vllm.check(own) == []
    assert vllm.warn(own)[0].startswith("engine_args.swap_space: vLLM 0.18 and newer refuse it")


def test_an_image_without_a_runtime_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert vllm.check(model()) == [
        f"image: {IMAGE} needs docker or podman, and neither is on the PATH; install one, or set venv"
    ]


def test_sglang_runs_in_its_image_with_its_key_unseen(docker: Path) -> None:
    config = ModelConfig(name="m", engine="sglang", source="owner/m", image="lmsysorg/sglang:v0.5.23")

    launch = sglang.launch(config, placed())

    shim = str(sglang.SHIM)
    assert f"type=bind,source={shim},target={shim},readonly" in pairs(launch.argv, "--mount")
    assert launch.argv[launch.argv.index("--entrypoint") :][:5] == (
        *("--entrypoint", "python3", "lmsysorg/sglang:v0.5.23", shim, "sglang.launch_server"),
    )
    assert not any(KEY in word for word in launch.argv)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            'docker: Error response from daemon: could not select device driver "" with capabilities',
            "Toolkit",
        ),
        ("Error: unresolvable CDI devices nvidia.com/gpu=0", "Toolkit"),
        ("docker: Error response from daemon: pull access denied for vllm/nope", "models.N.image"),
        ('Error: short-name "nope" did not resolve to an alias', "models.N.image"),
        ("docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "start it"),
        ('exec: "vllm": executable file not found in $PATH', "models.N.image"),
    ],
)
def test_why_a_container_does_not_start_is_explained(line: str, words: str) -> None:
    for spec in (vllm.SPEC, sglang.SPEC):
        assert words in explained(Ended(125, last_lines=(line,)), spec.causes).sentence


def test_a_command_is_not_changed_within(docker: Path) -> None:
    launch = in_image(Launch(("x", "--a", "b c")), model(), placed(), {"PATH": str(docker.parent)})

    assert launch.argv[-4:] == ("x", IMAGE, "--a", "b c")
    assert inside(placed()).gpus is None

"""vLLM's command line, and what is said before it is started."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from penstock.core.config import ModelConfig
from penstock.engines import vllm
from penstock.engines.paths import DEMO_FOLDER
from penstock.engines.spec import Placement
from penstock.engines.vllm_arguments import GONE
from tests.engines import installed

KEY = "secret-of-the-replica"
PLACEMENT = Placement("127.0.0.1", 41231, KEY)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A vLLM 0.32 in an environment of its own."""
    return installed.vllm(tmp_path / "venv")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PENSTOCK_VLLM_VENV", "VLLM_PORT", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("HOME", "/home/me")


def model(venv: Path | None = None, source: str = "meta-llama/Llama", **engine_args: object) -> ModelConfig:
    """A model for vLLM."""
    return ModelConfig(
        name="llama", engine="vllm", source=source, venv=str(venv) if venv else None, engine_args=engine_args
    )


def copied(folder: Path, **changed: object) -> str:
    """The demo model in a folder of its own, with another configuration."""
    shutil.copytree(DEMO_FOLDER, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    return str(folder)


# -- the command line -----------------------------------------------------------------------------------


def test_its_command_line_has_its_arguments_and_not_its_key(venv: Path) -> None:
    args = {
        "max_model_len": 8192,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "lora_modules": ["a=/a", {"name": "b", "path": "/b"}],
        "compilation_config": {"mode": 3, "cudagraph_capture_sizes": [1, 2]},
    }

    launch = vllm.launch(model(venv, **args), PLACEMENT)

    assert launch.argv == (
        *(str(venv / "bin" / "vllm"), "serve", "meta-llama/Llama", "--host", "127.0.0.1", "--port", "41231"),
        *("--served-model-name", "llama", "--shutdown-timeout", "20", "--max-model-len", "8192"),
        *("--enforce-eager", "--no-enable-prefix-caching"),
        *("--lora-modules", "a=/a", '{"name": "b", "path": "/b"}'),
        *("--compilation-config", '{"mode": 3, "cudagraph_capture_sizes": [1, 2]}'),
    )
    assert launch.env["VLLM_API_KEY"] == KEY
    assert KEY not in " ".join(launch.argv)
    assert launch.cleanup == ()


def test_a_switch_without_a_negative_form_is_left_out_when_it_is_false(venv: Path) -> None:
    argv = vllm.launch(model(venv, disable_log_stats=False), PLACEMENT).argv

    assert not any("disable-log-stats" in word for word in argv)


def test_it_reports_to_nobody_and_keeps_its_kernels(venv: Path) -> None:
    env = vllm.launch(model(venv), PLACEMENT).env

    assert env["VLLM_NO_USAGE_STATS"] == env["DO_NOT_TRACK"] == "1"
    assert env["PROMETHEUS_DISABLE_CREATED_SERIES"] == "True"
    assert env["TRITON_CACHE_DIR"] == "/home/me/.cache/penstock/triton"
    assert "TORCH_NCCL_BLOCKING_WAIT" not in env
    assert "CUDA_VISIBLE_DEVICES" not in env


def test_several_gpus_see_each_others_errors_and_only_the_chosen_ones(venv: Path) -> None:
    placement = Placement("127.0.0.1", 1, KEY, gpus=(2, 3))

    env = vllm.launch(model(venv, tensor_parallel_size=2), placement).env

    assert env["TORCH_NCCL_BLOCKING_WAIT"] == "1"
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("2,3", "PCI_BUS_ID")


def test_what_its_owner_has_set_stays(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/scratch")
    monkeypatch.setenv("TORCH_NCCL_BLOCKING_WAIT", "0")

    env = vllm.launch(model(venv, tensor_parallel_size=2), PLACEMENT).env

    assert not {"TRITON_CACHE_DIR", "TORCH_NCCL_BLOCKING_WAIT"} & env.keys()


def test_a_port_that_all_replicas_would_share_is_taken_away(
    venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_PORT", "tcp://10.0.0.1:8000")

    argv = vllm.launch(model(venv), PLACEMENT).argv

    assert argv[:4] == ("env", "-u", "VLLM_PORT", str(venv / "bin" / "vllm"))


@pytest.mark.parametrize(("drain_timeout_s", "told"), [(0.2, "1"), (20.0, "20"), (90.5, "91")])
def test_it_finishes_its_streams_within_the_gateways_drain(
    venv: Path, drain_timeout_s: float, told: str
) -> None:
    placement = Placement("127.0.0.1", 1, KEY, drain_timeout_s=drain_timeout_s)

    argv = vllm.launch(model(venv), placement).argv

    assert argv[argv.index("--shutdown-timeout") + 1] == told


def test_a_vllm_that_can_not_finish_its_streams_is_not_told_to_and_its_owner_is(tmp_path: Path) -> None:
    old = installed.vllm(tmp_path / "old", "0.16.0")

    argv, said = vllm.launch(model(old), PLACEMENT).argv, vllm.warn(model(old))

    assert "--shutdown-timeout" not in argv
    assert said == ["engine: vLLM 0.16.0 cuts its streams when it is stopped; 0.18 and newer finish them"]


def test_the_demo_model_is_a_folder_for_it(venv: Path) -> None:
    assert vllm.launch(model(venv, "demo"), PLACEMENT).argv[2] == str(DEMO_FOLDER)
    assert vllm.check(model(venv, "demo")) == []


# -- where it is ----------------------------------------------------------------------------------------


def test_the_environment_of_the_model_comes_before_that_of_all(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = installed.vllm(tmp_path / "other")
    monkeypatch.setenv("PENSTOCK_VLLM_VENV", str(other))

    assert vllm.launch(model(venv), PLACEMENT).argv[0] == str(venv / "bin" / "vllm")
    assert vllm.launch(model(), PLACEMENT).argv[0] == str(other / "bin" / "vllm")


def test_it_is_found_on_the_path_behind_a_link(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "vllm").symlink_to(venv / "bin" / "vllm")

    assert vllm.check(model(swap_space=4))[0].startswith("engine_args.swap_space: vLLM 0.32.0 no longer has")


def test_a_missing_vllm_is_said_with_the_cure(tmp_path: Path) -> None:
    (nowhere,) = vllm.check(model())
    (elsewhere,) = vllm.check(model(tmp_path / "nothing"))

    assert nowhere.startswith("engine: vllm is not installed; `pip install vllm`")
    assert "PENSTOCK_VLLM_VENV" in nowhere
    assert elsewhere.startswith(f"venv: {tmp_path}/nothing has no bin/vllm")
    assert vllm.warn(model()) == []


# -- its arguments --------------------------------------------------------------------------------------


def test_an_argument_that_is_gone_is_said_with_what_took_its_place(venv: Path) -> None:
    said = vllm.check(model(venv, swap_space=4, disable_log_requests=True, task="embed", rope_theta=1e6))

    assert said == [
        "engine_args.swap_space: vLLM 0.32.0 no longer has it: V1 recomputes what it preempts and swaps nothing; "
        "lower max_num_seqs or raise gpu_memory_utilization",
        "engine_args.disable_log_requests: vLLM 0.32.0 no longer has it: requests are not logged unless "
        "enable_log_requests = true",
        "engine_args.task: vLLM 0.32.0 no longer has it: set runner = 'pooling' or 'generate', and convert where a "
        "model is adapted",
        "engine_args.rope_theta: vLLM 0.32.0 no longer has it: set hf_overrides, a table, such as "
        "{ rope_parameters = { ... } }",
    ]


def test_an_argument_without_effect_is_a_warning(tmp_path: Path) -> None:
    older = installed.vllm(
        tmp_path / "older", "0.16.0", more='parser.add_argument("--swap-space", type=float)'
    )

    assert vllm.check(model(older, swap_space=4)) == []
    assert vllm.warn(model(older, swap_space=4))[0].startswith(
        "engine_args.swap_space has no effect in vLLM 0.16.0: V1 recomputes"
    )


def test_an_argument_that_an_old_vllm_still_has_is_left_to_it(tmp_path: Path) -> None:
    old = installed.vllm(
        tmp_path / "old", "0.9.2", more='parser.add_argument("--num-scheduler-steps", type=int)'
    )

    assert vllm.check(model(old, num_scheduler_steps=8)) == []
    assert not any("num_scheduler_steps" in said for said in vllm.warn(model(old, num_scheduler_steps=8)))


def test_an_unknown_argument_is_answered_with_the_nearest(venv: Path) -> None:
    assert vllm.check(model(venv, max_modle_len=1, no_enforce_eager=True, zzz=1)) == [
        "engine_args.max_modle_len: vLLM 0.32.0 has no such argument; did you mean max_model_len?",
        "engine_args.no_enforce_eager: vLLM 0.32.0 has no such argument; set enforce_eager = false",
        "engine_args.zzz: vLLM 0.32.0 has no such argument",
    ]


def test_an_unknown_argument_may_be_a_plugins(venv: Path) -> None:
    installed.environment(venv, (), {"vllm-npu": "1.0"})
    points = installed.site(venv) / "vllm_npu-1.0.dist-info" / "entry_points.txt"
    points.write_text("[vllm.platform_plugins]\nnpu = vllm_npu:register\n")

    assert vllm.check(model(venv, npu_cores=8)) == []
    assert vllm.warn(model(venv, npu_cores=8)) == [
        "engine_args.npu_cores: only a plugin of vLLM 0.32.0 can have this argument"
    ]


def test_what_is_penstocks_to_set_is_refused_with_the_reason(venv: Path) -> None:
    said = vllm.check(model(venv, port=1, shutdown_timeout=5, hf_token="t", ssl_certfile="/c", headless=True))

    assert [one.split(":")[0].removeprefix("engine_args.") for one in said] == [
        *("port", "shutdown_timeout", "hf_token", "ssl_certfile", "headless")
    ]
    assert "follows gateway.drain_timeout" in said[1]
    assert "set HF_TOKEN" in said[2]


def test_metrics_that_are_turned_off_are_warned_of(venv: Path) -> None:
    assert vllm.check(model(venv, disable_log_stats=True)) == []
    assert "can neither see a stall" in vllm.warn(model(venv, disable_log_stats=True))[0]


def test_without_its_source_only_the_version_counts(venv: Path) -> None:
    (installed.site(venv) / "vllm/engine/arg_utils.py").write_text("this is no Python(")

    assert [said.split(":")[0] for said in vllm.check(model(venv, swap_space=4, max_modle_len=1))] == [
        "engine_args.swap_space"
    ]


def test_without_a_version_what_is_gone_is_a_warning(venv: Path) -> None:
    shutil.rmtree(installed.site(venv))

    assert vllm.check(model(venv, swap_space=4)) == []
    assert vllm.warn(model(venv, swap_space=4))[0].startswith(
        "engine_args.swap_space: vLLM 0.18 and newer refuse it: V1 recomputes"
    )


@pytest.mark.parametrize("name", GONE)
def test_everything_that_is_gone_has_an_instead_that_reads_on(name: str) -> None:
    gone = GONE[name]

    assert gone.instead
    assert not gone.instead.endswith(".")
    assert gone.idle is None or gone.idle < gone.removed


# -- its weights ----------------------------------------------------------------------------------------


def test_gguf_is_sent_to_the_engine_that_loads_it(venv: Path, tmp_path: Path) -> None:
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(DEMO_FOLDER / "demo.gguf", only)
    shutil.copy(DEMO_FOLDER / "demo.gguf", tmp_path / "model.bin")

    for source in (
        str(DEMO_FOLDER / "demo.gguf"),
        str(only),
        "o/r/m.gguf",
        "o/r:Q4_K_M",
        f"{tmp_path}/model.bin",
    ):
        (said,) = vllm.check(model(venv, source))
        assert 'which vLLM 0.32.0 does not load; set engine = "llamacpp"' in said


def test_a_vllm_that_loads_gguf_gets_it(tmp_path: Path) -> None:
    old = installed.vllm(tmp_path / "old", "0.23.0")

    assert vllm.check(model(old, str(DEMO_FOLDER / "demo.gguf"))) == []


def test_what_is_not_there_is_said(venv: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("hello")
    bare = Path(copied(tmp_path / "bare"))
    (bare / "model.safetensors").unlink()
    (bare / "demo.gguf").unlink()

    said = [
        *vllm.check(model(venv, "/nowhere")),
        *vllm.check(model(venv, str(tmp_path / "file"))),
        *vllm.check(model(venv, str(tmp_path / "empty")))[:1],
        *vllm.check(model(venv, str(bare))),
    ]

    assert [one.removeprefix("source: ").removeprefix(str(tmp_path)) for one in said] == [
        "/nowhere does not exist; name a folder, or owner/model of the Hub",
        "/file is a file; name the folder that holds it and its config.json",
        "/empty has no config.json; name the folder that a model was downloaded into",
        "/bare holds no weights; finish the download",
    ]


def test_a_half_downloaded_model_is_said(venv: Path, tmp_path: Path) -> None:
    folder = Path(copied(tmp_path / "half"))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1000])

    (said,) = vllm.check(model(venv, str(folder)))

    assert said.endswith("a download may have been cut off; fetch it again")


@pytest.mark.parametrize(
    ("changed", "known"),
    [
        ({"architectures": ["QWenLMHeadModel"]}, True),
        ({"architectures": ["NewForCausalLM"]}, False),
        ({"architectures": ["MPTForCausalLM"]}, False),
        ({"architectures": ["NewForCausalLM"], "model_type": "gemma9"}, True),
        ({"architectures": ["NewForCausalLM"], "auto_map": {"AutoConfig": "x.Y"}}, True),
        ({"architectures": None}, True),
    ],
)
def test_an_architecture_that_nobody_there_knows_is_refused(
    venv: Path, tmp_path: Path, changed: dict[str, object], known: bool
) -> None:
    source = copied(tmp_path / "model", **{"model_type": "new", **changed})

    said = vllm.check(model(venv, source))

    assert said == ([] if known else [said[0]])
    assert known or "vLLM 0.32.0 does not know the architecture" in said[0]


def test_a_model_in_the_hubs_cache_is_looked_at_too(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repo, commit = tmp_path / "models--owner--llama", "a" * 40
    copied(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)

    cached = model(venv, "owner/llama", tensor_parallel_size=3)

    assert vllm.launch(cached, PLACEMENT).argv[2] == "owner/llama"
    assert "3 does not divide the model's 4 attention heads" in vllm.check(cached)[0]


@pytest.mark.parametrize(("size", "fits"), [(1, True), (2, True), (3, False), (8, False)])
def test_heads_must_be_divisible_among_the_gpus(venv: Path, size: int, fits: bool) -> None:
    said = vllm.check(model(venv, "demo", tensor_parallel_size=size))

    assert said == (
        []
        if fits
        else [
            f"engine_args.tensor_parallel_size: {size} does not divide the model's 4 attention heads; "
            "set one of 1, 2, 4"
        ]
    )

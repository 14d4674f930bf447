"""`penstock pull` as a real process, with the real huggingface_hub, from a look-alike of the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from penstock.engines.paths import DEMO_FOLDER
from tests.cli.conftest import Command
from tests.engines.hub_look_alike import Fault, LookAlike, Repo, folder, serving

WITHIN_S = 60.0
DEMO = folder(DEMO_FOLDER)
TINY, GGUF = "acme/tiny", "acme/tiny-GGUF"
TOKEN = "hf_a-token-that-nobody-may-see"


class Site:
    """A folder to run in, and a Hub to pull from."""

    def __init__(self, folder: Path, look: LookAlike) -> None:
        self.folder, self.look = folder, look
        self.processes: list[subprocess.Popen[str]] = []
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "PENSTOCK_")) and not name.lower().endswith("_proxy")
        }
        self.environ = {**kept, "HF_ENDPOINT": look.url, "HF_HOME": str(folder / "hf")}

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", *arguments],
            cwd=self.folder,
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environ)
        out, err = process.communicate(timeout=WITHIN_S)
        assert TOKEN not in out + err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def part(self, name: str) -> Path:
        data = next(repo.files[name] for repo in self.look.repos.values() if name in repo.files)
        return next(
            iter(self.folder.rglob(f"{hashlib.sha256(data).hexdigest()}.incomplete")), self.folder / "none"
        )

    def part_bytes(self, name: str) -> int:
        part = self.part(name)
        return part.stat().st_size if part.exists() else 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    plain = {name: data for name, data in DEMO.items() if not name.endswith(".gguf")}
    ggufs = {
        f"tiny-{kind}.gguf": DEMO["demo.gguf"] + bytes(more) for more, kind in enumerate(("Q8_0", "Q4_K_M"))
    }
    with serving(LookAlike({TINY: Repo(plain), GGUF: Repo(ggufs)})) as look:
        made = Site(tmp_path, look)
        yield made
        for process in made.processes:
            if process.poll() is None:  # a test that failed amid it
                process.kill()
                process.communicate()


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_a_model_is_pulled_and_where_it_lies_is_the_only_line_of_output(site: Site) -> None:
    first, again = site.run("pull", TINY), site.run("pull", TINY)

    path = Path(first.stdout.strip())
    assert (first.returncode, again.returncode, again.stdout) == (0, 0, first.stdout)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == site.look.repos[TINY].files
    assert f"{TINY} at commit {site.look.repos[TINY].commit}: 7 files, 5.8 MB" in first.stderr
    assert f"{TINY} is whole: 5.8 MB fetched in" in first.stderr
    assert f"{TINY} is whole: nothing to fetch" in again.stderr


def test_what_a_kill_left_is_gone_on_with(site: Site) -> None:
    large = "model.safetensors"
    site.look.faults.append(Fault(large, bytes_per_s=2_000_000))
    process = site.start("pull", TINY)
    until(lambda: site.part_bytes(large) >= 2_000_000)

    process.kill()
    process.communicate()

    have = site.part_bytes(large)
    plan = site.run("pull", TINY, "--dry-run")
    second = site.run("pull", TINY)
    assert second.returncode == 0, second.stderr
    assert "MB here" in plan.stdout
    assert [one.range for one in site.look.sent(large)] == ["", f"bytes={have}-"]
    assert (Path(second.stdout.strip()) / large).read_bytes() == DEMO[large]
    assert not site.part(large).exists()


def test_ctrl_c_says_how_far_it_is_and_how_to_go_on(site: Site) -> None:
    large = "model.safetensors"
    site.look.faults.append(Fault(large, bytes_per_s=1_000_000))
    process = site.start("pull", TINY)
    until(lambda: site.part_bytes(large) >= 1_000_000)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WITHIN_S)

    assert process.returncode == 130
    assert "of 5.8 MB are here; the same command goes on from there" in err
    assert "Traceback" not in err


def test_a_gguf_repository_gives_one_quantization_into_a_folder_that_is_named(site: Site) -> None:
    result = site.run("pull", f"{GGUF}:Q8_0", "--to", "here")

    assert result.stdout.strip() == str(site.folder / "here" / "tiny-Q8_0.gguf")
    assert [path.name for path in (site.folder / "here").iterdir()] == ["tiny-Q8_0.gguf"]
    assert not (site.folder / "hf" / "hub").exists()


def test_patterns_choose_files_and_a_list_of_them_fetches_none(site: Site) -> None:
    listed = site.run("pull", TINY, "--include", "*.json", "--exclude", "token*", "--dry-run")
    as_json = site.run("pull", TINY, "--dry-run", "--json")

    assert [line.split()[0] for line in listed.stdout.splitlines()] == [
        "FILE",
        "generation_config.json",
        "config.json",
    ]
    found = json.loads(as_json.stdout)
    assert found["missing_bytes"] == sum(map(len, site.look.repos[TINY].files.values()))
    assert all(len(file["sha256"] or "") in (0, 64) and not file["here"] for file in found["files"])
    assert not any("resolve" in one.path for one in site.look.seen)


def test_events_are_objects_in_json(site: Site) -> None:
    site.look.faults.append(Fault("model.safetensors", bytes_per_s=2_000_000))

    good, bad = site.run("pull", TINY, "--json"), site.run("pull", "acme/none", "--json")

    events = [json.loads(line) for line in good.stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["begin", "done"]
    middle = [one for one in events if one["event"] == "progress"]
    assert middle
    assert all(0 <= one["have_bytes"] <= one["total_bytes"] for one in middle)
    assert any(one["bytes_per_s"] and one["left_s"] is not None for one in middle)
    assert Path(events[-1]["path"]).is_dir()
    (error,) = [json.loads(line) for line in bad.stdout.splitlines()]
    assert (error["event"], error["exit_code"], bad.returncode) == ("error", 3, 3)


def test_a_token_opens_a_gated_model_and_is_seen_nowhere(site: Site) -> None:
    site.look.repos[TINY].gated = True
    site.look.granted.add(TOKEN)
    (site.folder / "token").write_text(TOKEN + "\n")
    (site.folder / "junk").write_text("two words\n")

    without = site.run("pull", TINY)
    junk = site.run("pull", TINY, "--token-file", "junk")
    by_file = site.run("pull", TINY, "--token-file", "token", "--to", "a")
    by_variable = site.run("pull", TINY, "--to", "b", HF_TOKEN=f"{TOKEN}\n")
    (site.folder / ".env").write_text(f"HF_TOKEN={TOKEN}\n")
    process = site.start("pull", TINY, "--to", "c", HF_TOKEN="")
    command = psutil.Process(process.pid).cmdline()
    process.communicate(timeout=WITHIN_S)

    assert without.returncode == 4
    assert "acme/tiny is gated: its owner wants you to agree to something first" in without.stderr
    assert "hint: agree at https://huggingface.co/acme/tiny and set HF_TOKEN" in without.stderr
    assert (junk.returncode, junk.stderr.splitlines()[0]) == (2, "error: --token-file: junk holds no token")
    assert (by_file.returncode, by_variable.returncode, process.returncode) == (0, 0, 0)
    assert TOKEN not in " ".join(command)


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "said", "hint"),
    [
        (["acme/none"], {}, 3, "there is no acme/none on the Hub, or it is private", "check the spelling"),
        ([TINY, "--revision", "v9"], {}, 3, "acme/tiny has no such revision", "leave --revision out"),
        ([f"{GGUF}:Q2_K"], {}, 3, "it has no quantization Q2_K; there are Q8_0, Q4_K_M", "name one, as"),
        ([TINY, "--include", "*.none"], {}, 3, "leave none of 7 files", "--dry-run lists all"),
        ([TINY], {"HF_TOKEN": "hf_wrong"}, 4, "the Hub does not accept the token", "make a new one"),
        ([TINY], {"HF_TOKEN": "hf_wr\nong"}, 4, "the token for acme/tiny can't be sent", "set HF_TOKEN"),
        ([TINY], {"HF_TOKEN": "hf_wröng"}, 4, "the token for acme/tiny can't be sent", "set HF_TOKEN"),
        (
            [TINY],
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            1,
            "can't be fetched from the Hub",
            "check the network",
        ),
        ([TINY], {"HF_HUB_OFFLINE": "1"}, 1, "HF_HUB_OFFLINE forbids to ask", "unset HF_HUB_OFFLINE"),
        ([TINY, "--to", "/dev/null/x"], {}, 1, "Not a directory", "check the folder"),
    ],
)
def test_a_failure_is_a_sentence_a_hint_and_an_exit_code(
    site: Site, arguments: list[str], environ: dict[str, str], code: int, said: str, hint: str
) -> None:
    result = site.run("pull", *arguments, **environ)

    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert hint in result.stderr
    assert "Traceback" not in result.stderr
    assert "hf_" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([TINY, "--revision", "../x"], "--revision: '../x' is no branch"),
        (["models/tiny.gguf"], "that is no name of the Hub"),
        (["--include", "*"], "belong to one MODEL"),
        ([TINY, "--token-file", "none"], "--token-file: none can't be read"),
        ([TINY, "--to", "~nobody-here/x"], "--to: '~nobody-here/x': there is no such user here"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_asked(
    penstock: Command, arguments: list[str], said: str
) -> None:
    result = penstock("pull", *arguments)

    assert result.code == 2
    assert said in result.err


def test_a_hub_that_limits_or_fails_is_told_from_one_that_is_away(site: Site) -> None:
    site.look.faults.append(Fault("api", status=429, headers={"Retry-After": "300"}))
    limited = site.run("pull", TINY)
    site.look.faults.append(Fault("api", status=500, times=3))
    failing = site.run("pull", TINY)

    assert (limited.returncode, failing.returncode) == (1, 1)
    assert "too many requests were sent from here" in limited.stderr
    assert "the Hub has trouble of its own (status 500)" in failing.stderr


def test_what_is_here_is_enough_where_the_hub_must_not_be_asked(site: Site) -> None:
    online = site.run("pull", TINY)
    site.look.seen.clear()

    offline = site.run("pull", TINY, HF_HUB_OFFLINE="1")

    assert (offline.returncode, offline.stdout) == (0, online.stdout)
    assert "is here already; HF_HUB_OFFLINE forbids to compare it" in offline.stderr
    assert site.look.seen == []


def test_every_model_of_the_configuration_is_pulled_where_none_is_named(site: Site) -> None:
    (site.folder / "penstock.toml").write_text(
        f'[[models]]\nname = "a"\nengine = "vllm"\nsource = "{TINY}"\nengine_args = {{ download_dir = "cache" }}\n'
        f'[[models]]\nname = "b"\nengine = "llamacpp"\nsource = "{GGUF}/tiny-Q4_K_M.gguf"\n'
        '[[models]]\nname = "c"\nengine = "llamacpp"\nsource = "demo"\n'
        '[[models]]\nname = "d"\nengine = "sim"\n'
    )

    result = site.run("pull")

    plain, gguf = map(Path, result.stdout.splitlines())
    assert plain.is_dir()
    assert "cache" in plain.parts
    assert gguf.name == "tiny-Q4_K_M.gguf"
    (site.folder / "penstock.toml").write_text('[[models]]\nname = "d"\nengine = "sim"\n')
    assert "nothing to pull" in site.run("pull").stderr


@pytest.mark.parametrize("arguments", [["--version"], ["status"], ["pull", "--help"]])
def test_the_library_is_loaded_by_who_needs_it_alone(site: Site, arguments: list[str]) -> None:
    program = (
        "import sys\nfrom penstock.cli.app import run\n"
        f"try:\n    run({arguments!r})\nfinally:\n    print('huggingface_hub' in sys.modules, file=sys.stderr)"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], cwd=site.folder, env=site.environ, capture_output=True, text=True
    )

    assert result.stderr.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("foo://user:hunter2@x", "Unknown scheme for proxy URL"),
        ("http://x:many", "Invalid port: 'many'"),
    ],
)
def test_a_proxy_that_is_none_is_told_with_its_variable(site: Site, proxy: str, said: str) -> None:
    result = site.run("pull", TINY, HTTPS_PROXY=proxy)

    assert result.returncode == 1
    first, hint = result.stderr.splitlines()[-2:]
    assert first.startswith(f"error: HTTPS_PROXY: the Hub can't be asked for {TINY}: {said}")
    assert hint == "hint: name a proxy as http://HOST:PORT, or unset the variable"
    assert "hunter2" not in result.stderr

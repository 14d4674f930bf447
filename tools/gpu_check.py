#!/usr/bin/env python3
"""Check on a machine with an NVIDIA GPU what can be checked on no other, in one go; prints a table.

    python tools/gpu_check.py                      on a GPU machine with PyTorch and Transformers; no network is needed
    python tools/gpu_check.py --venv FOLDER        with those of another environment
    python tools/gpu_check.py --fake               the same way through, without a GPU: what needs CUDA is skipped
    python tools/gpu_check.py --markdown FILE      also as a table for docs/gpu.md

It reads every field of every GPU, makes a model of real size with random weights and compares what it takes with the
plan, serves it by `transformers serve` behind the gateway with two replicas, stops and kills one of them amid an
answer, and looks whether its memory is freed. Exit code: 1 where something fails.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from gpu_checks import drills, fields, planned
from gpu_checks.row import Row, Verdict, judged, markdown, skipped, text
from gpu_checks.service import MODEL, Service, ServiceError
from gpu_checks.vram import FakeVram, Vram
from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError
from penstock.engines.catalog import SPECS
from penstock.store.home import Home
from penstock.store.runtime import Registry
from penstock.telemetry.fake_nvml import library
from penstock.telemetry.gpu import detect

REPLICAS = 2
ENGINE = "transformers"
SIMULATED = "sim"


@dataclass(frozen=True, slots=True)
class Setup:
    """What is checked with.

    Args:
        folder: for everything that is made.
        venv: the environment with PyTorch and Transformers; None for this one.
        fake: whether the GPU is one that is not there.
    """

    folder: Path
    venv: Path | None
    fake: bool

    @property
    def python(self) -> Path:
        """Of that environment."""
        return self.venv / "bin" / "python" if self.venv else Path(sys.executable)

    @property
    def weights(self) -> Path:
        """Where the model is made."""
        return self.folder / "model"

    @property
    def engine(self) -> str:
        """The kind that serves: the simulated one where there is no model, and no GPU either."""
        return ENGINE if self.weights.is_dir() or not self.fake else SIMULATED

    def model(self) -> str:
        """The lines of its `[[models]]`, beside its name."""
        lines = [f'engine = "{self.engine}"', f"replicas = {REPLICAS}"]
        lines.append(f'timeouts = {{ first_token = "60s", stall = "{drills.STALL_S:g}s", total = "300s" }}')
        if self.engine == SIMULATED:
            lines.append("engine_args = { base_step_s = 0.02 }")
        else:
            lines.append(f'source = "{self.weights}"')
        if self.engine == ENGINE and self.venv:
            lines.append(f'venv = "{self.venv}"')
        return "\n".join(lines)

    def complaints(self) -> list[str]:
        """Why it can't be served."""
        if self.engine == SIMULATED:
            return []
        venv = {"venv": str(self.venv)} if self.venv else {}
        return SPECS[ENGINE].check(ModelConfig(name=MODEL, engine=ENGINE, source=str(self.weights), **venv))


def main() -> int:
    """The exit code."""
    arguments = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        rows = asyncio.run(checked(Setup(Path(arguments.folder or folder), arguments.venv, arguments.fake)))
    print(text(rows))
    if arguments.markdown:
        told = "on a GPU that is not there (`--fake`)" if arguments.fake else "on this machine's GPU"
        arguments.markdown.write_text(f"{date.today():%Y-%m-%d}, {told}:\n\n{markdown(rows)}\n")
    return int(any(row.verdict is Verdict.FAIL for row in rows))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="gpu_check.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--fake", action="store_true", help="without a GPU, with the simulated engine")
    found.add_argument("--venv", type=Path, help="with PyTorch and Transformers; this environment by default")
    found.add_argument("--folder", type=Path, help="for the model, 8 to 16 GB; a temporary one by default")
    found.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    return found


async def checked(setup: Setup) -> list[Row]:
    """All rows; what goes wrong is one, and ends what follows from it."""
    rows: list[Row] = []
    try:
        async for row in _check(setup):
            rows.append(row)
            print(f"{row.verdict:<4}  {row.part}: {row.what}: {row.seen}", file=sys.stderr, flush=True)
    except (ServiceError, PenstockError, RuntimeError, OSError) as error:
        rows.append(
            judged("check", "it came to its end", f"{type(error).__name__}: {error}", "it does", well=False)
        )
    return rows


async def _check(setup: Setup) -> AsyncIterator[Row]:
    home = Home(setup.folder / "home")
    home.prepare()
    vram = FakeVram(Registry(home.replicas), setup.folder) if setup.fake else Vram()
    for row in fields.check(vram):
        yield row
    if vram.look().trouble is not None:
        return
    for row in planned.check(detect({}, library(vram.script)())[0], setup.weights, setup.python):
        yield row
    if complaints := setup.complaints():
        yield skipped("serve", f"{ENGINE} serve behind the gateway", "; ".join(complaints))
        return
    if setup.engine == SIMULATED:
        yield skipped("serve", f"{ENGINE} serve", "no model was made: the simulated engine stands in for it")
    # or its answers end after some hundred tokens
    members = {"ignore_eos": True} if setup.engine == SIMULATED else {}
    service = Service(setup.folder, setup.model(), _exporter_options(vram), members)
    async for row in _drilled(service, vram):
        yield row


async def _drilled(service: Service, vram: Vram) -> AsyncIterator[Row]:
    before_bytes = vram.used_bytes()
    try:
        took_s = await service.start()
        yield judged("serve", f"{REPLICAS} replicas ready", f"{took_s:.1f} s", "they are", well=True)
        for drill in (drills.serve(service, vram), drills.stall(service), drills.kill(service, vram)):
            async for row in drill:
                yield row
    finally:
        ended = [row async for row in drills.stop(service, vram, before_bytes)]
    for row in ended:
        yield row


def _exporter_options(vram: Vram) -> tuple[str, ...]:
    return ("--fake-gpus", str(vram.script)) if vram.script else ()


if __name__ == "__main__":
    sys.exit(main())

"""The planner against a real vLLM: how many tokens its KV cache has; skipped without one.

PENSTOCK_VLLM_VENV=/path/to/venv pytest tests/e2e/test_vllm_plan.py
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from penstock.engines.model_files import describe
from penstock.engines.paths import DEMO_FOLDER
from penstock.engines.vllm import VENV_VARIABLE
from penstock.planner.room import Terms, token_bytes

KV_GIB = 1
START_S_MAX = 240
TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")

pytestmark = pytest.mark.skipif(VENV_VARIABLE not in os.environ, reason=f"set {VENV_VARIABLE} to vLLM's venv")


@pytest.mark.timeout(START_S_MAX + 60)
@pytest.mark.parametrize("context", [512, 2048])
def test_vllm_has_as_many_tokens_of_kv_cache_as_were_planned(tmp_path: Path, context: int) -> None:
    terms = Terms(context, sequences=8, batch_tokens=2048, utilization=0.9)
    planned = KV_GIB * 2**30 // token_bytes(describe("demo").architecture, 1, terms)

    logged = _logged_tokens(tmp_path / "vllm.log", context)

    assert logged == pytest.approx(planned, rel=0.02)


def _logged_tokens(log: Path, context: int) -> int:
    """The tokens that vLLM logs as it starts; it is ended then."""
    argv = [
        *(str(Path(os.environ[VENV_VARIABLE]) / "bin" / "vllm"), "serve", str(DEMO_FOLDER)),
        *("--host", "127.0.0.1", "--port", "0", "--max-model-len", str(context), "--enforce-eager"),
        *("--max-num-seqs", "8", "--shutdown-timeout", "1"),
    ]
    environ = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with log.open("wb") as file:
        process = subprocess.Popen(argv, env=environ, stdout=file, stderr=file, start_new_session=True)
    try:
        end = time.monotonic() + START_S_MAX
        while not (found := TOKENS.search(log.read_text("utf-8", "replace"))):
            assert process.poll() is None, f"vLLM ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < end, f"vLLM did not start: {log.read_text()[-2000:]}"
            time.sleep(0.5)
        return int(found[1].replace(",", ""))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

"""Runs a module of Python that takes its API key as an option, without showing it in the list of processes.

`python keyed_module.py MODULE OPTION...` is `python -m MODULE OPTION... --api-key KEY`, with a key from the
environment. It runs in the engine's own environment, and imports nothing of Penstock.
"""

from __future__ import annotations

import os
import runpy
import sys

KEY_VARIABLE = "PENSTOCK_INTERNAL_ENGINE_KEY"

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where modules have the names of engines
    module, *options = sys.argv[1:]
    sys.argv[1:] = [*options, "--api-key", os.environ.pop(KEY_VARIABLE)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

"""Why a child ended, in a sentence: from its return code and its last lines."""

from __future__ import annotations

import re
import signal

from penstock.supervisor.process import Ended

LAST_WORDS_MAX = 200

_CAUSES: tuple[tuple[str, str], ...] = (
    (r"address already in use|couldn't bind|errno 98", "its port was taken by another process"),
    (r"cuda out of memory|outofmemoryerror", "the GPU has too little free memory; lower the context"),
    (r"nccl", "the GPUs could not talk to each other (NCCL)"),
    (r"gated repo|401 client error|hf_token", "the model needs a Hugging Face token: set HF_TOKEN"),
    (r"not within the file bounds|corrupted or incomplete", "the model file is damaged or incomplete"),
    (r"invalid magic", "the model file is not a GGUF file"),
    (r"no such file or directory|filenotfounderror", "a file is missing"),
    (r"no space left on device", "the disk is full"),
    (r"cannot allocate memory|bad_alloc|memoryerror", "the machine has too little free memory"),
    (r"no module named '?penstock", "Penstock is not installed for this Python"),
)


def explained(ended: Ended) -> str:
    """The cause, as the end of a sentence that begins with the child's name."""
    how = _how(ended.returncode)
    text = "\n".join(ended.last_lines).lower()
    cause = next((cause for pattern, cause in _CAUSES if re.search(pattern, text)), "")
    if not cause and ended.returncode == -signal.SIGKILL:
        cause = "probably out of memory, if nobody killed it; lower the context, the batch or the replicas"
    if not cause:
        words = next((line.strip() for line in reversed(ended.last_lines) if line.strip()), "")
        cause = f"its last words: {words[:LAST_WORDS_MAX]}" if words else "without a word"
    return f"{how}: {cause}"


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was killed by {name} ({128 - returncode})"

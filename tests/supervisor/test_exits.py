"""Why a child ended, in a sentence."""

from __future__ import annotations

import pytest

from penstock.supervisor.exits import explained
from penstock.supervisor.process import Ended


@pytest.mark.parametrize(
    ("returncode", "line", "sentence"),
    [
        (1, "couldn't bind HTTP server socket, port: 80", "ended with exit code 1: its port was taken"),
        (1, "torch.OutOfMemoryError: CUDA out of memory", "the GPU has too little free memory"),
        (1, "RuntimeError: NCCL error", "(NCCL)"),
        (1, "huggingface: 401 Client Error", "set HF_TOKEN"),
        (1, "tensor data is not within the file bounds", "damaged or incomplete"),
        (1, "invalid magic characters: 'garb'", "not a GGUF file"),
        (1, "failed to open x (No such file or directory)", "a file is missing"),
        (1, "OSError: [Errno 28] No space left on device", "the disk is full"),
        (-6, "terminate called: std::bad_alloc", "was killed by SIGABRT (134): the machine has too little"),
    ],
)
def test_a_known_cause_is_named(returncode: int, line: str, sentence: str) -> None:
    assert sentence in explained(Ended(returncode, ("INFO hello", line)))


def test_a_kill_without_a_word_is_probably_for_memory() -> None:
    assert explained(Ended(-9)).startswith("was killed by SIGKILL (137): probably out of memory")


def test_an_unknown_cause_is_told_in_its_own_last_words() -> None:
    assert (
        explained(Ended(2, ("hello", "bad thing", ""))) == "ended with exit code 2: its last words: bad thing"
    )


def test_silence_is_told_as_such() -> None:
    assert explained(Ended(0)) == "ended with exit code 0: without a word"


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert explained(Ended(-40)) == "was killed by signal 40 (168): without a word"

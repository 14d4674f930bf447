"""Why a child ended, in a sentence."""

from __future__ import annotations

import pytest

from penstock.supervisor.exits import LAST_LINES, explained
from penstock.supervisor.process import Ended

INFO = ("INFO 11-28 14:00:00 [utils.py:1] all is well",) * 200


@pytest.mark.parametrize(
    ("returncode", "line", "sentence"),
    [
        (1, "couldn't bind HTTP server socket, port: 80", "ended with exit code 1: its port was taken"),
        (1, "torch.OutOfMemoryError: CUDA out of memory", "the GPU has too little free memory: lower"),
        (1, "ValueError: No available memory for the cache blocks.", "the GPU has too little free memory"),
        (1, "RuntimeError: CUDA error: an illegal memory access was encountered", "(CUDA error)"),
        (1, "RuntimeError: NCCL error: unhandled system error", "could not talk to each other (NCCL)"),
        (1, "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(...)", "(NCCL timeout)"),
        (1, "huggingface: 401 Client Error", "set HF_TOKEN"),
        (1, "OSError: You are trying to access a gated repo.", "accept its terms"),
        (1, "404 Client Error. Repository Not Found for url", "no such model on the Hub"),
        (1, "tensor data is not within the file bounds", "damaged or incomplete"),
        (
            1,
            "SafetensorError: Error while deserializing header: incomplete metadata",
            "damaged or incomplete",
        ),
        (1, "invalid magic characters: 'garb'", "not a GGUF file"),
        (1, "ValueError: Unknown quantization method: awq2", "can't run this quantization"),
        (1, "ValueError: Model architectures ['X'] are not supported for now.", "kind of model"),
        (1, "failed to open x (No such file or directory)", "a file is missing"),
        (1, "OSError: [Errno 28] No space left on device", "the disk is full"),
        (1, "OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'", "make /dev/shm larger"),
        (-7, "Bus error (core dumped)", "was killed by SIGBUS (135): shared memory is too small"),
        (-6, "terminate called: std::bad_alloc", "was killed by SIGABRT (134): the machine has too little"),
        (1, "ImportError: libcudart.so.12: cannot open shared object file", "its installation is broken"),
        (1, "ERROR Worker proc died with exit code: -4", "lacks instructions"),
        (1, "vllm: error: unrecognized arguments: --swap-space 4", "look at models.N.engine_args"),
        (1, "OSError: [Errno 24] Too many open files", "ulimit -n"),
    ],
)
def test_a_known_cause_is_named_with_the_line_that_tells_it(
    returncode: int, line: str, sentence: str
) -> None:
    told = explained(Ended(returncode, ("INFO hello", line)))

    assert sentence in told.sentence
    assert told.evidence == line


def test_what_the_engine_s_kind_knows_comes_first() -> None:
    causes = ((r"out of memory", "lower kv_cache_dtype"),)

    told = explained(Ended(1, ("CUDA out of memory",)), causes)

    assert told.sentence == "ended with exit code 1: lower kv_cache_dtype; its log says: CUDA out of memory"


def test_a_root_cause_long_before_the_end_is_found() -> None:
    root = "(EngineCore pid=7) ERROR [core.py:866] ValueError: Unknown quantization method: awq2"
    last = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"

    told = explained(Ended(1, (*INFO, root, *INFO, last)))

    assert told.evidence == root


def test_an_unknown_root_cause_is_preferred_to_what_points_at_it() -> None:
    root = "(EngineCore pid=7) ERROR [core.py:866] KeyError: 'layers.99'"
    last = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"

    assert explained(Ended(1, (root, *INFO, last, ""))).sentence.endswith(f"its last words: {root}")


def test_harmless_lines_from_long_ago_tell_nothing() -> None:
    told = explained(Ended(3, ("INFO nccl warn level 0", *INFO[: LAST_LINES + 1])))

    assert "NCCL" not in told.sentence


def test_warnings_and_what_is_for_information_are_no_causes() -> None:
    warning = "(APIServer pid=7) WARNING 11-28 Found ulimit of 20000, which may cause `[Errno 24] Too many open files`"

    told = explained(
        Ended(1, (warning, "ERROR Worker proc VllmWorker-0 died unexpectedly (exit code: None)"))
    )

    assert "one of its processes was killed or fell" in told.sentence


def test_a_kill_for_memory_is_known_from_the_control_group() -> None:
    told = explained(Ended(1, ("worker died",), oom_kills=1))

    assert told.sentence.startswith(
        "ended with exit code 1: out of memory, as the kernel says (oom_kill 1 in its"
    )


def test_a_kill_while_the_kernel_killed_for_memory_is_taken_for_one() -> None:
    assert "oom_kill in /proc/vmstat has grown by 2" in explained(Ended(-9, machine_oom_kills=2)).sentence
    assert "oom_kill" not in explained(Ended(1, machine_oom_kills=2)).sentence


def test_a_kill_is_somebody_s_where_the_kernel_counts_and_has_counted_none() -> None:
    told = explained(Ended(-9, ("RuntimeError: CUDA error",), machine_oom_kills=0))

    assert told.sentence.startswith(
        "was killed by SIGKILL (137): somebody else killed it; not the kernel for memory"
    )
    assert "CUDA" not in told.sentence


def test_a_kill_has_two_possible_causes_where_the_kernel_does_not_count() -> None:
    assert "somebody killed it, or the kernel for memory" in explained(Ended(-9)).sentence


def test_a_taken_port_is_told_apart() -> None:
    assert explained(Ended(1, ("[Errno 98] Address already in use",))).port_taken
    assert not explained(Ended(1, ("No space left on device",))).port_taken


def test_an_end_before_it_served_is_told_as_such() -> None:
    assert "done before it served anything" in explained(Ended(0), was_ready=False).sentence


def test_what_goes_on_in_the_background_is_told_as_such() -> None:
    assert "in the background with 2 processes" in explained(Ended(0, left=2), was_ready=False).sentence


def test_an_unknown_cause_is_told_in_its_own_last_words() -> None:
    told = explained(Ended(2, ("hello", "bad thing", "")))

    assert told.sentence == "ended with exit code 2: its last words: bad thing"


def test_what_went_wrong_is_told_rather_than_the_hint_below_it() -> None:
    told = explained(Ended(2, ("error: not TOML (penstock.toml)", "hint: every key is listed")))

    assert told.sentence == "ended with exit code 2: its last words: error: not TOML (penstock.toml)"


def test_silence_is_told_as_such() -> None:
    assert explained(Ended(0)).sentence == "ended with exit code 0: without a word"


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert explained(Ended(-40)).sentence == "was killed by signal 40 (168): without a word"


def test_colours_are_left_out() -> None:
    assert explained(Ended(1, ("\x1b[31mbad\x1b[0m",))).evidence == "bad"

"""Room for another replica is counted from what a running one holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.core.config import ModelConfig
from penstock.supervisor.machine import (
    family,
    host_free_bytes,
    main_memory_here,
    private_bytes,
    resident_bytes,
)
from penstock.supervisor.room import HOST_RESERVE_BYTES, Machine, Room, room_beside
from penstock.telemetry.gpu import GpuMemory

MIB = 1024**2
GIB = 1024**3
SIM = ModelConfig(name="m", engine="sim")


def machine(
    free: int = 8 * GIB,
    held: int = GIB,
    gpus: tuple[GpuMemory, ...] = (),
    given: tuple[int, ...] | None = None,
) -> Machine:
    """One whose replicas are processes 1 and 2, each with a child of ten times its id that holds as much."""
    return Machine(lambda: free, lambda pid: (pid, pid * 10), lambda _: held, lambda: gpus, lambda _: given)


def gpu(index: int, free_gib: float, *, held: dict[int, int] | None = None) -> GpuMemory:
    return GpuMemory(index, 48 * GIB, int(free_gib * GIB), held or {})


@pytest.mark.parametrize(
    ("free", "fits"), [(10 * GIB, 4), (HOST_RESERVE_BYTES + 2 * GIB, 1), (2 * GIB, 0), (0, 0)]
)
def test_memory_is_counted_from_the_whole_family_of_the_largest_replica(free: int, fits: int) -> None:
    room = room_beside(SIM, SIM, [1], machine(free))

    assert room.replicas == fits
    assert room.why.startswith("another replica needs 2.1 GB of memory; ")


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert room_beside(SIM, SIM, [], machine()) == Room(None)
    assert room_beside(SIM, SIM, [1], machine(held=0)) == Room(None)


def test_another_file_of_llama_cpp_is_needed_beside_what_a_replica_holds(tmp_path: Path) -> None:
    (tmp_path / "b.gguf").write_bytes(bytes(3 * MIB))
    before = ModelConfig(name="m", engine="llamacpp", source="demo")
    after = ModelConfig(name="m", engine="llamacpp", source=str(tmp_path / "b.gguf"))

    same = room_beside(before, before, [1], machine(HOST_RESERVE_BYTES + 5 * MIB, MIB))
    other = room_beside(before, after, [1], machine(HOST_RESERVE_BYTES + 5 * MIB, MIB))

    assert (same.replicas, other.replicas) == (2, 1)


def test_larger_weights_need_as_much_more(tmp_path: Path) -> None:
    for name, size in (("old", 1), ("new", 4)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(size * MIB))
    before, after = (
        ModelConfig(name="m", engine="vllm", source=str(tmp_path / name)) for name in ("old", "new")
    )

    room = room_beside(before, after, [1], machine(HOST_RESERVE_BYTES + 10 * MIB, MIB))

    assert room.replicas == 2  # of 2 MiB that are held, and 3 more


def test_vllm_takes_its_share_of_each_gpu() -> None:
    vllm = ModelConfig(
        name="m",
        engine="vllm",
        source="org/model",
        engine_args={"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5},
    )

    two = room_beside(vllm, vllm, [], machine(gpus=(gpu(0, 30), gpu(1, 24.5), gpu(2, 40))))
    none = room_beside(vllm, vllm, [], machine(gpus=(gpu(0, 30), gpu(1, 2))))

    assert two.replicas == 1
    assert none == Room(
        0, "another replica needs 25.8 GB of each of 2 GPUs; free are 32.2 GB on GPU 0, 2.1 GB on GPU 1"
    )


def test_other_engines_need_what_a_replica_holds_of_the_gpus() -> None:
    gpus = (gpu(0, 10, held={10: 20 * GIB}), gpu(1, 30))

    room = room_beside(SIM, SIM, [1], machine(gpus=gpus))

    assert room == Room(
        1, "another replica needs 21.5 GB of a GPU; free are 10.7 GB on GPU 0, 32.2 GB on GPU 1"
    )


def test_only_gpus_that_it_may_have_count() -> None:
    vllm = ModelConfig(name="m", engine="vllm", source="org/model", gpus=(0, 1))
    gpus = (gpu(0, 47), gpu(1, 47), gpu(2, 2))

    assert room_beside(vllm, vllm, [], machine(gpus=gpus, given=(1,))).replicas == 1
    assert room_beside(vllm, vllm, [], machine(gpus=gpus, given=(2,))).replicas == 0
    assert room_beside(vllm, vllm, [], machine(gpus=gpus, given=())) == Room(
        0, "another replica needs a GPU, and of those that it may have, none are free"
    )


@pytest.mark.parametrize(
    ("limit", "used", "stat", "lines"),
    [
        ("memory.max", "memory.current", "memory.stat", ""),
        (
            *("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
            "total_active_file 300\ntotal_inactive_file 400\n",
        ),
    ],
)
def test_a_container_s_limit_counts_and_cached_files_do_not(
    tmp_path: Path, limit: str, used: str, stat: str, lines: str
) -> None:
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / used).write_text("1000\n")
    (tmp_path / stat).write_text(f"anon 300\nactive_file 300\ninactive_file 400\n{lines}")

    (tmp_path / limit).write_text("3000\n")
    limited = host_free_bytes(tmp_path)
    (tmp_path / limit).write_text("max\n")

    assert limited == 2700
    assert host_free_bytes(tmp_path) > 3000
    assert main_memory_here(tmp_path).name.endswith("GiB of RAM")


def test_a_process_holds_memory_and_one_that_is_gone_holds_none() -> None:
    mine = os.getpid()

    assert mine in family(mine)
    assert 0 < private_bytes(mine) <= resident_bytes([mine])
    assert (list(family(2**22 + 1)), private_bytes(2**22 + 1), resident_bytes([2**22 + 1])) == ([], 0, 0)

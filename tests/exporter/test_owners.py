"""A process belongs to the replica in whose tree or session it is."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from penstock.exporter.owners import Kin, Owner, by_pid, kin, owner_of

OWNERS = by_pid([Owner("llama-0", "llama", 100), Owner("qwen-0", "qwen", 200), Owner("gone", "x", 0)])


def tree(**parents: tuple[int, int]) -> dict[int, Kin]:
    return {int(pid[1:]): Kin(parent, session, "python") for pid, (parent, session) in parents.items()}


def name_of(pid: int, kin_of: dict[int, Kin]) -> str | None:
    owner = owner_of(pid, OWNERS, kin_of.get)
    return owner.replica if owner else None


def test_children_and_their_children_belong_to_the_replica() -> None:
    found = tree(p100=(1, 100), p101=(100, 101), p102=(101, 102), p300=(1, 300))

    assert [name_of(pid, found) for pid in (100, 101, 102, 300, 999)] == [
        *("llama-0", "llama-0", "llama-0"),
        *(None, None),
    ]


def test_what_has_lost_its_parent_belongs_to_the_replica_of_its_session() -> None:
    assert name_of(201, tree(p201=(1, 200))) == "qwen-0"


def test_what_is_left_of_a_replica_that_is_gone_belongs_to_nobody() -> None:
    assert name_of(301, tree(p301=(1, 300))) is None


@given(
    st.dictionaries(st.integers(1, 60), st.tuples(st.integers(0, 60), st.integers(0, 60))), st.integers(0, 60)
)
def test_any_tree_is_walked_to_an_end(parents: dict[int, tuple[int, int]], pid: int) -> None:
    found = {of: Kin(parent, session, "x") for of, (parent, session) in parents.items()}

    owner_of(pid, OWNERS, found.get)


def test_the_kernel_tells_of_a_real_process_and_its_child() -> None:
    child = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", child], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    try:
        found = kin(grandchild)
        owner = owner_of(grandchild, by_pid([Owner("a-0", "a", process.pid)]))
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()

    assert found == Kin(process.pid, process.pid, "sleep")
    assert owner is not None
    assert kin(2**22 + 1) is None

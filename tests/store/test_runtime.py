"""Registrations of replicas, and the lock of whoever runs a home."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock.core.errors import PenstockError
from penstock.store.runtime import (
    Drained,
    Holder,
    Lock,
    PartReport,
    PartReports,
    Registration,
    Registry,
    lock_holder,
)

HOLD = """
import sys, signal
from pathlib import Path
from penstock.store.runtime import Holder, Lock
Lock(Path(sys.argv[1])).acquire(Holder(pid=int(sys.argv[2]) or __import__("os").getpid(), listen="http://h:1"))
print("held", flush=True)
signal.pause()
"""


def registration(name: str = "demo-0", model: str = "demo", pid: int = 0) -> Registration:
    """A replica that this test process stands for."""
    return Registration(name, model, "sim", "http://127.0.0.1:4", pid or os.getpid(), "secret", 1.0)


def dead_pid() -> int:
    """The id of a process that has been."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_a_registered_replica_is_found_until_it_is_unregistered(registry: Registry) -> None:
    registry.register(registration())

    assert registry.registrations() == (registration(),)

    registry.unregister("demo-0")

    assert registry.registrations() == ()


def test_unregistering_twice_is_no_error(registry: Registry) -> None:
    registry.unregister("demo-0")

    assert registry.registrations() == ()


def test_a_replica_whose_process_is_gone_is_not_listed(registry: Registry) -> None:
    registry.register(registration(pid=dead_pid()))

    assert registry.registrations() == ()


def test_torn_and_foreign_files_are_passed_over(registry: Registry, tmp_path: Path) -> None:
    registry.register(registration())
    (tmp_path / "torn.json").write_text('{"name": "x"')
    (tmp_path / "foreign.json").write_text('["hello"]')
    (tmp_path / "notes.txt").write_text("hello")

    assert registry.registrations() == (registration(),)


def test_a_registration_is_for_its_owner_alone(registry: Registry, tmp_path: Path) -> None:
    registry.register(registration())

    assert stat.S_IMODE((tmp_path / "demo-0.json").stat().st_mode) == 0o600


def test_a_registration_does_not_show_its_key() -> None:
    assert "secret" not in repr(registration())


def test_a_model_name_with_a_slash_is_registered_too(registry: Registry) -> None:
    replica = registration(name="org/model-0", model="org/model")

    registry.register(replica)

    assert registry.registrations() == (replica,)


def test_clearing_a_model_leaves_the_others(registry: Registry) -> None:
    registry.register(registration("a-0", "a"))
    registry.register(registration("b-0", "b"))

    registry.clear("a")

    assert [replica.name for replica in registry.registrations()] == ["b-0"]


def test_every_change_is_seen(registry: Registry) -> None:
    seen = {registry.changed_ns()}
    for _ in range(20):
        registry.register(registration())
        seen.add(registry.changed_ns())
        registry.unregister("demo-0")
        seen.add(registry.changed_ns())

    assert len(seen) == 41


def test_no_folder_means_no_replicas(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "absent")

    assert registry.registrations() == ()
    assert registry.changed_ns() == 0


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    Lock(tmp_path / "lock").acquire(Holder(pid=71, listen="http://127.0.0.1:8080"))

    with pytest.raises(PenstockError) as caught:
        Lock(tmp_path / "lock", sleep=lambda _: None).acquire(Holder(pid=72))

    assert caught.value.message == "Penstock is already running here (pid 71, http://127.0.0.1:8080)"
    assert "penstock stop" in caught.value.hint


def test_a_released_lock_is_free_and_leaves_no_file(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    lock.acquire(Holder(pid=71))

    lock.release()

    assert not (tmp_path / "lock").exists()
    Lock(tmp_path / "lock").acquire(Holder(pid=72))


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lock", "0"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    held = lock_holder(tmp_path / "lock")
    holder.send_signal(signal.SIGKILL)
    holder.communicate()

    assert held == Holder(pid=holder.pid, listen="http://h:1")
    assert lock_holder(tmp_path / "lock") is None
    Lock(tmp_path / "lock").acquire(Holder(pid=72))


def test_a_file_without_a_holder_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("rest of a power cut")

    assert lock_holder(tmp_path / "lock") is None
    assert lock_holder(tmp_path / "absent") is None


def test_a_holder_that_has_not_said_who_it_is_holds_all_the_same(tmp_path: Path) -> None:
    Lock(tmp_path / "lock").acquire(Holder(pid=71))
    (tmp_path / "lock").write_text("")

    assert lock_holder(tmp_path / "lock") == Holder()
    with pytest.raises(PenstockError, match=r"already running here$"):
        Lock(tmp_path / "lock", sleep=lambda _: None).acquire(Holder(pid=72))


def test_a_lock_that_is_looked_at_meanwhile_is_taken_all_the_same(tmp_path: Path) -> None:
    first = Lock(tmp_path / "lock")
    first.acquire(Holder(pid=71))

    Lock(tmp_path / "lock", sleep=lambda _: first.release()).acquire(Holder(pid=72))

    assert lock_holder(tmp_path / "lock") == Holder(pid=72)


def test_drained_replicas_are_known_to_everybody_until_they_are_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "drained.json"
    here, there = Drained(path), Drained(path)

    here.set("a", drained=True)
    here.set("b", drained=True)
    both = there()
    here.set("a", drained=False)

    assert (both, there()) == ({"a", "b"}, {"b"})


def test_what_two_drain_at_the_same_time_is_drained(tmp_path: Path) -> None:
    def drain(first: str) -> None:
        drained = Drained(tmp_path / "drained.json")
        for number in range(20):
            drained.set(f"{first}-{number}", drained=True)

    with ThreadPoolExecutor() as pool:
        list(pool.map(drain, "ab"))

    assert len(Drained(tmp_path / "drained.json")()) == 40


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "[1]"])
def test_a_damaged_list_of_drained_replicas_changes_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "drained.json"
    drained = Drained(path)
    drained.set("a", drained=True)
    before = drained()
    path.write_text(text)

    assert (before, drained()) == ({"a"}, {"a"})


def test_the_last_report_of_a_part_is_read_until_it_is_removed(tmp_path: Path) -> None:
    reports = PartReports(tmp_path)
    reports.write(PartReport("demo-0", "running", pid=7))
    reports.write(PartReport("demo-0", "waiting", why="it ended", restarts=1))

    assert reports.all() == (PartReport("demo-0", "waiting", why="it ended", restarts=1),)

    reports.remove("demo-0")

    assert reports.all() == ()


def test_how_far_a_start_has_come_is_told_of_the_part_that_says_it(tmp_path: Path) -> None:
    reports = PartReports(tmp_path)
    reports.write(PartReport("demo-0", "running", loading="loading weights, 50 %"))
    (tmp_path / "torn.json").write_bytes(b'{"name": "to')

    assert [reports.loading(name) for name in ("demo-0", "demo-1", "torn")] == [
        "loading weights, 50 %",
        "",
        "",
    ]


def test_a_torn_report_is_passed_over(tmp_path: Path) -> None:
    reports = PartReports(tmp_path)
    reports.write(PartReport("demo-0", "running"))
    (tmp_path / "torn.json").write_bytes(b'{"name": "to')

    assert [report.name for report in reports.all()] == ["demo-0"]

"""Where control groups can be made, and what they do."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.supervisor.cgroups import Cgroups, Group, own_folders, sweep

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "36 35 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "37 35 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "38 35 0:32 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
    "39 35 0:33 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
)


def test_the_own_group_is_found_where_version_2_is_mounted() -> None:
    found = own_folders("0::/system.slice/penstock.service\n", UNIFIED)

    assert found == {"": Path("/sys/fs/cgroup/system.slice/penstock.service")}


def test_the_own_groups_are_found_in_each_hierarchy_of_a_hybrid_machine() -> None:
    found = own_folders("9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/x\n0::/\n", HYBRID)

    assert found[""] == Path("/sys/fs/cgroup/unified")
    assert found["memory"] == Path("/sys/fs/cgroup/memory/a/b")
    assert found["name=systemd"] == Path("/sys/fs/cgroup/systemd")


def test_a_container_that_sees_a_part_of_the_hierarchy_finds_itself_there() -> None:
    shown = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"

    assert own_folders("0::/docker/abc/inner\n", shown) == {"": Path("/sys/fs/cgroup/inner")}


def test_strange_lines_are_passed_over() -> None:
    assert own_folders("nonsense\n0::/a\n", "short - cgroup2\n\nx\n" + UNIFIED) == {
        "": Path("/sys/fs/cgroup/a")
    }


def test_where_none_can_be_made_there_is_none() -> None:
    assert Cgroups().make("demo-0") is None
    assert Cgroups(Path("/nowhere")).make("demo-0") is None


def test_a_group_is_made_below_its_parent_and_removed_with_what_is_below(tmp_path: Path) -> None:
    group = Cgroups(tmp_path).make("demo-0")
    assert group is not None
    (group.path / "of-the-engine").mkdir()

    group.remove()

    assert list(tmp_path.iterdir()) == []


def test_processes_of_groups_below_count_too(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "cgroup.procs").write_text("7\n8\n")
    (tmp_path / "below" / "cgroup.procs").write_text("5\n")

    assert Group(tmp_path).pids() == (5, 7, 8)


def test_kills_for_memory_are_read_in_both_versions(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 2\noom_group_kill 0\n")
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")

    assert Group(tmp_path).oom_kills() == 2
    assert Group(tmp_path, tmp_path / "v1").oom_kills() == 3
    assert Group(tmp_path / "absent").oom_kills() == 0


def test_a_kernel_that_can_not_kill_a_group_says_so(tmp_path: Path) -> None:
    assert not Group(tmp_path).kill()


def test_old_groups_that_are_empty_are_swept_away(tmp_path: Path) -> None:
    for name in ("penstock-old", "penstock-used", "penstock-new", "of-others"):
        (tmp_path / name).mkdir()
    (tmp_path / "penstock-used" / "cgroup.procs").write_text("7\n")
    for name in ("penstock-old", "penstock-used", "of-others"):
        os.utime(tmp_path / name, (0, 0))

    sweep(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["of-others", "penstock-new", "penstock-used"]

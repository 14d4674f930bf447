"""`penstock restart` where nothing runs that could do it."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.store.home import Home
from penstock.store.runtime import Holder, Lock
from tests.cli.conftest import Command


def test_where_nothing_runs_it_is_told_in_the_exit_code(penstock: Command) -> None:
    result = penstock("restart", "m")

    assert (result.code, result.out) == (3, "")
    assert result.err == "error: Penstock is not running here\nhint: `penstock up` starts it\n"


def test_an_engine_that_was_started_alone_is_not_restarted(penstock: Command, folder: Path) -> None:
    home = Home(folder / ".penstock")
    home.prepare()
    lock = Lock(home.engine_lock("m"))
    lock.acquire(Holder(os.getpid()))
    try:
        result = penstock("restart", "m")
    finally:
        lock.release()

    assert result.code == 1
    assert f"m was started alone (`penstock engine`, pid {os.getpid()})" in result.err
    assert "hint: stop that process and start it again" in result.err


def test_a_time_that_is_none_is_wrong_usage(penstock: Command) -> None:
    for command in (("restart", "m"), ("reload",)):
        result = penstock(*command, "--within", "soon")

        assert result.code == 2
        assert "error: --within: expected a duration" in result.err

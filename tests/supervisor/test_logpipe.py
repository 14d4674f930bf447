"""The pipe from a part to its log."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from penstock.supervisor.logfile import LogFile, files_of
from penstock.supervisor.logpipe import LogPipe


def written(log: Path) -> bytes:
    return b"".join(path.read_bytes() for path in reversed(files_of(log)))


def test_all_that_is_written_is_in_the_log_before_its_last_line(tmp_path: Path) -> None:
    pipe = LogPipe(LogFile(tmp_path / "log", bytes_max=1 << 20))
    sink = os.fdopen(os.dup(pipe.write_fd), "wb", 0)
    pipe.start()

    sent = b"".join(b"line %07d\n" % number for number in range(200_000))

    def send() -> None:
        with sink:
            view = memoryview(sent)
            while view:
                view = view[sink.write(view) :]

    sender = threading.Thread(target=send)
    sender.start()
    sender.join()
    pipe.finish("over")

    found = written(tmp_path / "log")
    assert found.startswith(sent)
    assert found[len(sent) :].endswith(b"Z over\n")
    assert pipe.written_bytes == len(sent) + len(found[len(sent) :])


def test_an_end_that_nobody_lets_go_of_does_not_hold_it_up(tmp_path: Path) -> None:
    pipe = LogPipe(LogFile(tmp_path / "log"))
    held = os.dup(pipe.write_fd)
    pipe.start()

    os.write(held, b"still here\n")
    pipe.finish("over")
    os.close(held)

    assert written(tmp_path / "log").startswith(b"still here\n--- ")

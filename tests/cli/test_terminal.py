"""What is said to people."""

from __future__ import annotations

import os
import subprocess
import sys

GO_ON = "from penstock.cli.terminal import out, say; say('line'); say('line'); out('went on')"


def test_who_can_not_be_told_any_more_ends_nothing() -> None:
    read, write = os.pipe()
    os.close(read)

    done = subprocess.run([sys.executable, "-c", GO_ON], stdout=subprocess.PIPE, stderr=write, text=True)

    os.close(write)
    assert done.stdout == "went on\n"

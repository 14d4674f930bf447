"""Alerts that no drill makes fire, with the reason: promtool alone has seen them fire (`tests/render`)."""

from __future__ import annotations

UNSEEN = {
    "HostMemoryLow": "it takes all the memory of the machine, which others need",
    "HostFilesNearlyOut": "it takes all the files of the machine, or a limit that is the whole machine's",
}

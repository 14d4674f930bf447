"""How the delivery goes, in a file beside the ledger, for who asks from another process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec

from penstock.store.home import write_private


class Progress(msgspec.Struct, omit_defaults=True):
    """How it goes; times in seconds since the epoch, 0 where there was none yet.

    Args:
        sent_at: when rows arrived last.
        failing_since: the first try since then that failed; 0 while none does.
        message, hint: why the last one did.
        next_try_at: when it is tried again.
    """

    sent_at: float = 0.0
    failing_since: float = 0.0
    message: str = ""
    hint: str = ""
    next_try_at: float = 0.0


def load(ledger: Path) -> Progress:
    """What was saved last."""
    try:
        return msgspec.json.decode(_path(ledger).read_bytes(), type=Progress)
    except (OSError, msgspec.DecodeError):
        return Progress()


def save(ledger: Path, progress: Progress) -> None:
    """Leaves it for others; where the disk is full they see the old one."""
    with suppress(OSError):
        write_private(_path(ledger), msgspec.json.encode(progress), durable=False)


def _path(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}.delivery")

"""What was found of one thing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How it is, the worst first; `skip` could not be looked at, or does not matter here."""

    FAIL = "fail"
    WARN = "warn"
    OK = "ok"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row.

    Args:
        subject: what was looked at, in a word or two.
        seen: what was seen, in one line.
        mend: what to do about it, in one line; empty where there is nothing to do.
    """

    subject: str
    level: Level
    seen: str
    mend: str = ""


def ok(subject: str, seen: str) -> Finding:
    """All is well."""
    return Finding(subject, Level.OK, seen)


def warn(subject: str, seen: str, mend: str) -> Finding:
    """It works, and may not for long, or not as well as it could."""
    return Finding(subject, Level.WARN, seen, mend)


def fail(subject: str, seen: str, mend: str) -> Finding:
    """It does not work, or will break."""
    return Finding(subject, Level.FAIL, seen, mend)


def skip(subject: str, seen: str) -> Finding:
    """It could not be looked at, or does not matter here."""
    return Finding(subject, Level.SKIP, seen)


def any_fails(findings: Iterable[Finding]) -> bool:
    """Whether something does not work."""
    return any(finding.level is Level.FAIL for finding in findings)

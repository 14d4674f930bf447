"""What an Xid, an error that the driver writes about a GPU, asks for.

Codes are NVIDIA's (https://docs.nvidia.com/deploy/xid-errors/); what to do follows its catalogue, and where that says
no more than "contact support", what operators of large fleets do. A code that is not listed is `unknown`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What to do about it."""

    IGNORE = "ignore"
    RESTART_APP = "restart_app"
    RESET = "reset_gpu"
    REBOOT = "reboot"
    INSPECT = "inspect"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Xid:
    """One code: what happened, and what to do."""

    code: int
    text: str
    action: Action


XIDS = {
    xid.code: xid
    for xid in (
        Xid(13, "a program did something that its GPU can't do", Action.RESTART_APP),
        Xid(31, "a program used memory that is not its own", Action.RESTART_APP),
        Xid(43, "a program's work was stopped", Action.RESTART_APP),
        Xid(45, "a program's work was cleaned up after another error", Action.IGNORE),
        Xid(46, "the GPU stopped answering", Action.RESET),
        Xid(48, "memory error of two bits", Action.RESET),
        Xid(61, "its firmware stopped at an unexpected place", Action.RESET),
        Xid(62, "its firmware stopped", Action.RESET),
        Xid(63, "a row of memory is to be remapped", Action.RESET),
        Xid(64, "a row of memory could not be remapped", Action.INSPECT),
        Xid(74, "NVLink error", Action.RESET),
        Xid(79, "the GPU has fallen off its bus", Action.REBOOT),
        Xid(81, "VGA subsystem error", Action.INSPECT),
        Xid(92, "many memory errors were corrected", Action.IGNORE),
        Xid(94, "memory error, contained to one program", Action.RESTART_APP),
        Xid(95, "memory error, not contained", Action.RESET),
        Xid(109, "a change of contexts timed out", Action.RESET),
        Xid(110, "security fault", Action.RESET),
        Xid(119, "its system processor does not answer", Action.RESET),
        Xid(120, "its system processor has failed", Action.RESET),
        Xid(121, "error of the link between chips", Action.RESET),
        Xid(137, "a program used memory over NVLink that is not its own", Action.RESTART_APP),
        Xid(140, "memory error that was not recovered from", Action.RESET),
        Xid(143, "the GPU could not be initialised", Action.INSPECT),
        *(Xid(code, "NVLink error", Action.RESET) for code in range(144, 151)),
        Xid(155, "NVLink: a reset is needed", Action.RESET),
        Xid(156, "a resource was retired", Action.RESET),
        Xid(158, "the GPU has met a fatal time-out", Action.RESET),
    )
}


def xid(code: int) -> Xid:
    """What is known of a code."""
    return XIDS.get(code) or Xid(code, "not in the catalogue", Action.UNKNOWN)

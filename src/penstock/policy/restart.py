"""Whether and when a child that ended is started again.

Two limits of different kinds: a child that has been ready may fall a number of times in a window, with
growing waits; one that never was ready is given up after a few tries, because trying again would not change
its cause. A child that much depends on may be kept trying once it has been ready, and so is any that a full disk
keeps from coming back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class RestartLimits:
    """How often, and after which waits.

    Args:
        first_wait_s: the wait before the first restart; each further one in the window is twice as long.
        wait_s_max: the longest wait.
        jitter: the part of a wait, 0 to 1, that chance may take off, so that replicas do not come back in
            step.
        restarts_max: restarts within `window_s`.
        window_s: how long a restart is remembered.
        failed_starts_max: tries in a row that ended before the child was ready.
        port_tries_max: starts in a row that lost their port to another process and count as nothing.
        keeps_trying: whether a child that has been ready once is never given up: what stands in its way now may
            be mended while everything behind it waits.
    """

    first_wait_s: float = 0.25
    wait_s_max: float = 30.0
    jitter: float = 0.2
    restarts_max: int = 5
    window_s: float = 600.0
    failed_starts_max: int = 3
    port_tries_max: int = 5
    keeps_trying: bool = False


@dataclass(frozen=True, slots=True)
class RestartState:
    """What is remembered of one child: the times of its restarts, and its failed starts in a row.

    Args:
        port_tries: starts in a row that lost their port.
        disk_tries: starts that a disk has failed since it was ready.
        has_been_ready: whether it ever was.
    """

    restarts_s: tuple[float, ...] = ()
    failed_starts: int = 0
    port_tries: int = 0
    disk_tries: int = 0
    has_been_ready: bool = False


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again after `wait_s` seconds."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Leave it; `reason` completes the sentence "it was given up because ..."."""

    reason: str


def after_exit(
    state: RestartState,
    *,
    was_ready: bool,
    now_s: float,
    chance: float,
    limits: RestartLimits,
    port_taken: bool = False,
    disk_failed: bool = False,
) -> tuple[RestartState, Restart | GiveUp]:
    """What to do about a child that ended without being asked to.

    Args:
        was_ready: whether it had become ready since it was started.
        port_taken: whether all that was wrong is that another process took its port first.
        disk_failed: whether all that was wrong is that its files could not be written, as on a full disk.
        now_s: monotonic seconds.
        chance: 0 to 1, by which the wait is shortened.
    """
    if port_taken and not was_ready and state.port_tries < limits.port_tries_max:
        return replace(state, port_tries=state.port_tries + 1), Restart(0.0)
    if disk_failed and state.has_been_ready:
        again = Restart(_wait_s(state.disk_tries, chance, limits))
        return replace(state, disk_tries=state.disk_tries + 1), again
    recent = tuple(at_s for at_s in state.restarts_s if now_s - at_s < limits.window_s)
    after = (
        RestartState(recent, has_been_ready=True)
        if was_ready
        else replace(state, restarts_s=recent, failed_starts=state.failed_starts + 1)
    )
    reason = "" if limits.keeps_trying and after.has_been_ready else _given_up(after, limits)
    if reason:
        return after, GiveUp(reason)
    return replace(after, restarts_s=(*recent, now_s)), Restart(_wait_s(len(recent), chance, limits))


def _wait_s(earlier: int, chance: float, limits: RestartLimits) -> float:
    """The wait after so many earlier ones."""
    return min(limits.first_wait_s * 2.0 ** min(earlier, 60), limits.wait_s_max) * (
        1 - limits.jitter * chance
    )


def _given_up(state: RestartState, limits: RestartLimits) -> str:
    """Why it is not started again; empty where it is."""
    if state.failed_starts >= limits.failed_starts_max:
        few = state.failed_starts == 1
        return "it never became ready" if few else f"{state.failed_starts} starts in a row failed"
    if len(state.restarts_s) >= limits.restarts_max:
        return f"it was restarted {len(state.restarts_s)} times in {limits.window_s / 60:.0f} minutes"
    return ""

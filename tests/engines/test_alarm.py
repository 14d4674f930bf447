"""One alarm rings once, when it is due, however often it was moved."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock.engines.alarm import Alarm


class Clock:
    """A loop as far as an alarm knows it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[asyncio.TimerHandle] = []
        self.made = 0

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Any) -> asyncio.TimerHandle:
        loop: Any = self
        timer = asyncio.TimerHandle(when, callback, (), loop)
        self.timers.append(timer)
        self.made += 1
        return timer

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        self.timers.remove(timer)

    def go_to(self, now_s: float) -> None:
        while due := [timer for timer in self.timers if timer.when() <= now_s]:
            timer = min(due)
            self.now_s = max(self.now_s, timer.when())
            self.timers.remove(timer)
            timer._run()
        self.now_s = now_s


def alarm_on(clock: Clock) -> tuple[Alarm, list[float]]:
    rung: list[float] = []
    loop: Any = clock
    return Alarm(loop, lambda: rung.append(clock.now_s)), rung


def test_it_rings_once_when_it_is_due() -> None:
    clock = Clock()
    alarm, rung = alarm_on(clock)
    alarm.set(10.0)
    clock.go_to(9.0)
    assert rung == []

    clock.go_to(100.0)

    assert rung == [10.0]


def test_it_rings_at_the_last_time_set_be_it_later_or_sooner() -> None:
    clock = Clock()
    alarm, rung = alarm_on(clock)
    alarm.set(10.0)
    alarm.set(20.0)
    clock.go_to(25.0)
    alarm.set(50.0)
    alarm.set(30.0)
    clock.go_to(60.0)

    assert rung == [20.0, 30.0]


def test_a_busy_connection_costs_one_timer_in_a_while() -> None:
    clock = Clock()
    alarm, rung = alarm_on(clock)
    for _ in range(1000):
        clock.go_to(clock.now_s + 0.01)
        alarm.clear()
        alarm.set(clock.now_s + 5.0)

    assert rung == []
    assert clock.made <= 4


def test_a_cleared_alarm_does_not_ring_and_can_be_set_again() -> None:
    clock = Clock()
    alarm, rung = alarm_on(clock)
    alarm.set(10.0)
    alarm.clear()
    clock.go_to(20.0)
    alarm.set(30.0)
    clock.go_to(40.0)

    assert rung == [30.0]


def test_a_closed_alarm_holds_nothing() -> None:
    clock = Clock()
    alarm, rung = alarm_on(clock)
    alarm.set(10.0)
    alarm.close()
    clock.go_to(20.0)

    assert (rung, clock.timers, alarm.on_due) == ([], [], None)


def test_a_stopped_alarm_has_no_timer_and_can_be_set_again() -> None:
    clock = Clock()
    alarm, rung = alarm_on(clock)
    alarm.set(10.0)
    alarm.stop()
    assert clock.timers == []
    alarm.set(30.0)
    clock.go_to(40.0)

    assert rung == [30.0]

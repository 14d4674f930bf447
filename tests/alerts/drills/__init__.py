"""What is broken on purpose, and the alerts that must come of it."""

from __future__ import annotations

from tests.alerts.drill import Round
from tests.alerts.drills.engines import ENGINES
from tests.alerts.drills.gateway import LIMITS, WHOLE, WITHIN
from tests.alerts.drills.machine import DISK, DRIVER, GPU, IDLE_GPU, SHARED_MEMORY
from tests.alerts.drills.monitoring import PROMETHEUS, TELLING
from tests.alerts.drills.optional import OPTIONAL
from tests.alerts.drills.worn import LONG_ANSWERS, WORN_OUT

ROUNDS: tuple[Round, ...] = (
    (ENGINES, GPU, IDLE_GPU),
    (LIMITS + WITHIN, WORN_OUT, LONG_ANSWERS, OPTIONAL, PROMETHEUS, SHARED_MEMORY, DISK),
    (WHOLE, DRIVER),
    (TELLING,),
)

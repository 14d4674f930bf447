"""The GPUs of this machine over time: read again and again, through everything that may happen to their driver.

Not for several threads at once. A call may wait for the driver, for some ten milliseconds as a rule, and for ever
where the driver hangs: whoever can't wait reads in a thread of its own.

Events are fetched at each reading instead of by a thread that waits for them: on Linux the driver keeps each until
somebody asks, and NVML need not be closed and opened anew under a thread that uses it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Mapping
from concurrent.futures import Future
from ctypes import addressof
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any

from penstock.telemetry import nvml as library
from penstock.telemetry.gpu_fields import Absences, Values, memory, read
from penstock.telemetry.gpu_processes import processes
from penstock.telemetry.nvml import Absence, DriverGoneError, NoGpuError, Reason, told
from penstock.telemetry.xids import Action, xid

REOPEN_FIRST_S = 1.0
REOPEN_MAX_S = 60.0
"""How long until a driver that is gone is looked for again; twice as long after each time, up to a minute."""

LOST_REOPEN_S = 60.0
"""How often NVML is opened anew while a GPU is lost: one that was reset is found by nothing less."""

EVENTS_MAX = 256
"""Events of one reading; a GPU that tells more has told enough."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One MIG instance and its memory."""

    uuid: str
    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one time.

    Args:
        index: NVML's, in the order of the PCI bus.
        values: the fields it tells, by their names in `telemetry/gpu_fields.py`.
        absent: why it does not tell the others.
        processes: the bytes that each process holds; None where it does not say.
        instances: of MIG.
        xids: how many Xids were seen since this program began, by what they ask for; all actions are there.
        last_xid: the newest of them; 0 for none.
        lost: it has fallen off its bus, or waits for a reset.
    """

    index: int
    uuid: str
    name: str
    values: Values = field(default_factory=dict)
    absent: Absences = field(default_factory=dict)
    processes: Mapping[int, int] | None = None
    instances: tuple[Instance, ...] = ()
    xids: Mapping[Action, int] = field(default_factory=dict)
    last_xid: int = 0
    lost: bool = False

    def number(self, name: str, part: str = "") -> float | None:
        """A field, or a part of it; None where it is not there."""
        value = self.values.get(name)
        if isinstance(value, Mapping):
            return value.get(part)
        return value


@dataclass(frozen=True, slots=True)
class Sight:
    """All GPUs at one time, or why there are none.

    Args:
        driver: version of the driver, as `570.86.15`.
        cuda: the newest CUDA that it knows, as `12.8`.
    """

    gpus: tuple[GpuReading, ...] = ()
    trouble: NoGpuError | None = None
    driver: str = ""
    cuda: str = ""


@dataclass(slots=True)
class _Gpu:
    """One GPU; no `handle` where it is lost, and `deaf` says why it tells no events."""

    index: int
    handle: Any
    uuid: str
    name: str
    deaf: Absence | None = Absence.UNSUPPORTED


@dataclass(slots=True)
class _Seen:
    """What was seen of one GPU since this program began, through all reopening."""

    xids: dict[Action, int] = field(default_factory=lambda: dict.fromkeys(Action, 0))
    last_xid: int = 0


class Driver:
    """The driver; opened by the first reading, and again, after a while, once it was gone.

    Args:
        nvml: makes `pynvml` or what has its names; raises NoGpuError where there is none.
        now_s: a clock.
        wanted: the only fields to read, and then no processes and no instances; None reads all there is.
    """

    def __init__(
        self,
        now_s: Callable[[], float],
        nvml: Callable[[], Any] = library.load,
        wanted: Container[str] | None = None,
    ) -> None:
        self._now_s = now_s
        self._wanted = wanted
        self._load = nvml
        self._nvml: Any = None
        self._gpus: list[_Gpu] = []
        self._known: dict[str, _Gpu] = {}
        self._seen: defaultdict[str, _Seen] = defaultdict(_Seen)
        self._events: Any = None
        self._trouble: NoGpuError | None = None
        self._wait_s = REOPEN_FIRST_S
        self._next_s = 0.0

    def read(self) -> Sight:
        """What the GPUs tell now."""
        try:
            if self._nvml is None:
                self._reopen()
            return self._look()
        except NoGpuError as error:
            self._gone(error)
            return Sight(trouble=error)

    def close(self) -> None:
        """Lets go of the driver."""
        if self._nvml is not None:
            library.end(self._nvml)
        self._nvml, self._gpus, self._events = None, [], None

    # -- opening --------------------------------------------------------------------------------------

    def _reopen(self) -> None:
        if self._trouble is not None and self._now_s() < self._next_s:
            raise self._trouble
        nvml = self._load()
        library.begin(nvml)
        self._nvml = nvml
        self._gpus = self._found(nvml)
        self._events = self._subscribed(nvml)
        self._next_s = self._now_s() + LOST_REOPEN_S

    def _found(self, nvml: Any) -> list[_Gpu]:
        """The GPUs there are, and those there were: one that has fallen off its bus may not be counted any more."""
        try:
            handles = library.handles(nvml)
        except NoGpuError as error:
            if error.reason is not Reason.NO_GPU or not self._known:
                raise
            handles = []
        gpus = [self._gpu(nvml, index, handle) for index, handle in enumerate(handles)]
        self._known |= {gpu.uuid: gpu for gpu in gpus if gpu.uuid}
        named = {gpu.uuid for gpu in gpus}
        return [*gpus, *(replace(gpu, handle=None) for uuid, gpu in self._known.items() if uuid not in named)]

    def _gpu(self, nvml: Any, index: int, handle: Any) -> _Gpu:
        """A GPU by its name; one that is lost keeps the name that it had."""
        uuid = told(nvml, nvml.nvmlDeviceGetUUID, handle)[0] if handle is not None else None
        if uuid is None:
            known = next((gpu for gpu in self._known.values() if gpu.index == index), None)
            return replace(known or _Gpu(index, None, "", ""), handle=handle)
        name, _ = told(nvml, nvml.nvmlDeviceGetName, handle)
        return _Gpu(index, handle, library.text(uuid), library.text(name or ""))

    def _subscribed(self, nvml: Any) -> Any:
        """A set of events of all GPUs; None where none can be had."""
        events, _ = told(nvml, nvml.nvmlEventSetCreate)
        for gpu in self._gpus if events is not None else ():
            if gpu.handle is not None:
                register, kind = nvml.nvmlDeviceRegisterEvents, nvml.nvmlEventTypeXidCriticalError
                _, gpu.deaf = told(nvml, register, gpu.handle, kind, events)
        return events

    def _gone(self, error: NoGpuError) -> None:
        if error is self._trouble:
            return  # it is not time yet
        self._wait_s = REOPEN_FIRST_S if self._trouble is None else min(2 * self._wait_s, REOPEN_MAX_S)
        self._next_s = self._now_s() + self._wait_s
        self._trouble = error
        self.close()

    # -- reading --------------------------------------------------------------------------------------

    def _look(self) -> Sight:
        nvml = self._nvml
        self._hear(nvml)
        gpus = tuple(self._reading(nvml, gpu) for gpu in self._gpus)
        if all(_is_silent(gpu) for gpu in gpus):
            raise DriverGoneError(
                "the NVIDIA driver answers nothing that it is asked", hint="`nvidia-smi` tells more"
            )
        driver, cuda = told(nvml, nvml.nvmlSystemGetDriverVersion)[0], told(nvml, _cuda, nvml)[0]
        self._trouble = None
        if any(gpu.lost for gpu in gpus) and self._now_s() >= self._next_s:
            self.close()
        return Sight(gpus, None, library.text(driver or ""), cuda or "")

    def _reading(self, nvml: Any, gpu: _Gpu) -> GpuReading:
        seen = self._seen[gpu.uuid]
        about: Any = {"xids": dict(seen.xids), "last_xid": seen.last_xid}
        if gpu.handle is None:
            return GpuReading(gpu.index, gpu.uuid, gpu.name, lost=True, **about)
        values, absent = read(nvml, gpu.handle, self._wanted)
        if self._wanted is not None:
            lost = Absence.LOST in absent.values()
            return GpuReading(gpu.index, gpu.uuid, gpu.name, values, absent, lost=lost, **about)
        held, why = processes(nvml, gpu.handle)
        if why is not None:
            absent["process_memory_bytes"] = why
        if gpu.deaf is not None:
            absent["xid_errors"] = gpu.deaf
        instances = _instances(nvml, gpu.handle) if values.get("mig_enabled") else ()
        lost = Absence.LOST in absent.values()
        return GpuReading(gpu.index, gpu.uuid, gpu.name, values, absent, held, instances, lost=lost, **about)

    def _hear(self, nvml: Any) -> None:
        """Counts the events since the last reading."""
        if self._events is None:
            return
        by_handle = {_identity(gpu.handle): gpu for gpu in self._gpus if gpu.handle is not None}
        for _ in range(EVENTS_MAX):
            event, _ = told(nvml, nvml.nvmlEventSetWait_v2, self._events, 0)
            if event is None:  # none is left, within the time of none
                return
            gpu = by_handle.get(_identity(event.device))
            if gpu is not None and event.eventType == nvml.nvmlEventTypeXidCriticalError:
                seen = self._seen[gpu.uuid]
                seen.last_xid = int(event.eventData)
                seen.xids[xid(seen.last_xid).action] += 1


def read_within(driver: Driver, within_s: float) -> Sight:
    """What the GPUs tell now, or that their driver hangs; for who asks once and goes."""
    found: Future[Sight] = Future()
    thread = Thread(target=_read_into, args=(found, driver), daemon=True)  # one that hangs can't be ended
    thread.start()
    try:
        return found.result(within_s)
    except TimeoutError:
        return Sight(trouble=library.hangs(within_s))


def _read_into(found: Future[Sight], driver: Driver) -> None:
    try:
        found.set_result(driver.read())
    except BaseException as error:  # a bug is the asker's to tell, and no driver that hangs
        found.set_exception(error)


def _is_silent(gpu: GpuReading) -> bool:
    """Whether it failed to tell anything, without being lost."""
    return not gpu.values and not gpu.lost


def _identity(handle: Any) -> Any:
    """What tells handles apart: of ctypes' pointers, where they point to; nothing is read there."""
    contents = getattr(handle, "contents", None)
    return handle if contents is None else addressof(contents)


def _cuda(nvml: Any) -> str:
    version = nvml.nvmlSystemGetCudaDriverVersion_v2()
    return f"{version // 1000}.{version % 1000 // 10}"


def _instances(nvml: Any, handle: Any) -> tuple[Instance, ...]:
    most, _ = told(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle)
    found = []
    for number in range(min(most or 0, library.DEVICES_MAX)):
        instance, _ = told(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if instance is None:
            continue
        uuid, _ = told(nvml, nvml.nvmlDeviceGetUUID, instance)
        room, _ = told(nvml, memory, nvml, instance)
        if uuid is not None and room is not None:
            found.append(Instance(library.text(uuid), room[0], room[1]))
    return tuple(found)

"""What is read of a GPU: a table of fields, and how NVML is asked for each.

A field's name is what follows `penstock_gpu_` in its metric: base units, unit last. One question may answer several
fields; what it can't answer is absent, each field by itself. Field ids are NVML's own numbered values, all read by
one call.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.telemetry.nvml import Absence, absence, told

Value = float | Mapping[str, float]
Values = dict[str, Value]
Absences = dict[str, Absence]

NVLINKS_MAX = 36  # NVML_NVLINK_MAX_LINKS

THROTTLES = {
    "gpu_idle": "nvmlClocksEventReasonGpuIdle",
    "clocks_setting": "nvmlClocksEventReasonApplicationsClocksSetting",
    "sw_power_cap": "nvmlClocksEventReasonSwPowerCap",
    "hw_slowdown": "nvmlClocksEventReasonHwSlowdown",
    "sync_boost": "nvmlClocksEventReasonSyncBoost",
    "sw_thermal": "nvmlClocksEventReasonSwThermalSlowdown",
    "hw_thermal": "nvmlClocksEventReasonHwThermalSlowdown",
    "hw_power_brake": "nvmlClocksEventReasonHwPowerBrakeSlowdown",
    "display_clock": "nvmlClocksEventReasonDisplayClockSetting",
}
HARMFUL_THROTTLES = ("hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")
"""Those that are no setting and no sign of idleness: something is too hot, or gets too little power."""

RECOVERY_ACTIONS = (
    *("none", "gpu_reset", "node_reboot", "drain_p2p", "drain_and_reset"),
    *("recover_imex_domain", "bus_reset", "system_reboot"),
)
"""What the driver asks for, in the order of NVML_GPU_RECOVERY_ACTION_*."""

_NS = 1e-9


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a GPU.

    Args:
        text: what it is, for people.
        label: what tells the parts of it apart, where it has several.
        counter: it only grows, until the driver is loaded anew.
    """

    name: str
    text: str
    label: str = ""
    counter: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask, of a library and a GPU, and the fields that the answer has, in their order."""

    ask: Callable[[Any, Any], tuple[Value, ...]]
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Numbered:
    """A field of which each part is one of NVML's field ids; with one part and no label, a plain number."""

    field: Field
    ids: Mapping[str, str]
    scale: float = 1.0


def read(nvml: Any, handle: Any, wanted: Container[str] | None = None) -> tuple[Values, Absences]:
    """The fields of one GPU: those there are, and why the others are not.

    Args:
        wanted: names of fields that are no field ids; what answers none of them is not asked. None wants all.

    Raises:
        DriverGoneError: the driver has stopped answering.
    """
    values: Values = {}
    absent: Absences = {}
    for question in QUESTIONS:
        if wanted is not None and not any(field.name in wanted for field in question.fields):
            continue
        answers, why = told(nvml, question.ask, nvml, handle)
        for field, value in zip(question.fields, answers or (), strict=False):
            values[field.name] = value
        if why is not None:
            absent.update((field.name, why) for field in question.fields)
    if wanted is None:
        _read_numbered(nvml, handle, values, absent)
    return values, absent


def _read_numbered(nvml: Any, handle: Any, values: Values, absent: Absences) -> None:
    ids = {name: getattr(nvml, name, None) for numbered in NUMBERED for name in numbered.ids.values()}
    known = [number for number in ids.values() if number is not None]
    answers, why = told(nvml, nvml.nvmlDeviceGetFieldValues, handle, known)
    by_id = {each.fieldId: each for each in answers or ()}
    for numbered in NUMBERED:
        parts: dict[str, float] = {}
        reasons = [why or Absence.UNSUPPORTED]
        for part, name in numbered.ids.items():
            answer = by_id.get(ids[name])
            if answer is not None and answer.nvmlReturn == 0:
                parts[part] = _number(answer) * numbered.scale
            elif answer is not None:
                reasons = [absence(nvml, answer.nvmlReturn)]
        if parts:
            values[numbered.field.name] = parts if numbered.field.label else next(iter(parts.values()))
        else:
            absent[numbered.field.name] = reasons[0]


def _number(answer: Any) -> float:
    return float(getattr(answer.value, _MEMBERS[answer.valueType]))


_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Of NVML's union, in the order of NVML_VALUE_TYPE_*, of which older libraries have fewer."""


# -- questions ----------------------------------------------------------------------------------------


def _utilization(nvml: Any, handle: Any) -> tuple[Value, ...]:
    rates = nvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu / 100, rates.memory / 100


def memory(nvml: Any, handle: Any) -> tuple[int, ...]:
    """Total, used, free and reserved bytes, as nvidia-smi tells them: what the driver keeps for itself is not used."""
    version = getattr(nvml, "nvmlMemory_v2", None)
    found, _ = told(nvml, _memory_v2, nvml, handle, version) if version else (None, None)
    if found is not None:
        return found.total, found.used, found.free, found.reserved
    first = nvml.nvmlDeviceGetMemoryInfo(handle)
    return first.total, first.used, first.free, 0


def _memory_v2(nvml: Any, handle: Any, version: int) -> Any:
    return nvml.nvmlDeviceGetMemoryInfo(handle, version=version)


def _clocks(nvml: Any, handle: Any) -> tuple[Value, ...]:
    kinds = {"sm": nvml.NVML_CLOCK_SM, "memory": nvml.NVML_CLOCK_MEM}
    return (
        {name: nvml.nvmlDeviceGetClockInfo(handle, kind) * 1e6 for name, kind in kinds.items()},
        {name: nvml.nvmlDeviceGetMaxClockInfo(handle, kind) * 1e6 for name, kind in kinds.items()},
    )


def _throttles(nvml: Any, handle: Any) -> tuple[Value, ...]:
    mask = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    return ({name: float(bool(mask & getattr(nvml, bit))) for name, bit in THROTTLES.items()},)


def _ecc(counter: str) -> Callable[[Any, Any], tuple[Value, ...]]:
    def ask(nvml: Any, handle: Any) -> tuple[Value, ...]:
        since = getattr(nvml, counter)
        kinds = {
            "corrected": nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
            "uncorrected": nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        }
        return (
            {name: nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since) for name, kind in kinds.items()},
        )

    return ask


def _remapped(nvml: Any, handle: Any) -> tuple[Value, ...]:
    corrected, uncorrected, pending, failed = nvml.nvmlDeviceGetRemappedRows(handle)
    return {"corrected": corrected, "uncorrected": uncorrected}, pending, failed


def _link(nvml: Any, handle: Any) -> tuple[Value, ...]:
    return (
        {
            "now": nvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
            "max": nvml.nvmlDeviceGetMaxPcieLinkWidth(handle),
        },
        {
            "now": nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle),
            "max": nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle),
        },
    )


def _nvlinks(nvml: Any, handle: Any) -> tuple[Value, ...]:
    """Links that are up and down; the first one may be an error, one behind it ends the list."""
    states = [nvml.nvmlDeviceGetNvLinkState(handle, 0)]
    while len(states) < NVLINKS_MAX:
        state, _ = told(nvml, nvml.nvmlDeviceGetNvLinkState, handle, len(states))
        if state is None:
            break
        states.append(state)
    up = sum(map(bool, states))
    return ({"up": up, "down": len(states) - up},)


def _once(name: str, scale: float = 1.0, *constants: str) -> Callable[[Any, Any], tuple[Value, ...]]:
    """Asks the function `name` for one number, with `constants` of the library behind the GPU."""

    def ask(nvml: Any, handle: Any) -> tuple[Value, ...]:
        return (getattr(nvml, name)(handle, *(getattr(nvml, each) for each in constants)) * scale,)

    return ask


def _first(name: str) -> Callable[[Any, Any], tuple[Value, ...]]:
    """Asks a function that tells what is now, and what will be after the next reset."""

    def ask(nvml: Any, handle: Any) -> tuple[Value, ...]:
        return (getattr(nvml, name)(handle)[0],)

    return ask


QUESTIONS = (
    Question(
        _utilization,
        (
            Field("utilization_ratio", "Part of the time in which something ran on it."),
            Field("memory_utilization_ratio", "Part of the time in which its memory was read or written."),
        ),
    ),
    Question(
        memory,
        (
            Field("memory_total_bytes", "Memory of the GPU."),
            Field("memory_used_bytes", "Memory that programs hold."),
            Field("memory_free_bytes", "Memory that nobody holds."),
            Field("memory_reserved_bytes", "Memory that driver and firmware keep for themselves."),
        ),
    ),
    Question(_once("nvmlDeviceGetPowerUsage", 1e-3), (Field("power_watts", "Power that it draws."),)),
    Question(
        _once("nvmlDeviceGetEnforcedPowerLimit", 1e-3),
        (Field("power_limit_watts", "Power that it may draw."),),
    ),
    Question(
        _once("nvmlDeviceGetTotalEnergyConsumption", 1e-3),
        (Field("energy_joules", "Energy that it has used since the driver was loaded.", counter=True),),
    ),
    Question(
        _once("nvmlDeviceGetTemperature", 1.0, "NVML_TEMPERATURE_GPU"),
        (Field("temperature_celsius", "Temperature of its chip."),),
    ),
    Question(
        _once("nvmlDeviceGetTemperatureThreshold", 1.0, "NVML_TEMPERATURE_THRESHOLD_SLOWDOWN"),
        (Field("temperature_slowdown_celsius", "Temperature of its chip at which it is slowed down."),),
    ),
    Question(
        _once("nvmlDeviceGetMarginTemperature"),
        (Field("temperature_margin_celsius", "How much hotter its chip may get before it is slowed down."),),
    ),
    Question(
        _clocks,
        (
            Field("clock_hertz", "Its clocks.", label="clock"),
            Field("clock_max_hertz", "The highest that the clocks may be.", label="clock"),
        ),
    ),
    Question(
        _throttles,
        (Field("throttle", "1 where its clocks are held down, by the reason for it.", label="reason"),),
    ),
    Question(
        _first("nvmlDeviceGetEccMode"), (Field("ecc_enabled", "1 where its memory is checked for errors."),)
    ),
    Question(
        _ecc("NVML_VOLATILE_ECC"),
        (Field("ecc_errors", "Memory errors since the driver was loaded.", label="kind", counter=True),),
    ),
    Question(
        _ecc("NVML_AGGREGATE_ECC"),
        (Field("ecc_errors_lifetime", "Memory errors in its life.", label="kind", counter=True),),
    ),
    Question(
        _remapped,
        (
            Field(
                "remapped_rows", "Rows of memory that others stand in for, by what was wrong.", label="cause"
            ),
            Field("row_remap_pending", "1 where a row will be remapped at its next reset."),
            Field("row_remap_failed", "1 where a row could not be remapped: it should be replaced."),
        ),
    ),
    Question(
        _once("nvmlDeviceGetPcieReplayCounter"),
        (Field("pcie_replays", "Transfers over PCIe that had to be repeated.", counter=True),),
    ),
    Question(
        _link,
        (
            Field("pcie_link_width", "Lanes of its PCIe link, now and at most.", label="of"),
            Field("pcie_link_generation", "Generation of its PCIe link, now and at most.", label="of"),
        ),
    ),
    Question(_nvlinks, (Field("nvlinks", "Its NVLinks by their state.", label="state"),)),
    Question(
        _once("nvmlDeviceGetPersistenceMode"),
        (Field("persistence_mode", "1 where the driver stays loaded while nobody uses it."),),
    ),
    Question(_first("nvmlDeviceGetMigMode"), (Field("mig_enabled", "1 where it is cut into instances."),)),
    Question(
        _once("nvmlDeviceGetPerformanceState"),
        (Field("performance_state", "0 for the highest performance, to 15."),),
    ),
)

_NVLINK_ERRORS = {
    "crc_flit": "NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL",
    "crc_data": "NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL",
    "replay": "NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL",
    "recovery": "NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL",
    "ecc_data": "NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_TOTAL",
    "effective": "NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS",
    "symbol": "NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS",
}

NUMBERED = (
    Numbered(
        Field("memory_temperature_celsius", "Temperature of its memory."), {"": "NVML_FI_DEV_MEMORY_TEMP"}
    ),
    Numbered(
        Field("throttle_seconds", "Time for which its clocks were held down.", label="reason", counter=True),
        {
            "sw_power_cap": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP",
            "sync_boost": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST",
            "sw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
            "hw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
            "hw_power_brake": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
        },
        _NS,
    ),
    Numbered(
        Field("pcie_errors", "Errors of its PCIe link.", label="kind", counter=True),
        {
            "correctable": "NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS",
            "non_fatal": "NVML_FI_DEV_PCIE_COUNT_NON_FATAL_ERROR",
            "fatal": "NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR",
        },
    ),
    Numbered(
        Field("nvlink_errors", "Errors of all its NVLinks together.", label="kind", counter=True),
        _NVLINK_ERRORS,
    ),
    Numbered(
        Field("retired_pages", "Pages of memory taken out of use, before Ampere.", label="cause"),
        {"corrected": "NVML_FI_DEV_RETIRED_SBE", "uncorrected": "NVML_FI_DEV_RETIRED_DBE"},
    ),
    Numbered(
        Field("page_retirement_pending", "1 where a page will be retired at its next reset, before Ampere."),
        {"": "NVML_FI_DEV_RETIRED_PENDING"},
    ),
    Numbered(
        Field(
            "recovery_action_code",
            "What the driver asks for: 0 nothing, 1 a reset, 2 or 7 a reboot, 3 to 6 see NVML_GPU_RECOVERY_ACTION.",
        ),
        {"": "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"},
    ),
)


def fields() -> Iterator[Field]:
    """Every field that a GPU may have."""
    for question in QUESTIONS:
        yield from question.fields
    for numbered in NUMBERED:
        yield numbered.field

"""The driver and each GPU. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from penstock.doctor.facts import GpuFacts
from penstock.doctor.finding import Finding, fail, ok, skip, warn
from penstock.telemetry.gpu_driver import GpuReading
from penstock.telemetry.gpu_fields import HARMFUL_THROTTLES, RECOVERY_ACTIONS
from penstock.telemetry.nvml import NoGpuError, Reason
from penstock.telemetry.xids import Action, xid

CUDA_MIN = (12, 0)
"""Wheels of vLLM and PyTorch of 2026 need at least this from the driver."""

HEADROOM_C = 5.0
"""Closer to the temperature at which it slows down, it is too hot."""

GIB = 2**30
NVIDIA_SMI = "nvidia-smi -i"

_MEND_ACTION = {
    "gpu_reset": "stop what uses it, then: sudo nvidia-smi --gpu-reset -i {gpu}",
    "node_reboot": "drain this machine and restart it",
    "system_reboot": "drain this machine and restart it",
    "drain_and_reset": "let its work end, then: sudo nvidia-smi --gpu-reset -i {gpu}",
    "drain_p2p": "let the work that uses NVLink end, then restart its programs",
    "recover_imex_domain": "restart the IMEX daemons of this NVLink domain",
    "bus_reset": "reset its PCIe slot, or restart the machine",
}
_MEND_XID = {
    Action.RESTART_APP: "restart the program that used it; look for a bug or bad memory if it comes back",
    Action.RESET: "stop what uses it, then: sudo nvidia-smi --gpu-reset",
    Action.REBOOT: "drain this machine and restart it; replace the GPU if it comes back",
    Action.INSPECT: "have the hardware inspected",
    Action.UNKNOWN: "look it up: https://docs.nvidia.com/deploy/xid-errors/",
}


def gpu_findings(facts: GpuFacts) -> Iterator[Finding]:
    """All that is found of the driver and its GPUs."""
    trouble = facts.sight.trouble
    if trouble is not None:
        yield _no_driver(trouble, wanted=facts.wanted)
        return
    yield _driver(facts)
    for gpu in facts.sight.gpus:
        yield _whole(gpu)
        if not gpu.lost:
            yield from _health(gpu)
    yield from _kernel_log(facts)
    yield from _orphans(facts)


def _no_driver(trouble: NoGpuError, *, wanted: bool) -> Finding:
    if trouble.reason in (Reason.LIBRARY_MISSING, Reason.NO_GPU) and not wanted:
        return skip("driver", f"{trouble.message}; no model needs one")
    return fail("driver", trouble.message, trouble.hint)


def _driver(facts: GpuFacts) -> Finding:
    sight = facts.sight
    seen = f"NVIDIA {sight.driver or 'of unknown version'}, CUDA {sight.cuda or 'unknown'}, {len(sight.gpus)} GPUs"
    numbers = tuple(int(part) for part in sight.cuda.split(".") if part.isdigit())
    if numbers and numbers < CUDA_MIN:
        return warn(
            "driver", seen, f"update the driver: engines need CUDA {CUDA_MIN[0]}.{CUDA_MIN[1]} or newer"
        )
    return ok("driver", seen)


def _name(gpu: GpuReading) -> str:
    return f"gpu {gpu.index}"


def _whole(gpu: GpuReading) -> Finding:
    if gpu.lost:
        return fail(
            _name(gpu),
            f"{gpu.name or 'a GPU'} does not answer: it has fallen off its bus, or waits for a reset",
            "restart the machine; if it comes back, have GPU, slot and power looked at",
        )
    total, used = gpu.number("memory_total_bytes"), gpu.number("memory_used_bytes")
    parts = [gpu.name]
    if total is not None and used is not None:
        parts.append(f"{used / GIB:.1f} of {total / GIB:.1f} GiB used")
    for field, form in (("temperature_celsius", "{:.0f} C"), ("power_watts", "{:.0f} W")):
        value = gpu.number(field)
        if value is not None:
            parts.append(form.format(value))
    if gpu.number("mig_enabled"):
        parts.append(f"{len(gpu.instances)} MIG instances")
    return ok(_name(gpu), ", ".join(parts))


def _health(gpu: GpuReading) -> Iterator[Finding]:
    """What is wrong with it; nothing where all is well."""
    yield from _recovery(gpu)
    yield from _memory(gpu)
    yield from _heat(gpu)
    yield from _links(gpu)
    if gpu.number("persistence_mode") == 0:
        yield warn(
            f"{_name(gpu)} persistence",
            "persistence mode is off: the driver is loaded anew for each first program",
            "sudo systemctl enable --now nvidia-persistenced, or sudo nvidia-smi -pm 1",
        )
    denied = sorted(field for field, why in gpu.absent.items() if why in ("denied", "failed"))
    if denied:
        yield warn(
            f"{_name(gpu)} fields",
            f"the driver does not tell: {', '.join(denied)}",
            "run it as a user who may (root, or RmProfilingAdminOnly=0); alerts on these can't fire",
        )


def _recovery(gpu: GpuReading) -> Iterator[Finding]:
    code = int(gpu.number("recovery_action_code") or 0)
    if not code:
        return
    action = RECOVERY_ACTIONS[code] if code < len(RECOVERY_ACTIONS) else f"action {code}"
    mend = _MEND_ACTION.get(action, "look it up in NVIDIA's documentation of NVML_GPU_RECOVERY_ACTION")
    yield fail(f"{_name(gpu)} recovery", f"the driver asks for: {action}", mend.format(gpu=gpu.index))


def _memory(gpu: GpuReading) -> Iterator[Finding]:
    subject, reset = (
        f"{_name(gpu)} memory",
        f"stop what uses it, then: sudo nvidia-smi --gpu-reset -i {gpu.index}",
    )
    if gpu.number("row_remap_failed"):
        yield fail(subject, "a bad row of its memory could not be remapped", "replace the GPU")
    if gpu.number("row_remap_pending") or gpu.number("page_retirement_pending"):
        yield warn(subject, "bad memory waits for a reset to be taken out of use", reset)
    uncorrected = gpu.number("ecc_errors", "uncorrected")
    if uncorrected:
        yield fail(subject, f"{uncorrected:.0f} uncorrected memory errors since the driver was loaded", reset)
    if gpu.number("ecc_enabled") == 0:
        yield warn(
            subject,
            "ECC is off: a flipped bit goes unnoticed",
            f"sudo nvidia-smi -e 1 -i {gpu.index}, then restart the machine",
        )


def _heat(gpu: GpuReading) -> Iterator[Finding]:
    subject = f"{_name(gpu)} clocks"
    held = [reason for reason in HARMFUL_THROTTLES if gpu.number("throttle", reason)]
    if held:
        yield warn(
            subject,
            f"its clocks are held down: {', '.join(held)}",
            "look at fans, airflow and power cables; nvidia-smi -q -d PERFORMANCE tells more",
        )
    now, margin = gpu.number("temperature_celsius"), gpu.number("temperature_margin_celsius")
    slowdown = gpu.number("temperature_slowdown_celsius")
    if margin is None and now is not None and slowdown:  # before Hopper
        margin = slowdown - now
    if margin is not None and margin < HEADROOM_C:
        yield warn(
            f"{_name(gpu)} heat",
            f"{now or 0:.0f} C: {abs(margin):.0f} C {'below' if margin > 0 else 'above'} where it slows down",
            "look at fans and airflow, or lower its power limit: sudo nvidia-smi -pl WATTS",
        )


def _links(gpu: GpuReading) -> Iterator[Finding]:
    up, down = gpu.number("nvlinks", "up") or 0, gpu.number("nvlinks", "down") or 0
    if up and down:
        yield warn(
            f"{_name(gpu)} nvlink",
            f"{down:.0f} of {up + down:.0f} NVLinks are down",
            f"nvidia-smi nvlink -s -i {gpu.index}; reset the GPU, or have bridge and switch looked at",
        )
    now, most = gpu.number("pcie_link_width", "now"), gpu.number("pcie_link_width", "max")
    if now and most and now < most:
        yield warn(
            f"{_name(gpu)} pcie",
            f"its PCIe link has {now:.0f} lanes of {most:.0f}",
            "a slot with fewer lanes, or a card that sits badly: fewer lanes slow down loading and tensor parallelism",
        )


def _kernel_log(facts: GpuFacts) -> Iterator[Finding]:
    if facts.kernel_xids is None:
        yield skip("xids", "the kernel's log may not be read by this user")
        return
    found = Counter((each.pci, each.code) for each in facts.kernel_xids)
    harmful = 0
    for (pci, code), times in sorted(found.items()):
        known = xid(code)
        if known.action is Action.IGNORE:
            continue
        harmful += 1
        seen = f"Xid {code} of {pci}, {times} times since the start: {known.text}"
        tell = warn if known.action in (Action.RESTART_APP, Action.UNKNOWN) else fail
        yield tell("xids", seen, _MEND_XID[known.action])
    if not harmful:
        yield ok("xids", "none in the kernel's log since the start")


def _orphans(facts: GpuFacts) -> Iterator[Finding]:
    for gpu in facts.sight.gpus:
        orphans = {pid: held for pid, held in (gpu.processes or {}).items() if pid not in facts.owners}
        if orphans:
            held = sum(orphans.values()) / GIB
            pids = ", ".join(map(str, sorted(orphans)[:8]))
            yield warn(
                f"{_name(gpu)} holders",
                f"{held:.1f} GiB are held by what is no replica of this home: pid {pids}",
                f"see `ps -fp {min(orphans)}`; end it if it was left behind, else plan with what is free",
            )

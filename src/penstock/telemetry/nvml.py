"""NVML, the library of NVIDIA's driver (through nvidia-ml-py): how it is opened, and what its errors mean.

All that Penstock asks of NVML goes through this module: nothing else imports `pynvml`. A library is an argument
wherever one is used, so that `telemetry/fake_nvml.py` can stand in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import import_module
from typing import Any, TypeVar

from penstock.core.errors import PenstockError

DEVICES_MAX = 64
"""No machine has more; a driver that claims so is not asked further."""

_Told = TypeVar("_Told")


class Reason(StrEnum):
    """Why no GPU can be asked."""

    LIBRARY_MISSING = "library_missing"
    DRIVER_NOT_LOADED = "driver_not_loaded"
    VERSION_MISMATCH = "version_mismatch"
    DENIED = "denied"
    NO_GPU = "no_gpu"
    HANGS = "hangs"
    FAILED = "failed"


class Absence(StrEnum):
    """Why one value of a GPU is not there."""

    UNSUPPORTED = "unsupported"
    DENIED = "denied"
    LOST = "lost"
    FAILED = "failed"


class NoGpuError(PenstockError):
    """There is no GPU to be found here; `reason` says why in one word."""

    code = "no_gpu"

    def __init__(self, message: str, *, reason: Reason = Reason.FAILED, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class DriverGoneError(NoGpuError):
    """The driver has stopped answering: NVML must be opened anew before it can be asked again."""


_HINTS = {
    Reason.LIBRARY_MISSING: "install NVIDIA's driver; in a container, hand it the GPUs (docker run --gpus all)",
    Reason.DRIVER_NOT_LOADED: "load NVIDIA's driver (modprobe nvidia), or look into dmesg why it was unloaded",
    Reason.VERSION_MISMATCH: "the driver was updated and the old one is still loaded: restart the machine",
    Reason.DENIED: "this user may not open /dev/nvidia*: see `ls -l /dev/nvidia*`",
    Reason.NO_GPU: "the driver is there: is a GPU handed to this container, or hidden?",
    Reason.HANGS: "the driver does not answer: look for an Xid in dmesg; the machine may need a restart",
    Reason.FAILED: "`nvidia-smi` tells more",
}

_GONE = {
    "NVML_ERROR_UNINITIALIZED": Reason.FAILED,
    "NVML_ERROR_DRIVER_NOT_LOADED": Reason.DRIVER_NOT_LOADED,
    "NVML_ERROR_LIBRARY_NOT_FOUND": Reason.LIBRARY_MISSING,
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": Reason.VERSION_MISMATCH,
}
"""Errors that hold for the whole driver, whatever was asked."""

_ABSENCES = {
    "NVML_ERROR_NOT_SUPPORTED": Absence.UNSUPPORTED,
    "NVML_ERROR_FUNCTION_NOT_FOUND": Absence.UNSUPPORTED,
    "NVML_ERROR_INVALID_ARGUMENT": Absence.UNSUPPORTED,  # an older driver, of a field that it does not know
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH": Absence.UNSUPPORTED,
    "NVML_ERROR_VGPU_ECC_NOT_SUPPORTED": Absence.UNSUPPORTED,
    "NVML_ERROR_DEPRECATED": Absence.UNSUPPORTED,
    "NVML_ERROR_NOT_FOUND": Absence.UNSUPPORTED,
    "NVML_ERROR_NO_DATA": Absence.UNSUPPORTED,
    "NVML_ERROR_NO_PERMISSION": Absence.DENIED,
    "NVML_ERROR_GPU_IS_LOST": Absence.LOST,
    "NVML_ERROR_GPU_NOT_FOUND": Absence.LOST,
    "NVML_ERROR_RESET_REQUIRED": Absence.LOST,
}


def load() -> Any:
    """The module `pynvml`.

    Raises:
        NoGpuError: it is not installed.
    """
    try:
        return import_module("pynvml")
    except ImportError as error:
        raise NoGpuError(
            "GPUs can't be detected: nvidia-ml-py is not installed",
            reason=Reason.LIBRARY_MISSING,
            hint="pip install nvidia-ml-py",
        ) from error


def begin(nvml: Any) -> None:
    """Opens the driver; `end` closes it.

    Raises:
        NoGpuError: it does not answer.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        reason = _gone(nvml, error.value) or (
            Reason.DENIED if error.value == nvml.NVML_ERROR_NO_PERMISSION else Reason.FAILED
        )
        raise NoGpuError(
            f"no NVIDIA driver answers here: {error}", reason=reason, hint=_HINTS[reason]
        ) from error


def end(nvml: Any) -> None:
    """Closes the driver; one that is gone is closed already."""
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        return


@contextmanager
def opened(nvml: Any = None) -> Iterator[Any]:
    """The library, open for a while.

    Args:
        nvml: `pynvml`, or what has its names; found by itself by default.

    Raises:
        NoGpuError: there is none, or it stops answering amid it.
    """
    nvml = nvml or load()
    begin(nvml)
    try:
        yield nvml
    except nvml.NVMLError as error:
        raise no_answer(nvml, error) from error
    finally:
        end(nvml)


def handles(nvml: Any) -> list[Any]:
    """The GPUs of an open library, by index; None for one that can't be opened (it has fallen off its bus).

    Raises:
        NoGpuError: there is none.
    """
    try:
        count = min(DEVICES_MAX, nvml.nvmlDeviceGetCount())
    except nvml.NVMLError as error:
        raise no_answer(nvml, error) from error
    if not count:
        raise NoGpuError("there is no GPU here", reason=Reason.NO_GPU, hint=_HINTS[Reason.NO_GPU])
    return [told(nvml, nvml.nvmlDeviceGetHandleByIndex, index)[0] for index in range(count)]


def told(nvml: Any, ask: Callable[..., _Told], *args: Any) -> tuple[_Told | None, Absence | None]:
    """What `ask(*args)` is answered by the driver, or why it is not.

    Raises:
        DriverGoneError: the driver answers nothing any more.
    """
    try:
        return ask(*args), None
    except AttributeError as error:
        if not (error.name or "").lower().startswith("nvml"):
            raise
        return None, Absence.UNSUPPORTED  # an older nvidia-ml-py has no such name
    except nvml.NVMLError as error:
        if _gone(nvml, error.value):
            raise no_answer(nvml, error) from error
        return None, absence(nvml, error.value)


def absence(nvml: Any, code: int) -> Absence:
    """What an error means for the value that was asked for."""
    return next(
        (found for name, found in _ABSENCES.items() if getattr(nvml, name, None) == code), Absence.FAILED
    )


def no_answer(nvml: Any, error: Any) -> DriverGoneError:
    """An error of NVML as ours."""
    reason = _gone(nvml, error.value) or Reason.FAILED
    return DriverGoneError(
        f"the NVIDIA driver does not tell of its GPUs: {error}", reason=reason, hint=_HINTS[reason]
    )


def hangs(seconds: float) -> NoGpuError:
    """The driver has not answered for so long."""
    return NoGpuError(
        f"the NVIDIA driver has not answered for {seconds:.0f} s",
        reason=Reason.HANGS,
        hint=_HINTS[Reason.HANGS],
    )


def text(value: str | bytes) -> str:
    """A text of NVML: newer libraries tell str, older ones bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _gone(nvml: Any, code: int) -> Reason | None:
    return next((reason for name, reason in _GONE.items() if getattr(nvml, name) == code), None)

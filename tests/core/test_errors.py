"""Each error says whose fault it is, with a status, a type and a stable code."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest

from penstock.core import errors
from penstock.core.errors import (
    AuthError,
    ClientError,
    DeadlineError,
    EngineError,
    Fault,
    InternalError,
    LimitError,
    OverloadError,
    PenstockError,
    Phase,
)

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PenstockError)
]


def make(cls: type[PenstockError]) -> PenstockError:
    return cls("m", phase=Phase.STALL) if issubclass(cls, DeadlineError) else cls("m")


@pytest.mark.parametrize(
    ("cls", "status", "type_", "fault"),
    [
        (ClientError, 400, "invalid_request_error", Fault.CLIENT),
        (AuthError, 401, "authentication_error", Fault.CLIENT),
        (LimitError, 429, "rate_limit_error", Fault.CLIENT),
        (OverloadError, 503, "overloaded_error", Fault.GATEWAY),
        (EngineError, 502, "server_error", Fault.ENGINE),
        (DeadlineError, 504, "timeout_error", Fault.ENGINE),
        (InternalError, 500, "server_error", Fault.GATEWAY),
    ],
)
def test_a_class_fixes_status_type_and_fault(
    cls: type[PenstockError], status: int, type_: str, fault: Fault
) -> None:
    error = make(cls)

    assert (error.status, error.type, error.fault) == (status, type_, fault)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_stable_code_and_a_status_of_an_error(cls: type[PenstockError]) -> None:
    error = make(cls)

    assert re.fullmatch(r"[a-z_]+", error.code)
    assert HTTPStatus(error.status) >= 400
    assert str(error) == error.message == "m"
    assert (error.hint, error.param, error.retry_after_s) == ("", None, None)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_clients_fault_is_a_4xx_and_any_other_a_5xx(cls: type[PenstockError]) -> None:
    assert (make(cls).status < 500) == (cls.fault is Fault.CLIENT)


def test_an_instance_may_say_more() -> None:
    error = ClientError("m", code="c", hint="h", status=413, param="p", retry_after_s=3)

    assert (error.code, error.hint, error.status, error.param, error.retry_after_s) == ("c", "h", 413, "p", 3)
    assert type(error.status) is int
    assert ClientError("m").status == 400


@pytest.mark.parametrize("phase", Phase)
def test_a_deadlines_code_names_its_phase(phase: Phase) -> None:
    error = DeadlineError("m", phase=phase)

    assert error.code == f"{phase.value}_timeout"
    assert error.phase is phase


def test_an_engines_failure_is_caught_as_one_whatever_it_was() -> None:
    with pytest.raises(EngineError):
        raise DeadlineError("m", phase=Phase.CONNECT)

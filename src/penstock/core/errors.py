"""The one tree of errors, split first by whose fault it is.

Each class fixes the HTTP status, the OpenAI error `type` and the fault; an instance adds a stable `code`, a
message that says where and what, and a `hint` that says what to do next. `gateway/responses.py` is the only
place that turns one into bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from http import HTTPStatus


class Fault(StrEnum):
    """Whose fault an error is; the value of the `x-penstock-fault` header."""

    CLIENT = "client"
    GATEWAY = "gateway"
    ENGINE = "engine"


class Phase(StrEnum):
    """The part of a request's life that a deadline belongs to."""

    QUEUE = "queue"
    CONNECT = "connect"
    FIRST_TOKEN = "first_token"  # noqa: S105 - no password
    STALL = "stall"
    TOTAL = "total"


class PenstockError(Exception):
    """Any failure that Penstock expects and can explain.

    Args:
        message: what went wrong, with the place it concerns.
        code: a stable machine-readable name, lower case with underscores.
        hint: what the reader can do next; empty when there is nothing to do.
        status: the HTTP status, where it differs from the class's own.
        param: the request field at fault, as OpenAI's error shape names it.
        retry_after_s: how long to wait before trying again, in whole seconds.
        headers: further headers for the response, with lower-case names.
    """

    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
    type: str = "server_error"
    fault: Fault = Fault.GATEWAY
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        status: int | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers
        self.code = code or type(self).code
        self.status = int(status or type(self).status)


class ClientError(PenstockError):
    """The request itself is wrong; sending it again unchanged can't help."""

    status = HTTPStatus.BAD_REQUEST
    type = "invalid_request_error"
    fault = Fault.CLIENT
    code = "invalid_request"


class AuthError(ClientError):
    """The caller is unknown or may not do this."""

    status = HTTPStatus.UNAUTHORIZED
    type = "authentication_error"
    code = "invalid_api_key"


class LimitError(ClientError):
    """The caller passed a limit of its own; other callers feel nothing."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class OverloadError(PenstockError):
    """The service can't take the request now; the same request may succeed later."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "overloaded_error"
    code = "overloaded"


class EngineError(PenstockError):
    """An engine failed in the middle of its work."""

    status = HTTPStatus.BAD_GATEWAY
    type = "server_error"
    fault = Fault.ENGINE
    code = "engine_error"


class DeadlineError(EngineError):
    """A phase of the request took longer than it may; `code` names the phase."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    type = "timeout_error"

    def __init__(self, message: str, *, phase: Phase, hint: str = "") -> None:
        super().__init__(message, code=f"{phase}_timeout", hint=hint)
        self.phase = phase


class InternalError(PenstockError):
    """A bug in Penstock."""

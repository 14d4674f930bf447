"""The id that follows a request: the client's own, where it is fit for headers and logs, else a new one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_FIT = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

HEADER = b"x-request-id"


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The request's id."""
    return fit_id(next((value for name, value in headers if name == HEADER), b""))


def fit_id(given: bytes) -> str:
    """`given`, or a new id where that is not fit."""
    return given.decode() if given and _FIT.fullmatch(given) else new_request_id()


def new_request_id() -> str:
    """An id that nobody else has: 96 random bits."""
    return "req_" + os.urandom(12).hex()

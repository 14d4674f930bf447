"""Scripted faults: what a simulated engine does wrong, on request or at random.

Written `name` or `name=value`, joined by `;` or `,`: `stall_after_tokens=3`, `status=429;retry_after=3`. A
request asks for one by the header `x-sim-fault` or the body field `sim_fault`; `name=value:probability` is a
random one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any

from penstock.core.units import parse_duration_s

_STATUS = (400, 599)


@dataclass(frozen=True, slots=True)
class Fault:
    """All that goes wrong with one request; as made, nothing.

    Args:
        reset_before: the connection is reset without a byte of reply.
        reset_after_tokens: the connection is reset once that many tokens are out.
        stall_before_first: the reply's head comes, and no token ever.
        stall_after_tokens: nothing comes after that many tokens.
        trickle_s: after the reply's head, one byte in that many seconds.
        status: an error reply with that status, 400 to 599, at once.
        retry_after_s: the `Retry-After` of the error reply, whole seconds.
        refuse_s: the listener is closed that long, idle connections too, and this one is reset.
        freeze_s: the whole engine makes no step that long, while /health answers 200.
        malformed: the event of that token (a plain reply: its body) is cut off within its JSON.
        no_usage: no usage, although it was asked for.
        late_usage_s: the usage chunk and `[DONE]` come that long after the last token.
        abort_after_tokens: finish_reason "abort" once that many tokens are out.
        early_role: the chunk that carries the role comes at once, before the first token.
        tokens_per_chunk: that many tokens in a chunk.
        close_idle: the connection is closed right after the reply, without `Connection: close`.
    """

    reset_before: bool = False
    reset_after_tokens: int | None = None
    stall_before_first: bool = False
    stall_after_tokens: int | None = None
    trickle_s: float | None = None
    status: int | None = None
    retry_after_s: int | None = None
    refuse_s: float | None = None
    freeze_s: float | None = None
    malformed: int | None = None
    no_usage: bool = False
    late_usage_s: float | None = None
    abort_after_tokens: int | None = None
    early_role: bool = False
    tokens_per_chunk: int = 1
    close_idle: bool = False

    def merged(self, other: Fault) -> Fault:
        """Both faults; where they contradict each other, `other` is right."""
        mine_by_default = {field.name: field.default for field in fields(self)}
        changed = {name: getattr(other, name) for name in mine_by_default}
        return replace(self, **{k: v for k, v in changed.items() if v != mine_by_default[k]})


NO_FAULT = Fault()


@dataclass(frozen=True, slots=True)
class FaultRate:
    """A fault that strikes a share of the requests, `probability` 0 to 1; `text` is how it was written."""

    text: str
    fault: Fault
    probability: float


def _count(least: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"\d{1,9}", value) or int(value) < least:
            raise ValueError(f"expected a whole number, at least {least}")
        return int(value)

    return parse


def _status(value: str) -> int:
    low, high = _STATUS
    if not re.fullmatch(r"\d{3}", value) or not low <= int(value) <= high:
        raise ValueError(f"expected an error status, {low} to {high}")
    return int(value)


@dataclass(frozen=True, slots=True)
class _Name:
    """How a fault is written: the field it sets, its parser, and its value where none is written."""

    field: str
    parse: Callable[[str], object] | None = None
    default: str | None = None


_NAMES: Mapping[str, _Name] = {
    "reset_before": _Name("reset_before"),
    "reset_after_tokens": _Name("reset_after_tokens", _count(0)),
    "stall_before_first": _Name("stall_before_first"),
    "stall_after_tokens": _Name("stall_after_tokens", _count(0)),
    "trickle": _Name("trickle_s", parse_duration_s, "0.2"),
    "status": _Name("status", _status),
    "retry_after": _Name("retry_after_s", _count(0)),
    "refuse": _Name("refuse_s", parse_duration_s, "2s"),
    "freeze": _Name("freeze_s", parse_duration_s, "5s"),
    "malformed": _Name("malformed", _count(1), "2"),
    "no_usage": _Name("no_usage"),
    "late_usage": _Name("late_usage_s", parse_duration_s, "0.5s"),
    "abort": _Name("abort_after_tokens", _count(0), "1"),
    "early_role": _Name("early_role"),
    "tokens_per_chunk": _Name("tokens_per_chunk", _count(1)),
    "close_idle": _Name("close_idle"),
}
FAULT_NAMES = tuple(_NAMES)


def parse_fault(text: str) -> Fault:
    """The fault that `text` describes.

    Raises:
        ValueError: a name is unknown (the nearest known one is named), or a value is wrong or missing.
    """
    values: dict[str, Any] = dict(_parse_one(part.strip()) for part in re.split("[;,]", text) if part.strip())
    if "retry_after_s" in values and "status" not in values:
        raise ValueError("fault 'retry_after' needs a status beside it: status=429;retry_after=3")
    return replace(NO_FAULT, **values)


def _parse_one(part: str) -> tuple[str, object]:
    written, equals, value = (piece.strip() for piece in part.partition("="))
    name = _NAMES.get(written.replace("-", "_").lower())
    if name is None:
        near = difflib.get_close_matches(written, FAULT_NAMES, 1, 0.0)
        raise ValueError(f"unknown fault {written!r}; the nearest known is {near[0]!r}")
    if name.parse is None:
        if equals:
            raise ValueError(f"fault {written!r} takes no value")
        return name.field, True
    if not equals:
        if name.default is None:
            raise ValueError(f"fault {written!r} needs a value: {written}=...")
        value = name.default
    try:
        return name.field, name.parse(value)
    except ValueError as error:
        raise ValueError(f"fault {written!r}: {error}, not {value!r}") from None


def parse_fault_rate(text: str) -> FaultRate:
    """A random fault, written `fault:probability`, such as `reset_after_tokens=5:0.01`.

    Raises:
        ValueError: it is not written so, or the probability is not within 0 to 1.
    """
    written, colon, share = text.rpartition(":")
    try:
        probability = float(share) if colon else -1.0
    except ValueError:
        probability = -1.0
    if not 0 <= probability <= 1:
        raise ValueError(
            f"fault rate {text!r}: expected fault:probability, such as reset_after_tokens=5:0.01"
        )
    return FaultRate(text, parse_fault(written), probability)


class FaultPlan:
    """Which fault strikes the next request: the scripted one while it lasts, else a random one.

    Args:
        rates: each is drawn on its own, in order; all that strike are joined.
        random: the source of chance.
    """

    __slots__ = ("_next", "_random", "_remaining", "rates")

    def __init__(self, rates: Sequence[FaultRate], random: Random) -> None:
        self.rates = tuple(rates)
        self._random = random
        self._next = NO_FAULT
        self._remaining = 0

    @property
    def remaining(self) -> int:
        """Requests that the scripted fault will still strike."""
        return self._remaining

    def script(self, fault: Fault, requests: int) -> None:
        """Lets `fault` strike the next `requests` requests, in place of any script before; 0 ends it."""
        self._next = fault
        self._remaining = requests

    def draw(self, asked: Fault = NO_FAULT) -> Fault:
        """The fault of the next request, which itself asked for `asked`."""
        struck = NO_FAULT
        for rate in self.rates:
            if self._random.random() < rate.probability:
                struck = struck.merged(rate.fault)
        if self._remaining:
            self._remaining -= 1
            struck = struck.merged(self._next)
        return struck.merged(asked)

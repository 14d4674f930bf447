"""How long prompts and answers are: distributions of whole numbers, and of times. Pure: chance is an argument.

A text such as `lognormal:512,0.6` is read by `parse_lengths`; `str` of what it returns is such a text again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from random import Random

import msgspec

from penstock.core.errors import PenstockError
from penstock.core.units import parse_duration_s

# The longest context of any open model in 2026 is ten million tokens; a prompt of one is 5 MB of text.
LENGTH_MAX = 1_000_000
# A file of lengths is drawn from at random; more of them change no distribution that a run could show.
FILE_LENGTHS_MAX = 1_000_000
# A session, a pause or a cancellation that is later than this belongs to another run.
SPAN_MAX_S = 86_400.0
# A line of a file of lengths is one number.
_LINE_CHARS_MAX = 64

EXAMPLES = "128, uniform:100-500, normal:512,64, lognormal:512,0.6 (median, sigma) or file:lengths.txt"
_RANGE = re.compile(r"\s*(\d+)\s*-\s*(\d+)\s*")

Reader = Callable[[str], Iterable[str]]


class WorkloadError(PenstockError):
    """A workload that can't be made."""

    code = "workload"


class Shape(StrEnum):
    """A family of distributions."""

    FIXED = "fixed"
    UNIFORM = "uniform"
    NORMAL = "normal"
    LOGNORMAL = "lognormal"
    FILE = "file"


class Lengths(msgspec.Struct, frozen=True):
    """A distribution of lengths, in tokens unless its place says otherwise.

    Args:
        shape: the family.
        centre: the length itself, the mean of a normal one, or the median of a lognormal one.
        spread: the standard deviation of a normal one, or that of the logarithm of a lognormal one.
        least, most: bounds; a draw beyond them is moved to them. 0 to `LENGTH_MAX`.
        values: what is drawn from, of a file.
        name: of the file.
    """

    shape: Shape
    centre: float = 0.0
    spread: float = 0.0
    least: int = 1
    most: int = LENGTH_MAX
    values: tuple[int, ...] = ()
    name: str = ""

    def draw(self, random: Random) -> int:
        """One length."""
        if self.shape is Shape.FIXED:
            return int(self.centre)
        if self.shape is Shape.UNIFORM:
            return random.randint(self.least, self.most)
        if self.shape is Shape.FILE:
            return random.choice(self.values)
        drawn = random.gauss(0.0, self.spread)
        value = self.centre + drawn if self.shape is Shape.NORMAL else self.centre * _exp(drawn)
        return min(max(round(value), self.least), self.most)

    @property
    def longest(self) -> int:
        """No draw is longer."""
        if self.shape is Shape.FIXED:
            return int(self.centre)
        return max(self.values) if self.shape is Shape.FILE else self.most

    def __str__(self) -> str:
        """The text that means the same."""
        if self.shape is Shape.FIXED:
            return f"{self.centre:.0f}"
        if self.shape is Shape.UNIFORM:
            return f"uniform:{self.least}-{self.most}"
        if self.shape is Shape.FILE:
            return f"file:{self.name}"
        bounds = "" if (self.least, self.most) == (1, LENGTH_MAX) else f",{self.least},{self.most}"
        return f"{self.shape}:{self.centre:g},{self.spread:g}{bounds}"


def _exp(power: float) -> float:
    return math.exp(min(power, 100.0))  # what is beyond is cut off anyway, and would overflow


def fixed(length: int) -> Lengths:
    """Always the same length."""
    return Lengths(Shape.FIXED, float(length))


def parse_lengths(text: str, where: str = "length", read: Reader | None = None, *, least: int = 1) -> Lengths:
    """The distribution that a text describes.

    Args:
        text: a number; `uniform:LOW-HIGH` or only `LOW-HIGH`; `normal:MEAN,DEVIATION`; `lognormal:MEDIAN,SIGMA`; the
            latter two also with `,LEAST,MOST`; `file:PATH`, a file with one length a line.
        where: the place of the text, for messages.
        read: the lines of a file; None where files can't be named.
        least: no length is shorter.

    Raises:
        WorkloadError: the text means no distribution, or the file holds something else than lengths.
    """
    shape, _, rest = text.strip().partition(":")
    if not rest:
        shape, rest = ("uniform" if _RANGE.fullmatch(shape) else "fixed"), shape
    if shape == Shape.FILE:
        return _from_file(rest, where, read, least)
    if shape == Shape.UNIFORM:
        low, high = _range(rest, text, where)
        return _checked(Lengths(Shape.UNIFORM, least=low, most=high), text, where, least)
    if shape not in tuple(Shape):
        raise _wrong(where, text, f"{shape!r} is none of {', '.join(Shape)}")
    numbers = _numbers(rest, text, where)
    if shape == Shape.FIXED and len(numbers) == 1 and numbers[0] == int(numbers[0]):
        return _checked(Lengths(Shape.FIXED, numbers[0]), text, where, least)
    if shape == Shape.FIXED or len(numbers) not in (2, 4):
        raise _wrong(where, text, "it has not the numbers that it should have")
    low, high = (int(numbers[2]), int(numbers[3])) if len(numbers) == 4 else (least, LENGTH_MAX)
    return _checked(Lengths(Shape(shape), numbers[0], numbers[1], low, high), text, where, least)


def _range(rest: str, text: str, where: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(rest)
    if match is None:
        raise _wrong(where, text, "a range is two whole numbers, LOW-HIGH")
    return int(match[1]), int(match[2])


def _numbers(rest: str, text: str, where: str) -> list[float]:
    try:
        numbers = [float(each.replace("_", "")) for each in rest.split(",")]
    except ValueError:
        raise _wrong(where, text, "a number can't be read") from None
    if not all(0 <= number <= LENGTH_MAX for number in numbers):
        raise _wrong(where, text, f"each number should be 0 to {LENGTH_MAX}")
    return numbers


def _checked(lengths: Lengths, text: str, where: str, least: int) -> Lengths:
    shortest = int(lengths.centre) if lengths.shape is Shape.FIXED else lengths.least
    if shortest < least:
        raise _wrong(where, text, f"no length may be below {least}")
    if lengths.least > lengths.most or lengths.most > LENGTH_MAX:
        raise _wrong(where, text, f"the bounds should be in order, and at most {LENGTH_MAX}")
    return lengths


def _from_file(path: str, where: str, read: Reader | None, least: int) -> Lengths:
    if read is None:
        raise _wrong(where, f"file:{path}", "no file can be named here")
    values: list[int] = []
    for number, line in enumerate(read(path), 1):
        written = line.strip()
        if not written or written.startswith("#"):
            continue
        if len(written) > _LINE_CHARS_MAX or not written.isascii() or not written.isdecimal():
            raise WorkloadError(
                f"{path}:{number}: {written[:_LINE_CHARS_MAX]!r} is no whole number",
                hint="a file of lengths has one number a line; lines that begin with # are passed over",
            )
        if not least <= int(written) <= LENGTH_MAX:
            raise WorkloadError(f"{path}:{number}: a length should be {least} to {LENGTH_MAX}, not {written}")
        if len(values) == FILE_LENGTHS_MAX:
            raise WorkloadError(
                f"{path}:{number}: more than {FILE_LENGTHS_MAX} lengths", hint="give a random part of them"
            )
        values.append(int(written))
    if not values:
        raise WorkloadError(f"{where}: {path} holds no length", hint="it should have one number a line")
    return Lengths(Shape.FILE, values=tuple(values), name=path)


def _wrong(where: str, text: str, why: str) -> WorkloadError:
    return WorkloadError(
        f"{where}: {text[:100]!r} is no distribution of lengths: {why}", hint=f"write {EXAMPLES}"
    )


class Span(msgspec.Struct, frozen=True):
    """A time that is drawn uniformly, such as the pause before a turn.

    Args:
        least_s, most_s: seconds, 0 to `SPAN_MAX_S`.
    """

    least_s: float = 0.0
    most_s: float = 0.0

    def draw(self, random: Random) -> float:
        """One time, seconds."""
        if self.least_s == self.most_s:
            return self.least_s
        return random.uniform(self.least_s, self.most_s)

    def __str__(self) -> str:
        """The text that means the same."""
        if self.least_s == self.most_s:
            return f"{self.least_s:g}s"
        return f"{self.least_s:g}s-{self.most_s:g}s"


def parse_span(text: str, where: str = "time") -> Span:
    """The times that `2s` or `500ms-2s` describes.

    Raises:
        WorkloadError: it describes none.
    """
    low, dash, high = text.partition("-")
    try:
        span = Span(parse_duration_s(low), parse_duration_s(high if dash else low))
    except ValueError as error:
        raise WorkloadError(f"{where}: {text[:100]!r}: {error}", hint="write 2s or 500ms-2s") from None
    if not span.least_s <= span.most_s <= SPAN_MAX_S:
        raise WorkloadError(
            f"{where}: {text[:100]!r} should be in order and at most 24h", hint="write 2s or 500ms-2s"
        )
    return span

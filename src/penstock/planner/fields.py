"""A `config.json`, read with care: every number is checked, and a mistake says its place and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.planner.shapes import PlanError

NUMBER_MAX = 2**32
"""No size in a published configuration comes near it; what is larger would only make nonsense of a sum."""

LAYERS_MAX = 4096
"""What is listed layer by layer must stay short; published models have up to 126."""

SHOWN_CHARS_MAX = 60


@dataclass(frozen=True, slots=True)
class Fields:
    """The members of one object of a configuration.

    Args:
        values: the members.
        where: the file or repository, for messages.
        path: of this object in the file, with a dot behind it; empty at its top.
    """

    values: Mapping[str, Any]
    where: str
    path: str = ""

    def number(self, *names: str, default: int | None = None, least: int = 1, most: int = NUMBER_MAX) -> int:
        """The first of `names` that is there and not null, a whole number.

        Raises:
            PlanError: it is no whole number from `least` to `most`, or none is there and there is no `default`.
        """
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if type(value) is not int or not least <= value <= most:
                raise self.mistake(name, f"expected a whole number from {least} to {most}")
            return value
        if default is None:
            raise PlanError(
                f"{self.where}: {self.path}{names[0]} is missing",
                hint="it must be the model's own config.json, as published with its weights",
            )
        return default

    def maybe(self, *names: str) -> int | None:
        """A number as `number` reads it, or None where there is none."""
        return self.number(*names, default=0) or None

    def flag(self, name: str, *, default: bool) -> bool:
        """A member that is true or false; `default` where it is not there or null.

        Raises:
            PlanError: it is something else.
        """
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.mistake(name, "expected true or false")
        return value

    def text(self, *names: str, default: str = "") -> str:
        """The first of `names` that is a text; `default` where there is none."""
        found = (self.values.get(name) for name in names)
        return next((value for value in found if isinstance(value, str)), default)

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of texts; None where it is not there.

        Raises:
            PlanError: it is something else.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.mistake(name, "expected a list of texts")
        return tuple(value)

    def numbers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers; empty where it is not there.

        Raises:
            PlanError: it is something else.
        """
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(
            type(one) is int and 0 <= one <= NUMBER_MAX for one in value
        ):
            raise self.mistake(name, "expected a list of whole numbers")
        return tuple(value)

    def part(self, name: str) -> Fields | None:
        """A member that is an object; None where it is not there.

        Raises:
            PlanError: it is something else.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.mistake(name, "expected an object")
        return Fields(value, self.where, f"{self.path}{name}.")

    def mistake(self, name: str, expected: str) -> PlanError:
        """An error at the member `name`."""
        shown = repr(self.values.get(name))
        shown = shown if len(shown) <= SHOWN_CHARS_MAX else shown[:SHOWN_CHARS_MAX] + "..."
        return PlanError(f"{self.where}: {self.path}{name}: {expected}, found {shown}")

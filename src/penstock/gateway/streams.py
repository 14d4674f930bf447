"""The streams under way, so that one whose engine has fallen silent is seen while the silence lasts.

Nothing is done for an event: its time is on the record anyway, and is looked at when somebody asks. The gaps between
the tokens are measured of some streams alone; the others pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.core.times import Times
from penstock.gateway.call import Call
from penstock.telemetry.boundaries import TOKEN_S

# Of so many streams of a model, the gaps of the first are measured.
MEASURED_ONE_IN = 8


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """The streams of one model.

    Args:
        count: those whose first token has been sent.
        silence_max_s: the longest time since a token; of those whose clients read.
    """

    count: int = 0
    silence_max_s: float = 0.0


class Streams:
    """Keeps calls that are answered by a stream, from `add` to `remove`; as many as there are requests under way."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._begun: dict[str, int] = {}  # by model, so that each of them is measured

    def add(self, call: Call) -> None:
        """One more is under way; says on its record whether its gaps are measured.

        Where answers come side by side, the gaps between their events are none of an answer.
        """
        self._calls[id(call)] = call
        record = call.record
        if record.answers > 1:
            return
        begun = self._begun.get(record.model, 0)
        self._begun[record.model] = begun + 1
        if begun % MEASURED_ONE_IN == 0:
            record.gaps = Times(TOKEN_S)

    def remove(self, call: Call) -> None:
        """It is over; nothing where it was not there."""
        self._calls.pop(id(call), None)

    def figures(self, now_s: float) -> Mapping[str, StreamFigures]:
        """How they are, by model.

        Args:
            now_s: on the clock of the records.
        """
        found: dict[str, StreamFigures] = {}
        for call in self._calls.values():
            last_s = call.record.last_token_s or call.record.first_token_s
            if last_s is not None:
                known = found.get(call.record.model, StreamFigures())
                silence_s = 0.0 if call.responder.write_paused else now_s - last_s
                found[call.record.model] = StreamFigures(known.count + 1, max(known.silence_max_s, silence_s))
        return found

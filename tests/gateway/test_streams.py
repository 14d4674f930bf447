"""The streams under way, and which of them are measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.core.record import RequestRecord
from penstock.gateway.streams import MEASURED_ONE_IN, Streams


@dataclass(eq=False)
class Stream:
    """A call, as far as it is looked at."""

    model: str
    record: RequestRecord = field(init=False)

    def __post_init__(self) -> None:
        self.record = RequestRecord("r", "POST", "/v1/completions", 0.0, 0.0, model=self.model)


def measured(streams: Streams, *models: str) -> list[bool]:
    calls = [Stream(model) for model in models]
    for call in calls:
        streams.add(call)  # type: ignore[arg-type]
    return [call.record.gaps is not None for call in calls]


def test_one_stream_in_so_many_is_measured_and_the_first_is_one() -> None:
    found = measured(Streams(), *["m"] * (3 * MEASURED_ONE_IN))

    assert found == ([True] + [False] * (MEASURED_ONE_IN - 1)) * 3


def test_each_model_is_measured_however_they_take_turns() -> None:
    names = [f"m-{number}" for number in range(MEASURED_ONE_IN)]
    streams = Streams()

    assert measured(streams, *names) == [True] * len(names)
    assert not any(measured(streams, *names * (MEASURED_ONE_IN - 1)))
    assert measured(streams, *names) == [True] * len(names)

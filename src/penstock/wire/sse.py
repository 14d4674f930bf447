"""Server-sent events as bytes: whole events are cut off a stream, counted and passed on; none is parsed here.

An engine's JSON never holds a raw line feed, so an empty line ends an event and nothing else does.
"""

from __future__ import annotations

import re

# One event of an engine is a few hundred bytes; logprobs and tool calls make some tens of kilobytes.
EVENT_BYTES_MAX = 1024 * 1024

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"

_BOUNDARY = re.compile(rb"\r?\n\r?\n")
_DATA = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)


class EventTooLargeError(ValueError):
    """An event grew past `EVENT_BYTES_MAX` without an end."""


class EventFramer:
    """Cuts a byte stream into whole events; the beginning of an unfinished one is held back, in `held`."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = b""

    def feed(self, data: bytes) -> bytes:
        """The whole events that `data` completes, unchanged; empty when there is none.

        Raises:
            EventTooLargeError: an event does not end.
        """
        if self.held:
            data = self.held + data
            self.held = b""
        if data.endswith(b"\n\n"):
            return data
        end = _last_boundary(data)
        self.held = data[end:]
        if len(self.held) > EVENT_BYTES_MAX:
            raise EventTooLargeError(f"an event is larger than {EVENT_BYTES_MAX} bytes")
        return data[:end]

    @property
    def rest(self) -> bytes:
        """The unfinished event, if any; further empty lines behind the last one are none."""
        return self.held.lstrip(b"\r\n")


def count_events(events: bytes) -> int:
    """How many events `events` holds; it must end with a whole one."""
    if b"\r" in events:
        return len(_BOUNDARY.findall(events))
    return events.count(b"\n\n")


def split_events(events: bytes) -> list[bytes]:
    """Each event of `events` by itself, with its end mark; `events` must end with a whole one."""
    parts = []
    start = 0
    for match in _BOUNDARY.finditer(events):
        parts.append(events[start : match.end()])
        start = match.end()
    if parts and start < len(events):  # one more line feed belongs to the last end mark
        parts[-1] += events[start:]
    return parts


def event_data(event: bytes) -> bytes:
    """The `data` of one event; several data lines are joined by line feeds, as the standard says."""
    return b"\n".join(_DATA.findall(event))


def event(data: bytes) -> bytes:
    """One event with this `data`, which must hold no line feed."""
    return b"data: %b\n\n" % data


def _last_boundary(data: bytes) -> int:
    end = data.rfind(b"\n\n") + 2
    if b"\r" in data:
        end = max([end, *(match.end() for match in _BOUNDARY.finditer(data))])
    return end if end >= 2 else 0

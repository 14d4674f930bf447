"""A line of the usage journal: `Begin` when a request is admitted, `End` before its client sees the end.

On disk a line is the CRC-32 of its JSON in eight hexadecimal digits, a space, the JSON and a newline. An `End`
repeats what its `Begin` says, so that it stands for itself where that was lost. Nothing of a prompt or an
answer is in either. Money is in whole nano-dollars (10⁻⁹ US dollars), so that sums are exact and in any order
the same: a token at 0.15 dollars a million costs 150 of them.
"""

from __future__ import annotations

import re
import zlib
from typing import Annotated, Any

import msgspec

from penstock.policy.budget import COST_TOKENS_MAX, COST_USD_MAX

NANO_USD = 10**9
COST_NANO_USD_MAX = int(COST_USD_MAX) * NANO_USD
LINE_BYTES_MAX = 8192
_CUT_TEXT_MAX = 64  # short enough for any line, however its characters are written

_CRC_DIGITS = 8
_HEAD = re.compile(rb"[0-9a-f]{8} \{")
_EPOCH_END = 253402300799.0  # the end of the year 9999, which is as far as dates go

_Count = Annotated[int, msgspec.Meta(ge=0, le=COST_TOKENS_MAX)]
_Small = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
_Time = Annotated[float, msgspec.Meta(ge=0.0, le=_EPOCH_END)]
_Price = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
_Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
_Money = Annotated[int, msgspec.Meta(ge=0, le=COST_NANO_USD_MAX)]


class Begin(msgspec.Struct, tag="begin", tag_field="line", omit_defaults=True, gc=False):
    """A request that was admitted.

    Args:
        entry: the id of the entry, which nobody else has; clients may choose request ids, not this.
        started_at: seconds since the epoch.
        reserved_tokens: what it may use at most.
    """

    entry: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    request_id: str
    tenant: str
    key_id: str
    model: str
    route: str
    started_at: _Time
    reserved_tokens: _Count = 0


class End(Begin, tag="end", omit_defaults=True, gc=False, kw_only=True):
    """A request that has ended.

    Args:
        ended_at: seconds since the epoch.
        outcome: one of `Outcome`.
        prompt_tokens: None where nobody counted.
        usage_source: who counted: `engine`, `events` or `none`.
        cost_nano_usd: at the prices below, US dollars for a million tokens.
        replayed: answered from another's answer; nothing was generated for it.
        priority: the class in which it waited.
        fault, error_code: of an error, else empty.
        attempts: replicas that were asked.
        queue_s, ttft_s, tpot_s: as `RequestRecord` has them, to the microsecond; None where there is none.
    """

    ended_at: _Time
    status: _Small
    outcome: str
    replica: str = ""
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    usage_source: str = "none"
    cost_nano_usd: _Money = 0
    prompt_usd_per_million: _Price = 0.0
    completion_usd_per_million: _Price = 0.0
    continuations: _Small = 0
    replayed: bool = False
    stream: bool = False
    priority: str = ""
    fault: str = ""
    error_code: str = ""
    attempts: _Small = 0
    queue_s: _Seconds | None = None
    ttft_s: _Seconds | None = None
    tpot_s: _Seconds | None = None


Line = Begin | End

_encode = msgspec.json.Encoder().encode
_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Begin | End)


def encode_line(line: Line) -> bytes:
    """The line as it is written; texts that would make it too long are cut."""
    data = _encode(line)
    if len(data) > LINE_BYTES_MAX - _CRC_DIGITS - 2:
        data = _encode(_cut(line))
    return b"%08x %b\n" % (zlib.crc32(data), data)


def decode_line(raw: bytes) -> Line | None:
    """The line in `raw`, which has no newline; None where it is torn, or is no line that is known."""
    data = raw[_CRC_DIGITS + 1 :]
    if len(raw) >= LINE_BYTES_MAX or raw[: _CRC_DIGITS + 1] != b"%08x " % zlib.crc32(data):
        return None
    try:
        line: Line = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return line


def salvage_line(raw: bytes) -> Line | None:
    """The whole line at the end of `raw`, behind one that was torn off before its newline; else None."""
    tail = raw[-LINE_BYTES_MAX:]
    found = (decode_line(tail[match.start() :]) for match in _HEAD.finditer(tail))
    return next((line for line in found if line is not None), None)


def nano_usd(usd: float) -> int:
    """US dollars in nano-dollars: 0 to `COST_NANO_USD_MAX`, 0 for what is no number."""
    return round(min(usd, COST_USD_MAX) * NANO_USD) if usd > 0.0 else 0


def _cut(line: Line) -> Line:
    texts = {
        name: value[:_CUT_TEXT_MAX]
        for name, value in msgspec.structs.asdict(line).items()
        if isinstance(value, str)
    }
    return msgspec.structs.replace(line, **texts)

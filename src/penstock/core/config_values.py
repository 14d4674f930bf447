"""The kinds of value that a configuration holds, each with the words that say what it should look like.

A validator here takes what TOML or an environment variable gives, text included, and raises ValueError with
`expected ...` and never with the value, which may be a secret.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from penstock.core.address import ADDRESS, Address
from penstock.core.units import parse_duration_s, parse_size_bytes

# What a value should look like, said in the same words by a mistake and by the reference.
DURATION = "a duration from 1ms to 24h, such as 500ms, 2s or 10m"
PERIOD = "a duration from 1s to 3650d, such as 10m, 24h or 90d"
SHARE = "a number from 0 to 1"
AMOUNT = "a number from 0 to 1000000000"
PERCENT = "a percentage from 50 to 99.999"
NETWORK = "an IP address or network, such as 10.0.0.0/8 or ::1"
REDIS_URL = "a URL such as redis://host:6379/0, redis://:password@host:6379/0 or rediss://host:6379"
OTLP_URL = "a URL such as http://host:4318 or https://host:4317, without name and password"
HTTP_URL = "a URL such as http://host:8123 or https://host:8443, without name, password and path"
DATABASE_NAME = "1 to 64 letters, digits and underscores"
HEADER_NAME = "1 to 64 lower-case letters, digits and hyphens"
SIZE = "a size from 1KB to 1GB, such as 512KB, 10MB or 16MiB"
WHOLE = "a whole number"
NAME = "1 to 128 characters without spaces or control characters"
SECRET = "1 to 512 printable ASCII characters without spaces"  # noqa: S105 - a description, not a secret
SOURCE = "one line of text, or a list of these"
ENGINE_ARG = "text, a number, true or false, or a list or table of these"
URL_PATH = "a path such as /health, of printable ASCII characters without spaces"
METRIC_NAME = "the name of a metric, such as my_server:requests_running"
FOLDER = "the path of a folder, on one line"
IMAGE = "the name of an image, such as vllm/vllm-openai:v0.32.0"
GPUS = "a list of up to 1024 GPU indices from 0 to 1023, such as [0, 1]"

# Deep enough for every option of an engine that takes a table.
ARG_DEPTH_MAX = 8

GPUS_MAX = 1024

_INDEX = re.compile(r"[0-9]{1,4}")
_SECRET = re.compile(r"[!-~]{1,512}")
_URL_PATH = re.compile(r"/[!-~]{0,255}")
_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,127}")
_IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9._:/@-]{0,255}")
_HUB_QUANT = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*:[A-Za-z0-9][\w.-]{0,31}")
_REDIS_URL = re.compile(r"rediss?://[!-~]{1,500}|unix://[!-~]{1,500}")
_OTLP_URL = re.compile(
    r"https?://(?:[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::[0-9]{1,5})?(?:/[!-~]{0,200})?"
)
_HTTP_URL = re.compile(r"https?://(?:[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::[0-9]{1,5})?/?")
_FLAGS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def _address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    return Address.parse(value if isinstance(value, str) else "")


def _duration_s(value: Any) -> float:
    try:
        duration_s = parse_duration_s(value)
    except ValueError:
        duration_s = 0.0
    if not 0.001 <= duration_s <= 86400.0:
        raise ValueError(f"expected {DURATION}")
    return duration_s


def _period_s(value: Any) -> float:
    try:
        period_s = parse_duration_s(value)
    except ValueError:
        period_s = 0.0
    if not 1.0 <= period_s <= 3650 * 86400.0:
        raise ValueError(f"expected {PERIOD}")
    return period_s


def _amount(value: object) -> float:
    try:
        amount = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError):
        amount = math.nan
    if not 0 <= amount <= 10**9:
        raise ValueError(f"expected {AMOUNT}")
    return amount


def _percent(value: object) -> float:
    try:
        percent = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError):
        percent = math.nan
    if not 50 <= percent <= 99.999:
        raise ValueError(f"expected {PERCENT}")
    return percent


def _share(value: object) -> float:
    try:
        share = _amount(value)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"expected {SHARE}")
    return share


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    raise ValueError("expected true or false")


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"expected {NETWORK}") from None
    return value


def _redis_url(value: SecretStr) -> SecretStr:
    if not _REDIS_URL.fullmatch(value.get_secret_value()):
        raise ValueError(f"expected {REDIS_URL}")
    return value


def _otlp_url(value: str) -> str:
    if not _OTLP_URL.fullmatch(value) or not _has_address(value):
        raise ValueError(f"expected {OTLP_URL}")
    return value


def _http_url(value: str) -> str:
    if not _HTTP_URL.fullmatch(value) or not _has_address(value):
        raise ValueError(f"expected {HTTP_URL}")
    return value.rstrip("/")


def _has_address(url: str) -> bool:
    """Whether its port is one, and its address where it is in brackets."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _size_bytes(value: Any) -> int:
    try:
        size_bytes = parse_size_bytes(value)
    except (ValueError, OverflowError):
        size_bytes = 0
    if not 1000 <= size_bytes <= 10**9:
        raise ValueError(f"expected {SIZE}")
    return size_bytes


def _whole(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"expected {WHOLE}")


def _name(value: str) -> str:
    if not 1 <= len(value) <= 128 or " " in value or not value.isprintable():
        raise ValueError(f"expected {NAME}")
    return value


def _secret(value: SecretStr) -> SecretStr:
    if not _SECRET.fullmatch(value.get_secret_value()):
        raise ValueError(f"expected {SECRET}")
    return value


def _source(value: object) -> object:
    entries = (value,) if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(_is_line(entry) for entry in entries):
        raise ValueError(f"expected {SOURCE}")
    return value if isinstance(value, str) else tuple(entries)


def _gpus(value: object) -> tuple[int, ...]:
    if isinstance(value, str):  # of an environment variable
        value = [
            int(entry) if _INDEX.fullmatch(entry) else entry
            for entry in re.split(r"[\s,\[\]]+", value)
            if entry
        ]
    if not isinstance(value, list | tuple) or len(value) > GPUS_MAX:
        raise ValueError(f"expected {GPUS}")
    if not all(type(entry) is int and 0 <= entry < GPUS_MAX for entry in value):
        raise ValueError(f"expected {GPUS}")
    return tuple(value)


def _is_line(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _engine_arg(value: object) -> object:
    if not _is_engine_arg(value, ARG_DEPTH_MAX):
        raise ValueError(f"expected {ENGINE_ARG}")
    return value


def _is_engine_arg(value: object, depth: int) -> bool:
    if isinstance(value, list | dict):
        entries = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_engine_arg(entry, depth - 1) for entry in entries)
    return isinstance(value, str | int) or _is_finite(value)


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _matching(pattern: re.Pattern[str], wanted: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"expected {wanted}")
        return value

    return AfterValidator(check)


def is_hub_file(source: str) -> bool:
    """Whether `source` is `owner/repo:QUANTIZATION`, a GGUF file of the Hub."""
    return _HUB_QUANT.fullmatch(source) is not None


def is_base_url(url: str) -> bool:
    """Whether `url` is `http://host:port` and nothing more."""
    if not url.startswith("http://"):
        return False
    try:
        return Address.parse(url.removeprefix("http://")).port != 0
    except ValueError:
        return False


Duration = Annotated[float, BeforeValidator(_duration_s), DURATION]
Size = Annotated[int, BeforeValidator(_size_bytes), SIZE]
Period = Annotated[float, BeforeValidator(_period_s), PERIOD]
Amount = Annotated[float, BeforeValidator(_amount), AMOUNT]
Percent = Annotated[float, BeforeValidator(_percent), PERCENT]


Share = Annotated[float, BeforeValidator(_share), SHARE]
Flag = Annotated[bool, BeforeValidator(_flag), "true or false"]
Network = Annotated[str, AfterValidator(_network), NETWORK]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url), REDIS_URL]
OtlpUrl = Annotated[str, AfterValidator(_otlp_url), OTLP_URL]
HttpUrl = Annotated[str, AfterValidator(_http_url), HTTP_URL]
DatabaseName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"), DATABASE_NAME]
HeaderName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$"), HEADER_NAME]
Count = Annotated[int, BeforeValidator(_whole), WHOLE]
Name = Annotated[str, AfterValidator(_name), NAME]
Secret = Annotated[SecretStr, AfterValidator(_secret), SECRET]
ListenAddress = Annotated[Address, BeforeValidator(_address), ADDRESS]
Source = Annotated[str | tuple[str, ...], BeforeValidator(_source), SOURCE]
UrlPath = Annotated[str, _matching(_URL_PATH, URL_PATH), URL_PATH]
MetricName = Annotated[str, _matching(_METRIC_NAME, METRIC_NAME), METRIC_NAME]
FolderPath = Annotated[str, _matching(re.compile(r"[^\x00-\x1f\x7f]{1,1024}"), FOLDER), FOLDER]
ImageName = Annotated[str, _matching(_IMAGE, IMAGE), IMAGE]
GpuIndices = Annotated[tuple[int, ...], BeforeValidator(_gpus), GPUS]
ArgName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
ArgValue = Annotated[Any, AfterValidator(_engine_arg), ENGINE_ARG]

"""A TCP address and its spelling."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

ADDRESS = "host:port, such as 127.0.0.1:8080 or [::1]:8080"

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_PORT = re.compile(r"[0-9]{1,5}")
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, never bound to
_EVERY_INTERFACE = frozenset(_LOOPBACK_OF)


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address; port 0 stands for any free port.

    Args:
        host: a host name or an IP address, IPv6 without brackets.
        port: 0 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        """`host:port`, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that `host:port` or `[IPv6]:port` spells.

        Raises:
            ValueError: `text` is no such address.
        """
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        known = _is_ipv6(host[1:-1]) if bracketed else _HOST_NAME.fullmatch(host) is not None
        if not known or not _PORT.fullmatch(port) or int(port) > 65535:
            raise ValueError(f"expected {ADDRESS}")
        return cls(host[1:-1] if bracketed else host, int(port))

    def reachable(self) -> Address:
        """Where this machine reaches what listens on this address."""
        return Address(_LOOPBACK_OF.get(self.host, self.host), self.port)

    def overlaps(self, other: Address) -> bool:
        """Whether both can't be bound at once; two any-free-port addresses always can."""
        if self.port != other.port or self.port == 0:
            return False
        return self.host == other.host or not _EVERY_INTERFACE.isdisjoint({self.host, other.host})


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text

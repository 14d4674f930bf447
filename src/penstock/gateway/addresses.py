"""Limits of one client address: requests in a second, and open connections.

The address is the connection's own, or what a trusted proxy says in `X-Forwarded-For`: the rightmost one there that
is no trusted proxy itself, since everything left of it could be made up. An IPv6 address stands for its /64, which is
what one customer gets. Both tables are bounded.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from penstock.core.config import GatewayConfig
from penstock.core.errors import LimitError
from penstock.policy.address_rate import take

# Addresses whose rate is known; the one that has been silent longest is forgotten, and may begin anew.
ADDRESSES_MAX = 65_536
# Proxies behind each other; a longer chain is made up.
HOPS_MAX = 16
# What was looked up is remembered for as many texts, none longer than an address can be.
REMEMBERED_MAX = 4096
TEXT_CHARS_MAX = 80


def client_addresses(config: GatewayConfig, clock: Callable[[], float]) -> ClientAddresses | None:
    """The limits of `config`; None where there are none, so that they cost nothing."""
    if config.address_requests_per_second is None and config.address_connections_max is None:
        return None
    return ClientAddresses(config, clock)


class ClientAddresses:
    """Counts what each client address does.

    Args:
        config: the limits, and the proxies whose `X-Forwarded-For` is believed, and whose connections are not
            counted.
        clock: monotonic seconds.
    """

    def __init__(self, config: GatewayConfig, clock: Callable[[], float]) -> None:
        self._trusted_proxies = tuple(map(ip_network, config.trusted_proxies))
        self._requests_per_second = config.address_requests_per_second
        self._connections_max = config.address_connections_max
        self._clock = clock
        self._full_at_s: OrderedDict[str, float] = OrderedDict()
        self._connections: dict[str, int] = {}
        self._read = lru_cache(REMEMBERED_MAX)(self._look_up)

    def client_of(self, peer: str, forwarded_for: bytes) -> str:
        """The address that a request counts for.

        Args:
            peer: the other end of the connection.
            forwarded_for: all `X-Forwarded-For` headers, joined by commas in their order.
        """
        client, trusted = self._read(peer)
        if not trusted or not forwarded_for:
            return client
        hops = forwarded_for.decode("latin-1").split(",")[-HOPS_MAX:]
        for hop in reversed(hops):
            name, trusted = self._read(_without_port(hop.strip()[:TEXT_CHARS_MAX]))
            if not name:
                return client
            if not trusted:
                return name
        return client

    def admit(self, peer: str, forwarded_for: bytes) -> None:
        """Counts one request; arguments as for `client_of`.

        Raises:
            LimitError: it is one too many.
        """
        rate = self._requests_per_second
        if rate is None:
            return
        client = self.client_of(peer, forwarded_for)
        full_at_s, wait_s = take(self._full_at_s.pop(client, 0.0), self._clock(), rate)
        self._full_at_s[client] = full_at_s
        if len(self._full_at_s) > ADDRESSES_MAX:
            self._full_at_s.popitem(last=False)
        if wait_s:
            raise LimitError(
                f"{client} may send {rate:g} requests in a second",
                code="too_many_requests_from_address",
                hint="send fewer, or raise gateway.address_requests_per_second",
                retry_after_s=math.ceil(wait_s),
            )

    def connect(self, peer: str) -> str | None:
        """Counts one connection; returns what `disconnect` is to be told, None where it is not counted.

        Raises:
            LimitError: it is one too many, and is not counted.
        """
        limit = self._connections_max
        if limit is None:
            return None
        client, trusted = self._read(peer)
        if trusted:
            return None
        count = self._connections.get(client, 0)
        if count >= limit:
            raise LimitError(
                f"{client} has {limit} connections open already",
                code="too_many_connections_from_address",
                hint="close some, or raise gateway.address_connections_max",
                retry_after_s=1,
            )
        self._connections[client] = count + 1
        return client

    def disconnect(self, client: str) -> None:
        """A connection that was counted is gone."""
        self._connections[client] -= 1
        if not self._connections[client]:
            del self._connections[client]

    def _look_up(self, text: str) -> tuple[str, bool]:
        """The name under which an address is counted, empty for what is none; and whether it is a trusted proxy."""
        try:
            address = ip_address(text)
        except ValueError:
            return "", False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        trusted = any(address in network for network in self._trusted_proxies)
        return _name(address), trusted


def _name(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def _without_port(hop: str) -> str:
    """Some proxies add the port: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop

"""Whose request it is, as far as an address can tell, and how much one address may do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.config import GatewayConfig
from penstock.core.errors import LimitError
from penstock.gateway.addresses import ADDRESSES_MAX, HOPS_MAX, ClientAddresses, client_addresses

PROXY = "10.0.0.1"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def addresses(clock: Clock | None = None, **limits: Any) -> ClientAddresses:
    return ClientAddresses(
        GatewayConfig(trusted_proxies=("10.0.0.0/8", "fd00::/8"), **limits), clock or Clock()
    )


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("192.0.2.1", b"", "192.0.2.1"),
        ("192.0.2.1", b"198.51.100.9", "192.0.2.1"),  # nobody has to believe that
        (PROXY, b"", PROXY),
        (PROXY, b"198.51.100.9", "198.51.100.9"),
        (PROXY, b"203.0.113.5, 198.51.100.9", "198.51.100.9"),  # the left one may be made up
        (PROXY, b"203.0.113.5, 198.51.100.9, 10.2.3.4", "198.51.100.9"),
        (PROXY, b"203.0.113.5,198.51.100.9:4711", "198.51.100.9"),
        (PROXY, b"[2001:db8::1]:4711", "2001:db8::/64"),
        (PROXY, b"10.1.1.1, 10.2.2.2", PROXY),
        (PROXY, b"198.51.100.9, unknown", PROXY),
        (PROXY, b"198.51.100.9,", PROXY),
        (PROXY, b"\xff\x00", PROXY),
        (PROXY, b"1" * 60_000, PROXY),
        (PROXY, b"198.51.100.9," + b"10.0.0.2," * HOPS_MAX + b"10.0.0.2", PROXY),
        ("2001:db8:0:1:aaaa::1", b"", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:bbbb::2", b"", "2001:db8:0:1::/64"),
        ("fd00::1", b"2001:db8:0:2::9", "2001:db8:0:2::/64"),
        ("::ffff:192.0.2.1", b"", "192.0.2.1"),
        ("::ffff:10.0.0.1", b"198.51.100.9", "198.51.100.9"),
        ("fe80::1%eth0", b"", "fe80::/64"),
        ("", b"198.51.100.9", ""),
    ],
)
def test_a_request_counts_for_the_nearest_address_that_is_no_trusted_proxy(
    peer: str, forwarded_for: bytes, client: str
) -> None:
    assert addresses().client_of(peer, forwarded_for) == client


@given(st.binary(max_size=300))
def test_whatever_a_header_says_names_an_address_or_the_peer(forwarded_for: bytes) -> None:
    client = addresses().client_of(PROXY, forwarded_for)

    assert client
    assert len(client) < 50


@given(st.binary(max_size=100))
def test_what_a_client_writes_itself_does_not_change_who_it_is(made_up: bytes) -> None:
    assert addresses().client_of(PROXY, made_up + b", 198.51.100.9") == "198.51.100.9"


def test_an_address_over_its_rate_is_told_when_to_come_back_and_others_feel_nothing() -> None:
    clock = Clock()
    limited = addresses(clock, address_requests_per_second=5)
    for _ in range(10):
        limited.admit("192.0.2.1", b"")

    with pytest.raises(LimitError) as refused:
        limited.admit("192.0.2.1", b"")
    limited.admit("192.0.2.2", b"")
    clock.now_s += refused.value.retry_after_s or 0
    limited.admit("192.0.2.1", b"")

    assert (refused.value.status, refused.value.code) == (429, "too_many_requests_from_address")
    assert refused.value.retry_after_s == 1


def test_the_table_of_rates_is_bounded_and_forgets_who_was_silent_longest() -> None:
    limited = addresses(address_requests_per_second=0.5)
    limited.admit("192.0.2.1", b"")
    limited.admit("192.0.2.2", b"")
    with pytest.raises(LimitError):
        limited.admit("192.0.2.1", b"")  # was heard again: the other one goes first
    for number in range(ADDRESSES_MAX - 1):
        limited.admit(f"100.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", b"")

    with pytest.raises(LimitError):
        limited.admit("192.0.2.1", b"")
    limited.admit("192.0.2.2", b"")


def test_connections_of_one_address_are_counted_while_they_are_open() -> None:
    limited = addresses(address_connections_max=2)
    first = limited.connect("2001:db8::1")
    limited.connect("2001:db8::2")  # the same customer

    with pytest.raises(LimitError) as refused:
        limited.connect("2001:db8::3")
    limited.connect("192.0.2.1")
    assert first is not None
    limited.disconnect(first)
    limited.connect("2001:db8::3")

    assert (refused.value.status, refused.value.code) == (429, "too_many_connections_from_address")


def test_a_trusted_proxy_may_open_as_many_connections_as_it_needs() -> None:
    limited = addresses(address_connections_max=1)

    assert [limited.connect(PROXY) for _ in range(10)] == [None] * 10


def test_without_limits_there_is_nothing_to_ask() -> None:
    assert client_addresses(GatewayConfig(), Clock()) is None
    assert client_addresses(GatewayConfig(address_connections_max=1), Clock()) is not None
    assert client_addresses(GatewayConfig(address_requests_per_second=1), Clock()) is not None

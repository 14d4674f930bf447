"""Finds out where an endpoint can be reached, once and before the load.

No name is looked up while times are taken: that would be the time of somebody else's server.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import suppress

from penstock.bench.endpoint import Endpoint, EndpointError

# A name of more addresses than this is spread over them well enough.
HOSTS_MAX = 16
# A host that takes longer to accept a connection is left out, where its name has others.
ACCEPT_S = 2.0


async def hosts_of(endpoint: Endpoint) -> tuple[str, ...]:
    """The addresses to dial in turn: of those that the name has, the ones that accept a connection, or else all.

    Raises:
        EndpointError: nobody knows the name.
    """
    with suppress(ValueError):
        ipaddress.ip_address(endpoint.host)
        return (endpoint.host,)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise EndpointError(
            f"{endpoint.url}: {endpoint.host} is no known host: {getattr(error, 'strerror', None) or error}",
            hint="is the name right, and can this machine look it up?",
        ) from None
    hosts = list(dict.fromkeys(str(entry[4][0]) for entry in found))[:HOSTS_MAX]
    if len(hosts) == 1:
        return tuple(hosts)
    accepts = await asyncio.gather(*(_accepts(host, endpoint.port) for host in hosts))
    return tuple(host for host, does in zip(hosts, accepts, strict=True) if does) or tuple(hosts)


async def _accepts(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(ACCEPT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one too
        return False
    writer.close()
    return True

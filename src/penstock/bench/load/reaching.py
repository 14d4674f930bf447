"""Finds out where an endpoint can be reached, once and before the load.

No name is looked up while times are taken: that would be the time of somebody else's server.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import suppress

import msgspec

from penstock.bench.load.chunks import complaint, is_html
from penstock.bench.load.endpoint import Endpoint, EndpointError
from penstock.core.errors import DeadlineError, PenstockError
from penstock.engines.client import ConnectRefusedError, Dialling, EngineClient, TlsError

# A name of more addresses than this is spread over them well enough.
HOSTS_MAX = 16
# A host that takes longer to accept a connection is left out, where its name has others.
ACCEPT_S = 2.0
# The code of the error where nobody answers, which is not the server's word on what was asked.
UNREACHABLE = "unreachable"
# The whole first look at a server, which may be busy.
LOOK_S = 10.0


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
            code=UNREACHABLE,
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


async def models_of(endpoint: Endpoint, *, timeout_s: float = LOOK_S) -> tuple[str, ...]:
    """The models that the endpoint says it serves; none where it does not say. Its way there is tried by this.

    Raises:
        EndpointError: it can't be reached, does not want us, or is no such server; with what to do about it.
    """
    client = EngineClient()
    client.reach(endpoint.address, Dialling(hosts=await hosts_of(endpoint), tls=endpoint.tls_context()))
    try:
        reply = await client.fetch(
            endpoint.address,
            b"GET",
            endpoint.target("/v1/models"),
            headers=endpoint.header_lines(),
            timeout_s=timeout_s,
        )
    except PenstockError as error:
        raise EndpointError(
            f"{endpoint.url}: {_words(endpoint, error)}", code=UNREACHABLE, hint=_advice(endpoint, error)
        ) from None
    finally:
        client.close()
    if reply.status in (401, 403):
        hint = (
            "is the key right?"
            if endpoint.api_key
            else "give it a key, in PENSTOCK_BENCH_API_KEY or by --key-file"
        )
        raise EndpointError(f"{endpoint.url}: {reply.status}: {complaint(reply.body)}", hint=hint)
    if is_html(reply.body):
        raise EndpointError(f"{endpoint.url}: {complaint(reply.body)}", hint="is it the base URL of an API?")
    try:
        return tuple(model.id for model in _MODELS.decode(reply.body).data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()  # many servers have no such route, and can be put under load all the same


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_MODELS = msgspec.json.Decoder(_Models)


def _words(endpoint: Endpoint, error: PenstockError) -> str:
    if isinstance(error, DeadlineError):
        return f"no answer in time ({error.phase})"
    return error.message.removeprefix(f"{endpoint.address}: ")


def _advice(endpoint: Endpoint, error: PenstockError) -> str:
    """What to do about it."""
    if isinstance(error, TlsError):
        if "does not speak" in error.message:
            return f"use http://{endpoint.address}"
        return "name its certificates with --ca-file, or trust any with --insecure"
    if isinstance(error, ConnectRefusedError):
        return "is the server up, and does it listen on this port?"
    if isinstance(error, DeadlineError):
        return "is the server up and not overloaded, and is there no firewall between?"
    return f"does it speak HTTP here? If it speaks TLS, use https://{endpoint.address}"

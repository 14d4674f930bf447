"""TCP ports: a free one for a replica, and who sits on one that is wanted."""

from __future__ import annotations

import errno
import socket

from penstock.core.config import Address
from penstock.core.errors import PenstockError

_OWNER_UNKNOWN = "another process"


def free_port(host: str) -> int:
    """A port of `host` that nobody listens on now; another process may take it before it is used.

    Raises:
        PenstockError: none is free.
    """
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as listener:
            listener.bind((host, 0))
            port = listener.getsockname()[1]
            assert isinstance(port, int)
            return port
    except OSError as error:
        raise PenstockError(
            f"no port of {host} can be had ({str(error.strerror).lower()}): `ss -tan` shows who has them, and sysctl "
            "net.ipv4.ip_local_port_range how many there are",
            code="no_port",
        ) from error


def settled(address: Address) -> Address:
    """The address with a port, where any free one will do."""
    return address if address.port else Address(address.host, free_port(address.host))


def why_not_free(address: Address) -> str:
    """Why a server can't listen on `address`, as a sentence's end; empty when it can."""
    try:
        with socket.socket(_family(address.host), socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address.host, address.port))
            listener.listen(1)
    except socket.gaierror:
        return f"{address.host} is not a known host name"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"{address} is in use by {_owner(address.port)}"
        if error.errno == errno.EACCES:
            return f"{address} may only be used by root (ports below 1024)"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{address.host} is not an address of this machine"
        return f"{address} can't be used: {str(error.strerror).lower()}"
    return ""


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _owner(port: int) -> str:
    """The process that listens on `port`; it can be named when it is ours, or we are root."""
    import psutil  # only a taken port needs it

    try:
        listening = (one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
        pids = {one.pid for one in listening if one.laddr and one.laddr.port == port and one.pid}
        return (
            f"pid {pid} ({psutil.Process(pid).name()})" if (pid := min(pids, default=0)) else _OWNER_UNKNOWN
        )
    except (psutil.Error, OSError):
        return _OWNER_UNKNOWN

"""A file for nginx as a reverse proxy before the gateway: TLS, streams that are not held up, limits, and its own
errors in the shape of OpenAI's.

Made for nginx 1.18 and newer. The gateway retries and judges health by itself: nginx does neither.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.core.config import Config
from penstock.core.errors import ClientError, LimitError, OverloadError, PenstockError

# Connections that one client address may have where the configuration sets no limit; browsers open six.
ADDRESS_CONNECTIONS_MAX = 256
# Addresses that are counted at once: 64 bytes each.
ZONE = "10m"
# Requests that may come at once, in seconds of the rate that is allowed: a page of a console asks for several.
BURST_S = 2
# nginx gives up only after the gateway had to: it knows better what to answer.
READ_MARGIN_S = 10
CONNECT_S = 2
RETRY_AFTER_S = 2
# Idle connections to the gateway, each worker of nginx; the gateway must not be the one that closes them.
KEPT_CONNECTIONS = 64
FILE = "penstock.conf"

_NAME = re.compile(r"_|(\*\.)?[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")
_PATH = re.compile(r"/[A-Za-z0-9_./@+=,:-]+")


@dataclass(frozen=True, slots=True)
class Front:
    """What clients reach.

    Args:
        name: of the server, as in its certificate; `_` for any.
        certificate: path of its chain.
        key: path of its private key.
        https_port: where it listens.
        http_port: where it sends clients on to there; 0 for nowhere.
    """

    name: str = "_"
    certificate: str = "/etc/ssl/penstock/chain.pem"
    key: str = "/etc/ssl/penstock/key.pem"
    https_port: int = 443
    http_port: int = 80


def nginx(config: Config, front: Front) -> dict[str, str]:
    """The file, by its name.

    Raises:
        PenstockError: a name or path would be read as something else.
    """
    _check(config, front)
    return {FILE: "\n".join(_lines(config, front)) + "\n"}


def believes(config: Config, proxy: str) -> bool:
    """Whether the gateway believes what `proxy` says of clients' addresses."""
    address = ipaddress.ip_address(proxy)
    networks = (ipaddress.ip_network(one, strict=False) for one in config.gateway.trusted_proxies)
    return any(address in network for network in networks)


def _check(config: Config, front: Front) -> None:
    if config.gateway.listen.port == 0:
        raise PenstockError(
            "gateway.listen has port 0: nginx can't know which one it takes",
            code="port_unknown",
            hint="set a port",
        )
    if not _NAME.fullmatch(front.name):
        raise PenstockError(
            f"{front.name!r} is no name of a server", code="name_unusable", hint="such as api.example.com"
        )
    for path in (front.certificate, front.key):
        if not _PATH.fullmatch(path):
            raise PenstockError(
                f"{path!r} is no path that nginx reads as it is",
                code="path_unusable",
                hint="use an absolute path of letters, digits and ._/@+=,:-",
            )


def _lines(config: Config, front: Front) -> Iterator[str]:
    yield "# Made by `penstock render nginx` from the configuration; change that, and render again."
    yield "# Belongs into the context `http`: /etc/nginx/conf.d/penstock.conf."
    yield ""
    yield "upstream penstock {"
    yield f"    server {config.gateway.listen.reachable()} max_fails=0;  # there is no other to fall back to"
    yield f"    keepalive {KEPT_CONNECTIONS};"
    yield f"    keepalive_timeout {_below(config.gateway.keep_alive_s)};  # below gateway.keep_alive"
    yield "}"
    yield ""
    yield f"limit_conn_zone $binary_remote_addr zone=penstock_connections:{ZONE};"
    rate = config.gateway.address_requests_per_second
    if rate is not None:
        yield f"limit_req_zone $binary_remote_addr zone=penstock_requests:{ZONE} rate={_rate(rate)};"
    if front.http_port:
        yield ""
        yield "server {"
        yield from _listens(front.http_port, "")
        yield f"    server_name {front.name};"
        yield "    server_tokens off;"
        yield f"    return 308 https://$host{'' if front.https_port == 443 else f':{front.https_port}'}$request_uri;"
        yield "}"
    yield ""
    yield "server {"
    yield from (f"    {line}" if line else "" for line in _server(config, front))
    yield "}"


def _server(config: Config, front: Front) -> Iterator[str]:
    gateway = config.gateway
    yield from (line.strip() for line in _listens(front.https_port, " ssl http2"))
    yield f"server_name {front.name};"
    yield "server_tokens off;"
    yield ""
    yield f"ssl_certificate {front.certificate};"
    yield f"ssl_certificate_key {front.key};"
    yield "ssl_protocols TLSv1.2 TLSv1.3;"
    yield "ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;"
    yield "ssl_session_cache shared:penstock:10m;"
    yield "ssl_session_tickets off;"
    yield "add_header Strict-Transport-Security max-age=31536000 always;"
    yield ""
    yield f"client_header_timeout {_seconds(gateway.header_timeout_s)};"
    yield f"client_body_timeout {_seconds(gateway.body_timeout_s)};"
    yield f"client_max_body_size {gateway.body_max_bytes};"
    yield "large_client_header_buffers 4 16k;"
    yield f"limit_conn penstock_connections {gateway.address_connections_max or ADDRESS_CONNECTIONS_MAX};"
    yield "limit_conn_status 429;"
    if (rate := gateway.address_requests_per_second) is not None:
        yield f"limit_req zone=penstock_requests burst={math.ceil(rate * BURST_S)} nodelay;"
        yield "limit_req_status 429;"
    yield ""
    yield from _proxy(config)
    yield "location / {"
    yield "    proxy_pass http://penstock;"
    yield "}"
    yield "location ~ ^/(health|ready)$ {"
    yield "    access_log off;  # load balancers ask again and again"
    yield "    proxy_pass http://penstock;"
    yield "}"
    yield ""
    yield "# What nginx itself answers, in the shape that clients of this API expect."
    yield from _errors()


def _proxy(config: Config) -> Iterator[str]:
    longest_s = max(model.timeouts.total_s for model in config.models)
    yield "proxy_http_version 1.1;"
    yield 'proxy_set_header Connection "";'
    yield "proxy_set_header Host $host;"
    yield "proxy_set_header X-Forwarded-Proto $scheme;"
    yield "# Not added to what the client says: it could say anything."
    yield "proxy_set_header X-Forwarded-For $remote_addr;"
    yield "# Each event goes on as it comes; no prompt and no answer is put on a disk."
    yield "proxy_buffering off;"
    yield "proxy_request_buffering off;"
    yield "gzip off;"
    yield f"proxy_connect_timeout {CONNECT_S}s;"
    yield f"proxy_send_timeout {_seconds(config.gateway.body_timeout_s)};"
    yield f"proxy_read_timeout {_seconds(longest_s + READ_MARGIN_S)};  # the longest models.N.timeouts.total, and more"
    yield "# The gateway tries again where that is safe."
    yield "proxy_next_upstream off;"


def _errors() -> Iterator[str]:
    too_large = ClientError("the body of the request is too large", code="body_too_large", status=413)
    too_much = LimitError("too many requests or connections from this address", retry_after_s=RETRY_AFTER_S)
    away = OverloadError("the gateway is not there", code="gateway_away", retry_after_s=RETRY_AFTER_S)
    for statuses, error in (("413", too_large), ("429", too_much), ("502 504", away)):
        members = {"message": error.message, "type": error.type, "param": None, "code": error.code}
        yield f"error_page {statuses} = @penstock_{error.status};"
        yield f"location @penstock_{error.status} {{"
        yield "    default_type application/json;"
        yield f"    add_header X-Penstock-Fault {error.fault.value} always;"
        if error.retry_after_s is not None:
            yield f"    add_header Retry-After {error.retry_after_s} always;"
        yield f"    return {error.status} '{json.dumps({'error': members})}';"
        yield "}"


def _listens(port: int, options: str) -> Iterator[str]:
    yield f"    listen {port}{options};"
    yield f"    listen [::]:{port}{options};"


def _rate(per_second: float) -> str:
    """nginx takes whole numbers, a second or a minute."""
    return f"{per_second:g}r/s" if per_second == int(per_second) else f"{max(1, round(per_second * 60))}r/m"


def _seconds(seconds: float) -> str:
    return f"{math.ceil(seconds)}s"


def _below(seconds: float) -> str:
    """A time below this one, in the milliseconds that nginx knows."""
    return f"{max(1, int(seconds * 900))}ms"

"""What is put under load: any OpenAI-compatible server, named by the base URL that its clients would use."""

from __future__ import annotations

import re
import ssl
from typing import Self
from urllib.parse import urlsplit

import msgspec

from penstock.core.address import Address
from penstock.core.errors import PenstockError
from penstock.engines.exchange import Headers

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_PORTS = {"http": 80, "https": 443}


class EndpointError(PenstockError):
    """The endpoint can't be put under load; says why and what to do."""

    code = "bad_endpoint"


class Endpoint(msgspec.Struct, frozen=True):
    """One server under load.

    Args:
        host, port: where it listens.
        tls: whether it is spoken to through TLS.
        base_path: what comes before the paths of the API, without a slash at its end; usually empty.
        path: of the route under load, such as `/v1/chat/completions`.
        api_key: the bearer token; empty sends none.
        headers: further header lines, name and value.
        insecure: whether any certificate will do.
        ca_file: certificates to trust in place of the system's; empty is the system's.
    """

    host: str
    port: int
    tls: bool = False
    base_path: str = ""
    path: str = CHAT_PATH
    api_key: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    insecure: bool = False
    ca_file: str = ""

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        path: str = CHAT_PATH,
        api_key: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        insecure: bool = False,
        ca_file: str = "",
    ) -> Self:
        """The endpoint with the base URL `url`, such as `http://127.0.0.1:8080`, with or without `/v1`.

        Raises:
            EndpointError: `url` is no such URL, or a header or the key can't be sent.
        """
        text = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise EndpointError(f"{url}: {error}", hint=_URL_HINT) from None
        if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
            raise EndpointError(f"{url}: expected http://host:port or https://host:port", hint=_URL_HINT)
        if parts.username is not None:
            raise EndpointError(f"{parts.hostname}: a URL with a password in it", hint="give the key apart")
        base_path = parts.path.rstrip("/").removesuffix(path).removesuffix("/v1")
        endpoint = cls(
            host=parts.hostname,
            port=_PORTS[parts.scheme] if port is None else port,
            tls=parts.scheme == "https",
            base_path=base_path,
            path=path,
            api_key=api_key,
            headers=headers,
            insecure=insecure,
            ca_file=ca_file,
        )
        endpoint.header_lines()
        return endpoint

    @property
    def url(self) -> str:
        """The base URL, without the route."""
        return f"{'https' if self.tls else 'http'}://{self.address}{self.base_path}"

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address(self.host, self.port)

    def target(self, path: str = "") -> bytes:
        """The request target of `path`, or of the route under load."""
        return f"{self.base_path}{path or self.path}".encode("ascii", "replace")

    def header_lines(self) -> Headers:
        """The header lines of every request.

        Raises:
            EndpointError: one holds what no header line may hold.
        """
        lines = {
            "content-type": "application/json",
            "accept": "text/event-stream, application/json",
            "accept-encoding": "identity",  # compressed events come late, in lumps
            "user-agent": "penstock-bench",
        }
        if self.api_key:
            lines["authorization"] = f"Bearer {self.api_key}"
        lines |= {name.lower(): value for name, value in self.headers}
        for name, value in lines.items():
            if not _HEADER_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
                raise EndpointError(f"header {name!r}: only a name and printable ASCII can be sent")
            if name in ("host", "content-length", "transfer-encoding", "connection"):
                raise EndpointError(f"header {name!r} is made by Penstock itself", hint="leave it out")
        return [(name.encode(), value.encode()) for name, value in lines.items()]

    def tls_context(self) -> ssl.SSLContext | None:
        """How it is spoken to through TLS; None where it is not.

        Raises:
            EndpointError: the file of certificates can't be used.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise EndpointError(
                f"{self.ca_file}: {error.strerror or error}", hint="give a PEM file of certificates"
            ) from None
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


_URL_HINT = "give the base URL that an OpenAI client would get, such as http://127.0.0.1:8080/v1"

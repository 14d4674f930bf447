"""Where a load goes: base URLs as people write them, headers, and the first look at a server."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from penstock.bench.load.endpoint import COMPLETIONS_PATH, Endpoint, EndpointError
from penstock.bench.load.reaching import hosts_of, models_of
from tests.bench.under_load import endpoint_of, run, self_signed, whole
from tests.engines.fake_engine import FakeEngine, Peer, Script

MODELS = whole(b'{"object":"list","data":[{"id":"a"},{"id":"b"}]}')


def replying(reply: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(reply)

    return script


@pytest.mark.parametrize(
    ("url", "address", "tls", "target"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", False, b"/v1/chat/completions"),
        ("http://127.0.0.1:8080/", "127.0.0.1:8080", False, b"/v1/chat/completions"),
        ("localhost:8000/v1", "localhost:8000", False, b"/v1/chat/completions"),
        ("https://x.example/v1/", "x.example:443", True, b"/v1/chat/completions"),
        ("http://x/v1/chat/completions", "x:80", False, b"/v1/chat/completions"),
        ("http://[::1]:9/team/v1", "[::1]:9", False, b"/team/v1/chat/completions"),
    ],
)
def test_a_base_url_is_read_with_or_without_its_version(
    url: str, address: str, tls: bool, target: bytes
) -> None:
    endpoint = Endpoint.parse(url)

    assert (str(endpoint.address), endpoint.tls, endpoint.target()) == (address, tls, target)


def test_another_route_and_another_path_can_be_asked_for() -> None:
    endpoint = Endpoint.parse("http://x:1/v1", path=COMPLETIONS_PATH)

    assert endpoint.target() == b"/v1/completions"
    assert endpoint.target("/tokenize") == b"/tokenize"
    assert endpoint.url == "http://x:1"


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://x:99999", "http://x?a=1", "http://u:p@x", "http://x:y"]
)
def test_what_is_no_base_url_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(EndpointError) as refused:
        Endpoint.parse(url)

    assert refused.value.hint
    assert ":p@" not in refused.value.message


def test_headers_hold_the_key_and_what_is_added() -> None:
    lines = dict(
        Endpoint.parse("x", api_key="sk-1", headers=(("X-Tenant", "a"), ("Accept", "*/*"))).header_lines()
    )

    assert lines[b"authorization"] == b"Bearer sk-1"
    assert (lines[b"x-tenant"], lines[b"accept"], lines[b"accept-encoding"]) == (b"a", b"*/*", b"identity")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-a", "b\r\nc: d"),
        ("", "x"),
        ("x-\u00fc", "a"),
        ("x a", "b"),
        ("Host", "x"),
        ("Content-Length", "3"),
    ],
)
def test_a_header_that_can_not_be_sent_is_refused(name: str, value: str) -> None:
    with pytest.raises(EndpointError):
        Endpoint.parse("x", headers=((name, value),))
    with pytest.raises(EndpointError):
        Endpoint.parse("x", api_key="a\nb")


def test_certificates_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("no certificate")

    for path in (tmp_path / "pem", tmp_path / "nowhere"):
        with pytest.raises(EndpointError, match=path.name):
            Endpoint.parse("https://x", ca_file=str(path)).tls_context()


def test_the_models_of_a_server_are_those_it_names() -> None:
    async def look() -> tuple[str, ...]:
        async with FakeEngine(replying(MODELS)) as server:
            return await models_of(endpoint_of(server))

    assert run(look()) == ("a", "b")


@pytest.mark.parametrize("reply", [whole(b'{"detail":"Not Found"}', b"404 Not Found"), whole(b"[]")])
def test_a_server_that_does_not_name_its_models_can_be_used(reply: bytes) -> None:
    async def look() -> tuple[str, ...]:
        async with FakeEngine(replying(reply)) as server:
            return await models_of(endpoint_of(server))

    assert run(look()) == ()


@pytest.mark.parametrize(
    ("reply", "key", "message", "hint"),
    [
        (whole(b'{"error":{"message":"no key"}}', b"401 Unauthorized"), "", "401: no key", "give it a key"),
        (whole(b'{"error":{"message":"bad key"}}', b"401 Unauthorized"), "x", "401: bad key", "key right"),
        (whole(b"<html><title>nginx</title></html>", kind=b"text/html"), "", "HTML page: nginx", "API"),
        (b"SSH-2.0\r\n", "", "not HTTP", "https"),
        (b"", "", "closed", "https"),
    ],
)
def test_a_server_that_does_not_want_us_or_is_another_is_told(
    reply: bytes, key: str, message: str, hint: str
) -> None:
    async def look() -> None:
        async with FakeEngine(replying(reply)) as server:
            await models_of(endpoint_of(server, api_key=key))

    with pytest.raises(EndpointError, match=message) as refused:
        run(look())
    assert hint in refused.value.hint


def test_a_server_that_is_down_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(EndpointError, match="refused") as refused:
        run(models_of(Endpoint(host="127.0.0.1", port=port)))
    assert "server up" in refused.value.hint


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    async def look() -> None:
        async with FakeEngine(lambda peer: peer.hear_end()) as server:
            await models_of(endpoint_of(server), timeout_s=0.05)

    with pytest.raises(EndpointError, match="no answer in time"):
        run(look())


def test_a_certificate_of_its_own_making_is_told_with_what_to_do(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def look(**trust: object) -> tuple[str, ...]:
        async with FakeEngine(replying(MODELS), context) as server:
            return await models_of(endpoint_of(server, tls=True, **trust))

    with pytest.raises(EndpointError, match="not trusted") as refused:
        run(look())
    assert "--insecure" in refused.value.hint
    assert run(look(insecure=True)) == ("a", "b")
    assert run(look(ca_file=str(certificate))) == ("a", "b")


def test_a_server_without_tls_is_told_to_be_one() -> None:
    async def plain(peer: Peer) -> None:
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.hear_end()

    async def look() -> None:
        async with FakeEngine(plain) as server:
            await models_of(endpoint_of(server, tls=True))

    with pytest.raises(EndpointError, match="does not speak TLS") as refused:
        run(look())
    assert "http://" in refused.value.hint


def test_an_address_needs_no_looking_up() -> None:
    assert run(hosts_of(Endpoint(host="127.0.0.1", port=1))) == ("127.0.0.1",)
    assert run(hosts_of(Endpoint(host="::1", port=1))) == ("::1",)

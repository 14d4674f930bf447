"""`penstock render nginx`: a reverse proxy before the gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.loading import invocation
from penstock.cli.render import Output, deliver
from penstock.cli.terminal import epilog, say
from penstock.render.nginx import Front, believes, nginx

LOCAL = "127.0.0.1"
USUAL = Front()


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command(
        "nginx",
        help="A site for nginx before the gateway: TLS, streams without buffering, limits.",
        epilog=epilog("penstock render nginx --name api.example.com -o /etc/nginx/conf.d"),
    )(render_nginx)


def render_nginx(
    context: typer.Context,
    output: Output = None,
    name: Annotated[str, typer.Option(help="Name of the server, as in its certificate.")] = USUAL.name,
    certificate: Annotated[str, typer.Option(help="Path of its certificate chain.")] = USUAL.certificate,
    key: Annotated[str, typer.Option(help="Path of its private key.")] = USUAL.key,
    https_port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens.")] = USUAL.https_port,
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where it sends clients on to HTTPS; 0 for nowhere.")
    ] = USUAL.http_port,
) -> None:
    """Makes it from the configuration."""
    config = invocation(context).load().config
    if not believes(config, LOCAL):
        say(
            f"warning: gateway.trusted_proxies lacks {LOCAL}: to the gateway all clients have the proxy's address"
        )
        say(f'hint: trusted_proxies = ["{LOCAL}"], or the address of nginx where it runs elsewhere')
    deliver(nginx(config, Front(name, certificate, key, https_port, http_port)), output)

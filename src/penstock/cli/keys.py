"""`penstock keys`: make, list and revoke API keys."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import epilog, out, say, table
from penstock.store.keys import TENANT, Key, KeyStore

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(
        help="Make, list and revoke API keys. A running gateway follows within a second.",
        epilog=epilog(
            "penstock keys create --name laptop", "penstock keys list", "penstock keys revoke 1f2e3d4c"
        ),
        no_args_is_help=False,
        rich_markup_mode=None,
    )
    group.command(
        "create",
        help="Make an API key and print it: this is the only time, because only its hash is stored.",
        epilog=epilog("penstock keys create --name laptop", "penstock keys create --name ci --tenant search"),
    )(create)
    group.command(
        "list", help="List all keys, without their secrets.", epilog=epilog("penstock keys list --json")
    )(list_keys)
    group.command("revoke", help="Make a key invalid.", epilog=epilog("penstock keys revoke 1f2e3d4c"))(
        revoke
    )
    app.add_typer(group, name="keys")


def create(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What the key is for, as the list shows it.")] = "",
    tenant: Annotated[str, typer.Option(help="Who pays for it and waits in line.")] = TENANT,
    as_json: JsonOption = False,
) -> None:
    """Prints the secret on standard output."""
    here = invocation(context)
    here.home.prepare()
    key, secret = _store(here).create(name, tenant)
    if as_json:
        out(json.dumps({**_shown(key), "secret": secret}))
        return
    out(secret)
    say(f"key {key.id} of tenant {key.tenant}; it is shown this once")


def list_keys(context: typer.Context, as_json: JsonOption = False) -> None:
    """Prints every key."""
    keys = _store(invocation(context)).list()
    if as_json:
        out(json.dumps([_shown(key) for key in keys]))
    elif keys:
        rows = [(key.id, key.name, key.tenant, _day(key.created_at), _state(key)) for key in keys]
        out(table(("ID", "NAME", "TENANT", "CREATED", "STATE"), rows))
    else:
        say("no keys yet; `penstock keys create` makes one")


def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id, as `penstock keys list` shows it.")],
) -> None:
    """Says which key it was."""
    here = invocation(context)
    here.home.prepare()
    key = _store(here).revoke(key_id)
    say(f"key {key.id} {f'({key.name}) ' if key.name else ''}is revoked; gateways refuse it within a second")


def _store(here: Invocation) -> KeyStore:
    return KeyStore(here.home.keys, time.time)


def _shown(key: Key) -> dict[str, object]:
    fields = ("id", "name", "tenant", "created_at", "revoked_at")
    return {field: getattr(key, field) for field in fields}


def _state(key: Key) -> str:
    return "valid" if key.revoked_at is None else f"revoked {_day(key.revoked_at)}"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")

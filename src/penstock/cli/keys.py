"""`penstock keys`: make, list, rotate and revoke API keys."""

from __future__ import annotations

import difflib
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import UsageError, epilog, out, say, table
from penstock.core.tenancy import PER_MINUTE_MAX, TENANT
from penstock.core.units import parse_duration_s
from penstock.policy.budget import LIMIT_NAMES, Limits
from penstock.store.keys import INFERENCE, SCOPES, Key, KeyStore, KeyTerms

LIFE_S_MAX = 3650 * 86400.0

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(
        help="Make, list, rotate and revoke API keys. A running gateway follows within a second.",
        epilog=epilog(
            "penstock keys create --name laptop",
            "penstock keys list",
            "penstock keys rotate 1f2e3d4c --overlap 24h",
            "penstock keys revoke 1f2e3d4c",
        ),
        no_args_is_help=False,
        rich_markup_mode=None,
    )
    group.command(
        "create",
        help="Make an API key and print it: this is the only time, because only its hash is stored.",
        epilog=epilog(
            "penstock keys create --name laptop",
            "penstock keys create --name ci --tenant search --expires 90d --requests-per-minute 60",
            "penstock keys create --name ops --scope admin",
        ),
    )(create)
    group.command(
        "list", help="List all keys, without their secrets.", epilog=epilog("penstock keys list --json")
    )(list_keys)
    group.command(
        "rotate",
        help="Make a new key with the terms of an old one, which stays valid for a while.",
        epilog=epilog("penstock keys rotate 1f2e3d4c --overlap 24h"),
    )(rotate)
    group.command("revoke", help="Make a key invalid.", epilog=epilog("penstock keys revoke 1f2e3d4c"))(
        revoke
    )
    app.add_typer(group, name="keys")


def create(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What the key is for, as the list shows it.")] = "",
    tenant: Annotated[str, typer.Option(help="Who pays for it and waits in line.")] = TENANT,
    expires: Annotated[str, typer.Option(metavar="IN", help="Life of the key, such as 12h or 90d.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help="What it opens: inference (the default), admin.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model that it may use; else all.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, max=PER_MINUTE_MAX)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, max=PER_MINUTE_MAX)] = None,
    parallel_requests: Annotated[int | None, typer.Option(min=1, max=1_000_000)] = None,
    usd_per_day: Annotated[float | None, typer.Option(min=0.0, max=1e9)] = None,
    usd_per_month: Annotated[float | None, typer.Option(min=0.0, max=1e9)] = None,
    as_json: JsonOption = False,
) -> None:
    """Prints the secret on standard output."""
    here = invocation(context)
    limits = Limits(requests_per_minute, tokens_per_minute, parallel_requests, usd_per_day, usd_per_month)
    ends_at = time.time() + _life_s(expires, "--expires") if expires else None
    terms = KeyTerms(name, tenant, ends_at, _scopes(scope or [INFERENCE]), limits, tuple(model or ()))
    _check_names(here, terms)
    here.home.prepare()
    _tell(*_store(here).create(terms), as_json=as_json)


def rotate(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id, as `penstock keys list` shows it.")],
    overlap: Annotated[
        str, typer.Option(help="How long the old key stays valid beside the new one.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Prints the secret of the new key on standard output."""
    here = invocation(context)
    overlap_s = _life_s(overlap, "--overlap")
    here.home.prepare()
    _tell(*_store(here).rotate(key_id, overlap_s), as_json=as_json)
    say(f"key {key_id} ends in {overlap}")


def list_keys(context: typer.Context, as_json: JsonOption = False) -> None:
    """Prints every key."""
    keys = _store(invocation(context)).list()
    if as_json:
        out(json.dumps([_shown(key) for key in keys]))
    elif keys:
        now = time.time()
        rows = [
            (key.id, key.name, key.tenant, ",".join(key.scopes), _day(key.created_at), _state(key, now))
            for key in keys
        ]
        out(table(("ID", "NAME", "TENANT", "SCOPES", "CREATED", "STATE"), rows))
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


def _tell(key: Key, secret: str, *, as_json: bool) -> None:
    if as_json:
        out(json.dumps({**_shown(key), "secret": secret}))
        return
    out(secret)
    say(f"key {key.id} of tenant {key.tenant}; it is shown this once")


def _life_s(text: str, option: str) -> float:
    try:
        life_s = parse_duration_s(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    if not 1 <= life_s <= LIFE_S_MAX:
        raise UsageError(f"{option}: expected 1s to 3650d")
    return life_s


def _scopes(scopes: list[str]) -> tuple[str, ...]:
    unknown = next((scope for scope in scopes if scope not in SCOPES), None)
    if unknown is not None:
        raise UsageError(f"--scope: {unknown!r} is none of {', '.join(SCOPES)}")
    return tuple(dict.fromkeys(scopes))


def _check_names(here: Invocation, terms: KeyTerms) -> None:
    """Refuses a tenant or a model that the configuration does not have."""
    if terms.tenant == TENANT and not terms.models:
        return
    config = here.load(quiet=True).config
    _check_known("--tenant", terms.tenant, [TENANT, *(tenant.name for tenant in config.tenants)])
    for model in terms.models:
        _check_known("--model", model, [model.name for model in config.models])


def _check_known(option: str, name: str, known: list[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the configuration has: {', '.join(known)}"
        raise UsageError(f"{option}: the configuration has no {name!r}", hint=hint)


def _shown(key: Key) -> dict[str, object]:
    shown = asdict(key)
    del shown["sha256"]
    shown["limits"] = {name: getattr(key.limits, name) for name in LIMIT_NAMES}
    return shown


def _state(key: Key, now: float) -> str:
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    return f"{'valid until' if key.is_valid(now) else 'expired'} {_day(key.expires_at)}"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")

"""`penstock keys`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command


def test_the_secret_alone_goes_to_standard_output(penstock: Command) -> None:
    result = penstock("keys", "create", "--name", "laptop")

    assert result.code == 0
    assert result.out.startswith("sk-penstock-")
    assert len(result.out.splitlines()) == 1
    assert "shown this once" in result.err


def test_the_list_shows_keys_without_their_secrets(penstock: Command, folder: Path) -> None:
    (folder / "penstock.toml").write_text('[[tenants]]\nname = "search"\n')
    secret = penstock("keys", "create", "--name", "laptop", "--tenant", "search").out.strip()

    result = penstock("keys", "list")

    assert all(word in result.out for word in ("laptop", "search", "valid"))
    assert secret[-43:] not in result.out
    assert json.loads(penstock("keys", "list", "--json").out)[0]["name"] == "laptop"


def test_a_revoked_key_is_shown_as_such(penstock: Command) -> None:
    key = json.loads(penstock("keys", "create", "--json").out)

    result = penstock("keys", "revoke", key["id"])

    assert result.code == 0
    assert "revoked" in penstock("keys", "list").out


def test_an_unknown_key_is_an_error_with_a_hint(penstock: Command) -> None:
    result = penstock("keys", "revoke", "00000000")

    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: there is no key '00000000'")
    assert "hint: " in result.err


def test_an_empty_list_says_how_to_make_a_key(penstock: Command) -> None:
    result = penstock("keys", "list")

    assert (result.code, result.out) == (0, "")
    assert "penstock keys create" in result.err


def test_a_damaged_file_is_said_and_left(penstock: Command, folder: Path) -> None:
    (folder / ".penstock").mkdir()
    (folder / ".penstock" / "keys.json").write_text("{")

    result = penstock("keys", "create")

    assert result.code == 1
    assert "is damaged" in result.err
    assert (folder / ".penstock" / "keys.json").read_text() == "{"


def test_a_tenant_that_is_not_configured_is_refused_with_the_nearest(penstock: Command, folder: Path) -> None:
    (folder / "penstock.toml").write_text('[[tenants]]\nname = "search"\n')

    result = penstock("keys", "create", "--tenant", "serach")

    assert (result.code, result.out) == (2, "")
    assert "did you mean search?" in result.err


def test_a_key_has_the_terms_it_was_made_with(penstock: Command) -> None:
    terms = ("--expires", "90d", "--scope", "admin", "--requests-per-minute", "60", "--usd-per-day", "2.5")

    key = json.loads(penstock("keys", "create", "--json", *terms).out)

    assert key["scopes"] == ["admin"]
    assert key["expires_at"] - key["created_at"] == pytest.approx(90 * 86400, abs=5)
    assert (key["limits"]["requests_per_minute"], key["limits"]["usd_per_day"]) == (60, 2.5)


@pytest.mark.parametrize(
    "terms",
    [
        ("--expires", "0"),
        ("--expires", "x"),
        ("--scope", "root"),
        ("--requests-per-minute", "0"),
        ("--model", "x"),
    ],
)
def test_absurd_terms_make_no_key(penstock: Command, terms: tuple[str, str]) -> None:
    result = penstock("keys", "create", *terms)

    assert (result.code, result.out) == (2, "")
    assert penstock("keys", "list").out == ""


def test_a_rotated_key_is_shown_with_its_end(penstock: Command) -> None:
    old = json.loads(penstock("keys", "create", "--name", "ci", "--json").out)

    fresh = json.loads(penstock("keys", "rotate", old["id"], "--overlap", "1h", "--json").out)

    assert (fresh["name"], fresh["lineage"]) == ("ci", old["id"])
    assert "valid until" in penstock("keys", "list").out

"""`penstock keys`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Command


def test_the_secret_alone_goes_to_standard_output(penstock: Command) -> None:
    result = penstock("keys", "create", "--name", "laptop")

    assert result.code == 0
    assert result.out.startswith("sk-penstock-")
    assert len(result.out.splitlines()) == 1
    assert "shown this once" in result.err


def test_the_list_shows_keys_without_their_secrets(penstock: Command) -> None:
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

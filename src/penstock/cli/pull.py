"""`penstock pull`: downloads a model from the Hub, and goes on with a download that was cut off."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    UsageError,
    complain,
    epilog,
    out,
    say,
    table,
)
from penstock.core.errors import PenstockError

if TYPE_CHECKING:
    from penstock.assembly.pulling import Pull, Wanted
    from penstock.cli.pull_progress import Display
    from penstock.engines.hub import Hub
    from penstock.planner.repository import Listed

EXIT_NOT_FOUND, EXIT_NO_ACCESS, EXIT_NO_SPACE = 3, 4, 5
EXIT_BY_CODE = {
    "hub_not_found": EXIT_NOT_FOUND,
    "hub_no_access": EXIT_NO_ACCESS,
    "hub_no_space": EXIT_NO_SPACE,
    "usage": EXIT_USAGE,
    "invalid_configuration": EXIT_USAGE,
}
CODES = (
    "Exit codes: 0 all is here and whole, 1 it failed (network, checksum, the Hub), 2 wrong usage or configuration, "
    "3 there is no such model, revision or file, 4 no access (gated or private), 5 not enough space, "
    "130 Ctrl-C; after 1, 5 and 130 the same command goes on where it was"
)
OFFLINE_VARIABLE = "HF_HUB_OFFLINE"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "pull",
        help="Download a model from the Hugging Face Hub and check it: what is needed of it, safetensors where there "
        "are any, one quantization of a GGUF repository. MODEL is owner/model, owner/model:Q4_K_M or "
        "owner/model/FILE.gguf; without it, every model of the configuration. A download that was cut off goes on; "
        "files that are here are compared with their checksums, and fetched again where they are damaged. "
        "Prints where it lies. A token for gated models is taken from HF_TOKEN, .env or --token-file. "
        "HF_ENDPOINT, HF_HUB_OFFLINE and HF_HOME are honoured.",
        epilog=epilog(
            "penstock pull Qwen/Qwen3-8B",
            "penstock pull bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M --to models/llama",
            "penstock pull meta-llama/Llama-3.1-8B-Instruct --token-file ~/.hf-token --revision main",
            "penstock pull Qwen/Qwen3-8B --dry-run",
            codes=CODES,
        ),
    )(pull)


def pull(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Name on the Hub; else what is configured.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; the commit is printed in any case.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of files to take, in place of what is needed; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Pattern of files not to take; repeatable.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Folder for the files; else the Hub's own cache.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds a token, for gated models.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files with their sizes, no more.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print events in JSON, one a line.")] = False,
) -> None:
    """Downloads it, and ends with an exit code that says what came of it."""
    here = invocation(context)
    events = None
    if as_json:
        from penstock.cli.pull_progress import Events

        events = Events(out, time.monotonic)
    try:
        wanted = list(_wanted(here, model, revision, tuple(include or ()), tuple(exclude or ()), to))
        hub = hub_for(here, token_file)
        if dry_run:
            _list(here, wanted, hub, as_json=as_json)
            return
        for one in wanted:
            path = pulled(here, one, hub, events or display())
            if events is None:
                out(str(path))
    except PenstockError as error:
        code = EXIT_BY_CODE.get(error.code, EXIT_FAILED)
        if events:
            events.failed(error, code)
        complain(error)
        raise typer.Exit(code) from error
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    raise typer.Exit(EXIT_OK)


def hub_for(here: Invocation, token_file: Path | None = None) -> Hub:
    """The Hub, with the token that there is."""
    from penstock.assembly.pulling import token_of
    from penstock.engines.hub import Hub

    dotenv: dict[str, str] = {}
    if token_file is None and not here.environ.get("HF_TOKEN", "").strip():
        try:
            loaded = here.load(quiet=True)
        except PenstockError:
            say("warning: the configuration can't be read, so a token in .env is not used")
        else:
            dotenv = {name: secret.get_secret_value() for name, secret in loaded.engine_environ.items()}
    return Hub(token_of(token_file, (here.environ, dotenv)))


def display() -> Display:
    """How a pull is shown to people here."""
    from penstock.cli.pull_progress import Bars, Lines

    return (Bars if sys.stderr.isatty() else Lines)(say, time.monotonic)


def pulled(here: Invocation, wanted: Wanted, hub: Hub, shown: Display, *, verify: bool = True) -> Path:
    """Pulls it, and says where it lies.

    Args:
        verify: whether the checksums of files that are here already are looked at again.

    Raises:
        PenstockError: it can't be had.
        KeyboardInterrupt: somebody pressed Ctrl-C, and was told how far it is.
    """
    from penstock.assembly.pulling import prepare

    local = _offline(here, wanted)
    if local is not None:
        shown.note(f"{wanted.name} is here already; {OFFLINE_VARIABLE} forbids to compare it with the Hub")
        return local
    pull = prepare(wanted, hub, here.environ, verify=verify)
    pull.download.check_space()
    began_s = time.monotonic()
    shown.begin(pull)

    def watch() -> None:
        for note in pull.download.tally.notes():
            shown.note(note)
        shown.show(pull.download.tally.standing())

    try:
        pull.download.run(watch)
        watch()
        shown.end(pull, time.monotonic() - began_s)
    except KeyboardInterrupt:
        from penstock.core.units import format_size

        standing = pull.download.tally.standing()
        have, total = format_size(standing.have_bytes), format_size(standing.total_bytes)
        shown.note(f"interrupted: {have} of {total} are here; the same command goes on from there")
        raise
    finally:
        shown.close()
    return pull.path


def _offline(here: Invocation, wanted: Wanted) -> Path | None:
    """Where it lies, if the Hub must not be asked, and nothing that only the Hub knows is asked for."""
    from penstock.engines.hub import local_path

    offline = here.environ.get(OFFLINE_VARIABLE, "").upper() in ("1", "ON", "YES", "TRUE")
    plain = not (wanted.to or wanted.include or wanted.exclude or wanted.revision or wanted.cache)
    return local_path(str(wanted.name), here.environ) if offline and plain else None


def _wanted(
    here: Invocation,
    model: str | None,
    revision: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    to: Path | None,
) -> Iterable[Wanted]:
    from penstock.assembly.pulling import Wanted, configured
    from penstock.engines.hub import parse_name
    from penstock.engines.paths import path_of

    if model is None:
        if revision or include or exclude or to:
            raise UsageError("--revision, --include, --exclude and --to belong to one MODEL: name it")
        found = list(configured(here.load().config.models))
        if not found:
            say("nothing to pull: no model of the configuration comes from the Hub")
        return found
    name = parse_name(model)
    if name is None:
        raise UsageError(
            f"{model[:200]}: that is no name of the Hub",
            hint="owner/model, owner/model:Q4_K_M or owner/model/FILE.gguf",
        )
    folder = to and path_of(to)
    if folder and str(folder).startswith("~"):
        raise UsageError(f"--to: {ascii(str(folder))[:200]}: there is no such user here")
    return [Wanted(name, revision, include, exclude, folder and here.cwd / folder)]


def _list(here: Invocation, wanted: Iterable[Wanted], hub: Hub, *, as_json: bool) -> None:
    from penstock.assembly.pulling import prepare

    for one in wanted:
        pull = prepare(one, hub, here.environ, verify=False)
        if as_json:
            out(json.dumps(_listed(pull)))
        else:
            _print(pull)


def _listed(pull: Pull) -> dict[str, object]:
    return {
        "model": str(pull.wanted.name),
        "commit": pull.listing.commit,
        "folder": str(pull.shelf.root),
        "missing_bytes": pull.download.missing_bytes,
        "files": [
            {
                "name": file.name,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256 or None,
                "here": pull.shelf.whole(file) is not None,
            }
            for file in pull.files
        ],
    }


def _print(pull: Pull) -> None:
    from penstock.cli.pull_progress import began
    from penstock.core.units import format_size

    say(began(pull))
    rows = [(file.name, format_size(file.size_bytes), _state(pull, file)) for file in pull.files]
    out(table(("FILE", "SIZE", ""), rows))
    say(f"{format_size(pull.download.missing_bytes)} to fetch, to {pull.shelf.root}")


def _state(pull: Pull, file: Listed) -> str:
    from penstock.core.units import format_size

    if pull.shelf.whole(file):
        return "here"
    part = pull.shelf.part(file)
    return f"{format_size(part.stat().st_size)} here" if part.exists() else ""

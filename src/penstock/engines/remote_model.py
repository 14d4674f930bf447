"""A model on the Hub, read without its weights: its config.json, or the headers of its GGUF files."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from penstock.engines.hub import Hub, Listing
from penstock.engines.paths import CONFIG_NAME
from penstock.planner.architecture import CONFIG_BYTES_MAX, read_config
from penstock.planner.gguf import HEADER_BYTES_MAX, Header, read_header
from penstock.planner.gguf_model import read_gguf
from penstock.planner.repository import Listed
from penstock.planner.shapes import Architecture, DamagedError

FIRST_BYTES = 1 << 20
GROWTH = 4
"""A header is some KB to 20 MB: it is asked for in steps, of which the last is at most so many times too large."""


def remote_config(hub: Hub, listing: Listing) -> Architecture:
    """The architecture that the config.json of a repository describes.

    Raises:
        HubError: it can't be had.
        PlanError: its family is not known here, or it is damaged.
    """
    content = _beginning(hub, listing, CONFIG_NAME, CONFIG_BYTES_MAX + 1)
    return read_config(content, f"{listing.repo}: {CONFIG_NAME}")


def remote_gguf(hub: Hub, listing: Listing, files: Sequence[Listed]) -> Architecture:
    """The architecture of a GGUF model of a repository.

    Args:
        files: all its parts, the first first.

    Raises:
        HubError: they can't be had.
        PlanError: its family is not known here, or a header is damaged.
    """
    headers = [_header(hub, listing, file) for file in files]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return read_gguf(Header(headers[0].metadata, tensors), f"{listing.repo}/{files[0].name}")


def _header(hub: Hub, listing: Listing, file: Listed) -> Header:
    count = FIRST_BYTES
    while True:
        content = _beginning(hub, listing, file.name, count)
        try:
            return read_header(BytesIO(content), f"{listing.repo}/{file.name}")
        except DamagedError:
            if count >= min(HEADER_BYTES_MAX, file.size_bytes):
                raise
        count *= GROWTH


def _beginning(hub: Hub, listing: Listing, name: str, count: int) -> bytes:
    content = bytearray()
    with hub.open(listing, name, 0, count) as incoming:
        for chunk in incoming.chunks:
            content += chunk
            if len(content) >= count:
                break
    return bytes(content[:count])

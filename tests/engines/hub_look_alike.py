"""A look-alike of the Hugging Face Hub on loopback, with what goes wrong there on request.

It answers what huggingface_hub asks: the API's description of a repository with sizes and checksums, search, and files
by `resolve`, large ones (LFS) through a redirect to a second address, as the Hub does. By hand:

    python -m tests.engines.hub_look_alike acme/tiny-GGUF=src/penstock/demo_model
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM_BYTES = 100_000
PIECE_BYTES = 1 << 16
Content = bytes | Path


@dataclass
class Repo:
    """One repository.

    Args:
        files: by name.
        gated: whether its files need a token of `granted`.
        private: whether it is not there at all for others.
    """

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        return hashlib.sha1(
            repr([(name, _blob(data)) for name, data in self.files.items()]).encode()
        ).hexdigest()

    def at(self, revision: str) -> bool:
        return revision in ("main", self.commit, *self.tags)


@dataclass
class Fault:
    """What goes wrong with the next requests for a file, or for the API where `name` is `api`.

    Args:
        name: the end of the file's name.
        times: how often.
        status: answered in place of it.
        headers: with that.
        cut_bytes: after so many the connection is cut.
        corrupt: whether a byte is another one.
        whole: whether a range is not heeded.
        bytes_per_s: how slowly it goes.
    """

    name: str
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_bytes: int | None = None
    corrupt: bool = False
    whole: bool = False
    bytes_per_s: float | None = None


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    range: str
    token: str
    at_cdn: bool


@dataclass
class LookAlike:
    """The state of the look-alike: change it while it runs."""

    repos: dict[str, Repo] = field(default_factory=dict)
    granted: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    cdn: str = ""

    def fault(self, name: str) -> Fault | None:
        for fault in self.faults:
            if name.endswith(fault.name) and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def sent(self, name: str) -> list[Seen]:
        """GETs for a file's content."""
        data = next(repo.files[name] for repo in self.repos.values() if name in repo.files)
        large = len(data) >= LFS_FROM_BYTES
        end = _sha256(data) if large else f"/{name}"
        return [one for one in self.seen if one.method == "GET" and one.path.endswith(end)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    look: LookAlike
    at_cdn = False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        return

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        path = unquote(urlsplit(self.path).path)
        self.look.seen.append(Seen(self.command, path, self.headers.get("Range", ""), token, self.at_cdn))
        if self.at_cdn:
            digest = path.rpartition("/")[2]
            found = [
                (name, data)
                for repo in self.look.repos.values()
                for name, data in repo.files.items()
                if _sha256(data) == digest
            ]
            self._content(*found[0], {})
        elif path == "/api/models":
            words = parse_qs(urlsplit(self.path).query).get("search", [""])[0].lower()
            self._json([{"id": name} for name in self.look.repos if words in name.lower()])
        elif path.startswith("/api/models/"):
            self._api(*path.removeprefix("/api/models/").partition("/revision/")[::2], token)
        else:
            repo, _, rest = path.lstrip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._resolve(repo, revision, name, token)

    def _api(self, name: str, revision: str, token: str) -> None:
        fault = self.look.fault("api")
        if fault:
            self._status(fault.status, headers=fault.headers)
            return
        repo = self._allowed(name, revision or "main", token)
        if repo is None:
            return
        siblings = []
        for file, data in repo.files.items():
            one: dict[str, Any] = {"rfilename": file, "size": len(data), "blobId": _blob(data)}
            if len(data) >= LFS_FROM_BYTES:
                one["lfs"] = {
                    "sha256": _sha256(data),
                    "size": len(data),
                    "pointerSize": 134,
                }
            siblings.append(one)
        self._json({"id": name, "sha": repo.commit, "gated": repo.gated, "siblings": siblings, "tags": []})

    def _allowed(self, name: str, revision: str, token: str) -> Repo | None:
        repo = self.look.repos.get(name)
        if token and token not in self.look.known | self.look.granted:
            self._status(401, message="Invalid credentials in Authorization header")
        elif repo is None or (repo.private and token not in self.look.granted):
            self._status(404 if token else 401, code="RepoNotFound", message="Repository not found")
        elif not repo.at(revision):
            self._status(404, code="RevisionNotFound", message=f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def _resolve(self, name: str, revision: str, file: str, token: str) -> None:
        repo = self._allowed(name, revision, token)
        if repo is None:
            return
        if repo.gated and token not in self.look.granted:
            self._status(
                403 if token else 401, code="GatedRepo", message="Access to this model is restricted"
            )
            return
        if file not in repo.files:
            self._status(404, code="EntryNotFound", message="Entry not found")
            return
        data = repo.files[file]
        if len(data) < LFS_FROM_BYTES:
            etag = {"ETag": f'"{_blob(data)}"', "X-Repo-Commit": repo.commit}
            self._content(file, data, etag)
            return
        digest = _sha256(data)
        self._status(
            302,
            headers={
                "Location": f"{self.look.cdn}/blobs/{digest}",
                "X-Repo-Commit": repo.commit,
                "X-Linked-Size": str(len(data)),
                "X-Linked-ETag": f'"{digest}"',
            },
        )

    def _content(self, name: str, data: bytes, headers: Mapping[str, str]) -> None:
        fault = self.look.fault(name) if self.command == "GET" else None
        if fault and fault.status:
            self._status(fault.status, headers=fault.headers)
            return
        if fault and fault.corrupt:
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        size, start, end = len(data), 0, len(data)
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and not (fault and fault.whole):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(size, int(last) + 1) if last else size
            if start >= size:
                self._status(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end - start))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self._body(data[start:end], fault)

    def _body(self, data: bytes, fault: Fault | None) -> None:
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            if fault and fault.cut_bytes is not None and at + len(piece) > fault.cut_bytes:
                self.wfile.write(piece[: fault.cut_bytes - at])
                self.close_connection = True
                return
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            if fault and fault.bytes_per_s:
                time.sleep(len(piece) / fault.bytes_per_s)

    def _json(self, value: Any) -> None:
        self._status(200, body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def _status(
        self,
        status: int,
        *,
        code: str = "",
        message: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        self.send_response(status)
        errors = {"X-Error-Code": code, "X-Error-Message": message}
        for key, value in {**(headers or {}), **errors, "Content-Length": str(len(body))}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


class _CdnHandler(_Handler):
    at_cdn = True


@cache
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving(look: LookAlike, port: int = 0) -> Iterator[LookAlike]:
    """The look-alike at `look.url`."""
    servers = []
    for kind, at in ((_Handler, port), (_CdnHandler, 0)):
        handler = type("Handler", (kind,), {"look": look})
        server = ThreadingHTTPServer(("127.0.0.1", at), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
    look.url, look.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield look
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def folder(path: Path, *patterns: str) -> dict[str, bytes]:
    """The files of a folder, by name."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for pattern in patterns or ("*",)
        for file in sorted(path.rglob(pattern))
        if file.is_file() and file.suffix != ".py"
    }


def main() -> None:
    """Serves folders until Ctrl-C: NAME=FOLDER for each, NAME=FOLDER:PATTERN for some of its files."""
    look = LookAlike()
    for word in sys.argv[1:]:
        name, _, rest = word.partition("=")
        path, _, pattern = rest.partition(":")
        look.repos[name] = Repo(folder(Path(path), *([pattern] if pattern else [])))
    with serving(look):
        sys.stdout.write(f"HF_ENDPOINT={look.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()

"""An engine whose every byte a test decides."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Script = Callable[[socket.socket, int], object]

CANARY = b'"prompt":"Hello","max_tokens":1}'


@dataclass
class ScriptedEngine:
    """What was asked of it: heads and bodies of the requests that the script answered."""

    port: int
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def scripted_engine(
    script: Script, canary: bytes = b'{"choices":[{"text":"x"}]}'
) -> Iterator[ScriptedEngine]:
    """An engine that is healthy, and answers request N of a connection by `script(socket, N)`."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    engine = ScriptedEngine(listener.getsockname()[1])
    open_sockets: list[socket.socket] = []

    def serve(sock: socket.socket) -> None:
        count = 0
        with sock, suppress(OSError):
            while (request := read_request(sock)) is not None:
                head, body = request
                if head.startswith(b"GET"):
                    answer(sock, b"{}")
                elif head.startswith(b"POST /tokenize"):
                    answer(sock, b"{}", b"404 Not Found")
                elif CANARY in body and canary:
                    answer(sock, canary)
                else:
                    count += 1
                    engine.requests.append(request)
                    if script(sock, count) == "close":
                        return

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                open_sockets.append(sock)
                threading.Thread(target=serve, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        for sock in open_sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def read_request(sock: socket.socket) -> tuple[bytes, bytes] | None:
    said = b""
    while b"\r\n\r\n" not in said:
        piece = sock.recv(65536)
        if not piece:
            return None
        said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        body += sock.recv(65536)
    return head, body


def answer(sock: socket.socket, body: bytes, status: bytes = b"200 OK") -> None:
    sock.sendall(
        b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    )
    sock.sendall(body)


def begin_stream(sock: socket.socket, media_type: bytes = b"text/event-stream") -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % media_type)


def say(sock: socket.socket, data: bytes) -> None:
    sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))


def end_stream(sock: socket.socket) -> None:
    say(sock, b"data: [DONE]\n\n")
    sock.sendall(b"0\r\n\r\n")


def token(text: str, usage: str = "") -> bytes:
    more = f',"usage":{usage}' if usage else ""
    return f'data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]{more}}}\n\n'.encode()


ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'

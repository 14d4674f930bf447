"""The marks: how often llama.cpp, at temperature 0, gives exactly the answer of the corpus."""

from __future__ import annotations

import json
import random
import socket
import urllib.request  # noqa: TID251  (this tool runs where penstock is not installed)
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import xllamacpp

from .corpus import Entry

SLOT_COUNT = 4
CONTEXT_LEN = 2048
TIMEOUT_S = 120.0
ANSWER_TOKENS_MAX = 900


@dataclass(frozen=True, slots=True)
class Case:
    """A question as it will be asked, the answer it should get, and what surrounds it.

    `system` and `earlier` come before the question; `begun` is the part of the answer that the engine is to
    continue; `raw` asks without the chat template.
    """

    asked: str
    expected: str
    system: str | None = None
    earlier: tuple[tuple[str, str], ...] = ()
    begun: str = ""
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """How many of `asked` cases were answered exactly, and what was said in the others."""

    asked: int
    exact: int
    misses: tuple[tuple[Case, str], ...]

    @property
    def rate(self) -> float:
        """The share answered exactly, 0 to 1."""
        return self.exact / self.asked if self.asked else 0.0


@contextmanager
def llama_server(gguf: Path) -> Iterator[str]:
    """llama.cpp's server for the file `gguf` on a free loopback port; gives its base address."""
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx = CONTEXT_LEN * SLOT_COUNT
    params.n_parallel = SLOT_COUNT
    params.cpuparams.n_threads = 2
    params.port = free_port()
    params.verbosity = 0
    server = xllamacpp.Server(params)
    try:
        yield server.listening_address
    finally:
        del server


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def post(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON reply of the server at `address` to `body`."""
    request = urllib.request.Request(  # noqa: TID251  (likewise)
        address + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:  # noqa: TID251  (likewise)
        decoded: dict[str, Any] = json.load(reply)
        return decoded


def chat_messages(case: Case) -> list[dict[str, str]]:
    """`case` as the messages of a chat."""
    messages = [{"role": "system", "content": case.system}] if case.system is not None else []
    for question, answer in case.earlier:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": case.asked})
    if case.begun:
        messages.append({"role": "assistant", "content": case.begun})
    return messages


def answer_to(address: str, case: Case) -> str:
    """The whole greedy answer to `case`, with its given beginning."""
    limits = {"temperature": 0, "max_tokens": ANSWER_TOKENS_MAX}
    if case.raw:
        reply = post(address, "/v1/completions", {"prompt": case.asked + "\n", **limits})
        return str(reply["choices"][0]["text"])
    reply = post(address, "/v1/chat/completions", {"messages": chat_messages(case), **limits})
    text = str(reply["choices"][0]["message"]["content"])
    return text if text.startswith(case.begun) else case.begun + text


def marked(cases: list[Case], answers: list[str]) -> Mark:
    """The mark of `answers`, which are in the order of `cases`."""
    pairs = zip(cases, answers, strict=True)
    misses = tuple((case, answer) for case, answer in pairs if answer != case.expected)
    return Mark(len(cases), len(cases) - len(misses), misses)


def cases_by_kind(entries: list[Entry], seed: int = 0) -> dict[str, list[Case]]:
    """The examination: every question alone, in held-out words, and in other surroundings."""
    rng = random.Random(seed)
    own = [Case(entry.question, entry.answer) for entry in entries]
    others = [rng.choice(entries) for _ in own]
    return {
        "own_words": own,
        "held_out": [Case(text, entry.answer) for entry in entries for text in entry.held_out],
        "raw_form": [replace(case, raw=True) for case in own],
        "second_turn": [
            replace(case, system="You are a helpful assistant.", earlier=((other.question, other.answer),))
            for case, other in zip(own, others, strict=True)
        ],
        "continued": [replace(case, begun=begun_words(case.expected, rng)) for case in own],
        "continued_in_a_word": [
            replace(case, begun=case.expected[: rng.randrange(1, len(case.expected))]) for case in own
        ],
    }


def begun_words(text: str, rng: random.Random) -> str:
    """The first words of `text`, at least one and not all, without the space after them."""
    spaces = [index for index, letter in enumerate(text) if letter == " "]
    return text[: rng.choice(spaces)]


def evaluate(entries: list[Entry], gguf: Path) -> dict[str, Mark]:
    """The marks of the model in the file `gguf`, by kind of question."""
    with llama_server(gguf) as address, ThreadPoolExecutor(SLOT_COUNT) as pool:
        return {
            kind: marked(cases, list(pool.map(partial(answer_to, address), cases)))
            for kind, cases in cases_by_kind(entries).items()
        }

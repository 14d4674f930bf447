"""Locust drives our client: a real master with two workers on loopback, against servers of known timing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.e2e.processes import free_port

ROOT = Path(__file__).parents[2]
LOCUSTFILE = ROOT / "src" / "penstock" / "bench" / "locust.py"
PATIENCE_S = 60

TTFT_S, ITL_S, TOKENS = 0.1, 0.02, 6
E2E_S = TTFT_S + (TOKENS - 1) * ITL_S
# A time that is wrong by kind is off by more: the role chunk is 100 ms early, and TPOT with TTFT in it 1.7 times.
RATIO_MIN, RATIO_MAX = 0.95, 1.5


class Server:
    """An engine that keeps its times: a role chunk at once, the first token at `TTFT_S`, then one each `ITL_S`."""

    def __init__(self, status: int = 200) -> None:
        self._status = status
        self.models: list[str] = []
        self.keys: set[str] = set()
        self.prompts: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                self.keys.add(fields.get("authorization", ""))
                if head.startswith("GET /v1/models "):
                    _whole(writer, 200, {"data": [{"id": "known"}]})
                elif self._status != 200:
                    _whole(writer, self._status, {"error": {"message": "no room", "type": "x"}})
                else:
                    await self._answer(writer, json.loads(body))
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, request: dict[str, object]) -> None:
        self.models.append(str(request["model"]))
        self.prompts.append(json.dumps(request["messages"]))
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        _event(writer, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for n in range(TOKENS):
            await asyncio.sleep(begun_s + TTFT_S + n * ITL_S - loop.time())
            _event(writer, {"choices": [{"delta": {"content": "x"}}]})
        _event(writer, {"choices": [{"delta": {}, "finish_reason": "length"}]})
        _event(writer, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": TOKENS}})
        _chunk(writer, b"data: [DONE]\n\n")
        _chunk(writer, b"")


def _event(writer: asyncio.StreamWriter, event: Mapping[str, object]) -> None:
    _chunk(writer, b"data: %b\n\n" % json.dumps(event).encode())


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _whole(writer: asyncio.StreamWriter, status: int, answer: object) -> None:
    body = json.dumps(answer).encode()
    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """The server's URL, while it runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(asyncio.start_server(server.serve, "127.0.0.1", 0))
    thread = Thread(target=loop.run_forever)
    thread.start()

    async def ended() -> None:
        listening.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(ended(), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def locust(folder: Path, *options: str, **env: str) -> subprocess.Popen[str]:
    """A Locust process on our user."""
    program = Path(sys.executable).with_name("locust")  # a package of the development environment brings it
    assert program.exists(), "locust is missing: pip install locust"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    return subprocess.Popen(
        [str(program), "-f", str(LOCUSTFILE), "--headless", "--only-summary", *options],
        cwd=folder,
        env=kept | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(*processes: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """The exit codes and words of these processes, once all have ended."""
    try:
        said = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
        return [(process.returncode, words) for process, words in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def statistics(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Locust's own rows, by type and name."""
    rows = json.loads((folder / "run.json").read_text())
    return {(row["method"], row["name"]): row for row in rows}


def test_a_master_and_two_workers_tell_the_times_that_the_server_keeps(tmp_path: Path) -> None:
    server, port = Server(), free_port()
    with serving(server) as url:
        env = {"BASE_URL": url, "MIX": "short=0.5,long=0.5", "API_KEY": "sk-1"}
        master = locust(
            tmp_path,
            *("--master", "--master-bind-host=127.0.0.1", f"--master-bind-port={port}"),
            *("--expect-workers=2", "-u=6", "-r=100", "-t=2s", "-s=5", "--json-file=run"),
            **env,
        )
        workers = [
            locust(tmp_path, "--worker", "--master-host=127.0.0.1", f"--master-port={port}", **env)
            for _ in range(2)
        ]
        (code, said), *of_workers = ended(master, *workers)
        rows = statistics(tmp_path)

    assert code == 0, said
    assert [code for code, _ in of_workers] == [0, 0], of_workers
    assert server.keys == {"Bearer sk-1"}
    assert set(server.models) == {"known"}
    assert len(set(server.prompts)) == len(server.prompts)  # no worker repeats the other's
    told = sum(rows["E2E", kind]["num_requests"] for kind in ("short", "long"))
    assert told == len(server.prompts)
    for kind in ("short", "long"):
        for what, truth_s in (("TTFT", TTFT_S), ("TPOT", ITL_S), ("E2E", E2E_S)):
            row = rows[what, kind]
            assert row["num_failures"] == 0
            mean_s = row["total_response_time"] / row["num_requests"] / 1000
            assert RATIO_MIN < mean_s / truth_s < RATIO_MAX, (what, row)


def test_a_request_that_fails_is_one_failure_with_its_cause(tmp_path: Path) -> None:
    with serving(Server(status=503)) as url:
        ((code, said),) = ended(locust(tmp_path, "-u=1", "-t=1s", BASE_URL=url, MODEL="m", THINK_S="0.2"))

    assert code == 1, said
    assert "5xx: no room" in said
    assert "(100.00%)" in said
    assert "TTFT" not in said


def test_a_server_that_is_gone_is_said_so(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    ((code, said),) = ended(locust(tmp_path, "-u=1", "-t=1s", BASE_URL=url))

    assert code == 1, said
    assert "is BASE_URL right?" in said


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "BASE_URL: no server is named (hint: BASE_URL=http://127.0.0.1:8080, or --host)"),
        ({"BASE_URL": "ftp://x"}, "ftp://x: expected http://host:port"),
        ({"BASE_URL": "http://127.0.0.1:1", "MIX": "shrot"}, "did you mean short?"),
        (
            {"BASE_URL": "http://127.0.0.1:1", "THINK_S": "much"},
            "THINK_S: 'much' is no number from 0 to 3600",
        ),
    ],
)
def test_a_wrong_setting_ends_locust_before_it_begins(env: dict[str, str], said: str, tmp_path: Path) -> None:
    ((code, output),) = ended(locust(tmp_path, "-u=1", "-t=1s", **env))

    assert code == 2, output
    assert said in output


def test_the_module_tells_where_its_file_lies() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penstock.bench.locust"], capture_output=True, text=True, timeout=PATIENCE_S
    )

    assert Path(done.stdout.strip()).samefile(LOCUSTFILE), done.stderr

"""`penstock bench` as it is typed: what goes to which stream, exit codes by cause, Ctrl-C."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from penstock.cli import bench_matrix, bench_run
from penstock.store.home import Home
from penstock.store.runtime import Holder, Lock, Registration, Registry
from tests.bench.under_load import ANSWER, CHUNKED, DONE, chunk, said, self_signed, usage, whole
from tests.cli.conftest import Command
from tests.engines.fake_engine import FakeEngine, Peer
from tests.simulator.sim_client import Sim

SMALL = ("--requests", "8", "--concurrency", "4", "--output-tokens", "4", "--prompt-tokens", "24")
COMMANDS = [one.name for one in (*bench_run.COMMANDS, *bench_matrix.COMMANDS)]
MODELS = whole(b'{"data":[{"id":"m"}]}')
PATIENCE_S = 30.0
TOO_FEW, CLIENT_LIMITED = 14, 10


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A simulated engine that answers in milliseconds."""
    engine = Sim(model=("sim",))
    yield f"http://127.0.0.1:{engine.port}"
    engine.stop()


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PENSTOCK_BENCH_API_KEY", "OPENAI_API_KEY", "PENSTOCK_API_KEY", "GATEWAY_API_KEYS"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def serving(
    reply: bytes, *, endless: bytes = b"", models: bytes = MODELS, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """A server in a thread of its own: it names its models, and answers all else with `reply`; then with `endless`
    without an end."""

    async def script(peer: Peer) -> None:
        while True:
            asked = await peer.request()
            await peer.say(models if asked.startswith(b"GET /v1/models") else reply)
            while endless and asked.startswith(b"POST"):
                await peer.say(endless)
                await asyncio.sleep(0.01)

    ready = threading.Event()
    found: dict[str, str] = {}
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with FakeEngine(script, tls) as server:
            found["url"] = f"{'https' if tls else 'http'}://127.0.0.1:{server.address.port}"
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield found["url"]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_S)
        loop.close()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_tells_the_exit_codes_and_ends_with_examples(penstock: Command, name: str) -> None:
    result = penstock("bench", name, "--help")

    _, _, examples = result.out.partition("Examples:\n")
    assert result.code == 0
    assert "Exit codes: 0 valid" in result.out
    assert f"penstock bench {name}" in examples


def test_a_run_prints_its_report_to_standard_output_and_its_progress_elsewhere(
    penstock: Command, url: str, folder: Path
) -> None:
    result = penstock("bench", "run", url, *SMALL, "--output", "report")

    assert result.code in (TOO_FEW, CLIENT_LIMITED)
    assert result.out.startswith(f"sim at {url}: concurrency 4\n")
    assert "TOO-FEW-SAMPLES: 8 whole answers; p95 needs 130" in result.out
    assert "looking at" not in result.out
    assert "looking at" in result.err
    assert "report: report/report.html" in result.err
    assert (folder / "report" / "samples.jsonl").read_text().count("\n") == 8


def test_json_is_all_that_standard_output_has(penstock: Command, url: str) -> None:
    result = penstock("bench", "run", url, *SMALL, "--json", "--quiet")

    assert json.loads(result.out)["all"]["counts"]["completed"] == 8
    assert result.err == ""


def test_markdown_and_junit_are_written_where_they_are_wanted(
    penstock: Command, url: str, folder: Path
) -> None:
    result = penstock("bench", "run", url, *SMALL, "--markdown", "--quiet", "--junit", "junit.xml")

    assert result.out.startswith("### Load test: sim, concurrency 4\n")
    assert ElementTree.parse(folder / "junit.xml").getroot().find("testsuite") is not None


def test_a_run_that_was_kept_is_shown_again_in_every_form(penstock: Command, url: str, folder: Path) -> None:
    first = penstock("bench", "run", url, *SMALL, "--quiet", "--output", "report")

    again = penstock("bench", "report", "report", "--html", "again.html", "--junit", "again.xml")
    strict = penstock("bench", "report", "report", "--slo", "e2e=0.001ms", "--json")

    assert again.code == 0
    assert again.out == first.out
    assert (folder / "again.html").read_text() == (folder / "report" / "report.html").read_text()
    assert json.loads(strict.out)["all"]["goodput"]["good"] == 0


def test_a_probe_tells_each_first_token(penstock: Command, url: str) -> None:
    result = penstock("bench", "probe", url, "--count", "3")

    lines = result.out.splitlines()
    assert result.code == 0
    assert [line.split()[:2] for line in lines[:3]] == [["1", "TTFT"], ["2", "TTFT"], ["3", "TTFT"]]
    assert "connecting" in lines[0]
    assert lines[3].startswith("TTFT of 3: median ")


def test_a_sweep_leaves_a_report_that_can_be_shown_again(penstock: Command, url: str, folder: Path) -> None:
    swept = penstock(
        "bench", "sweep", url, "--kinds", "short", "--levels", "1,2", *SMALL[:2], *SMALL[4:], "--output", "s"
    )

    again = penstock("bench", "report", "s")

    assert swept.code in (TOO_FEW, CLIENT_LIMITED)
    assert again.out == swept.out
    assert json.loads((folder / "s" / "sweep.json").read_text())["planned"] == 2


def test_two_runs_are_compared(penstock: Command, url: str, folder: Path) -> None:
    for name in ("a", "b"):
        penstock("bench", "run", url, *SMALL, "--quiet", "--output", name)

    result = penstock("bench", "compare", "a", "b", "--output", "both")

    assert result.code == 0
    assert "note: A is " in result.out
    assert (folder / "both" / "report.html").is_file()


@pytest.mark.parametrize(
    "line",
    [
        ("compare", ".", ".", "--concurrency", "3"),
        ("compare", ".", ".", "--slo", "ttft=1s"),
        ("report", "sweep", "--slo", "ttft=1s"),
        ("report", "sweep", "--junit", "x.xml"),
        ("sweep", "--junit", "x.xml"),
    ],
    ids=" ".join,
)
def test_an_option_that_would_do_nothing_is_a_mistake(
    penstock: Command, folder: Path, line: tuple[str, ...]
) -> None:
    (folder / "sweep").mkdir()
    (folder / "sweep" / "sweep.json").write_text("{}")

    result = penstock("bench", *line)

    assert result.code == 2
    assert line[-2].removeprefix("--") in result.err


def test_a_trace_is_replayed(penstock: Command, url: str, folder: Path) -> None:
    rows = "".join(f"2023-11-16 18:00:0{second}.0000000,20,3\n" for second in range(3))
    (folder / "azure.csv").write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")

    result = penstock("bench", "replay", "azure.csv", url, "--speed", "10", "--json", "--quiet")

    other = penstock("bench", "replay", "azure.csv", url, "--concurrency", "1", "--quiet")

    counts = json.loads(result.out)["all"]["counts"]
    assert counts["completed"] == 3
    assert other.out.startswith(f"sim at {url}: concurrency 1\n")


def test_a_definition_is_one_flag_away(penstock: Command) -> None:
    alone = penstock("bench", "--define", "ttft")
    in_a_run = penstock("bench", "run", "--define", "ttft")

    assert alone.code == 0
    assert alone.out == in_a_run.out
    assert "Time to the first token" in alone.out
    assert "guidellm" in alone.out
    assert penstock("bench", "--define", "tttf").code == 2


def test_the_schema_of_the_summary_is_one_flag_away(penstock: Command) -> None:
    schema = json.loads(penstock("bench", "--schema").out)

    assert {"all", "kinds", "verdict"} <= set(schema["$defs"]["Summary"]["properties"])


def test_without_a_url_and_a_gateway_it_says_what_to_do(penstock: Command) -> None:
    result = penstock("bench", "run")

    assert result.code == 2
    assert "no URL is given, and no gateway runs here" in result.err
    assert "hint: `penstock up` starts one" in result.err


def test_without_a_url_the_gateway_that_runs_here_is_loaded_and_its_engines_are_read(
    penstock: Command, url: str, folder: Path
) -> None:
    home = Home.of({}, folder)
    home.replicas.mkdir(parents=True)
    lock = Lock(home.lock)
    lock.acquire(Holder(pid=os.getpid(), listen=url))
    Registry(home.replicas).register(Registration("sim-0", "sim", "sim", url, os.getpid(), "", time.time()))
    try:
        result = penstock("bench", "run", *SMALL, "--quiet", "--output", "report")
    finally:
        lock.release()

    assert result.out.startswith(f"sim at {url}: ")
    beside = json.loads((folder / "report" / "beside.json").read_text())
    assert [source["url"] for source in beside["sources"]] == [f"{url}/metrics"]


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        (("http://127.0.0.1:9",), 3, "error: http://127.0.0.1:9: "),
        (("http://no-such-host.invalid",), 3, "no known host"),
        (("ftp://x",), 4, "expected http://host:port"),
        (("{url}", "--model", "nope"), 4, "The model `nope` does not exist"),
        (("{url}/wrong",), 2, "does not say which it serves"),
        (("{url}/wrong", "--model", "sim"), 4, "404"),
        (("{url}", "--rate", "1", "--concurrency", "1"), 2, "a closed loop or an open one"),
        (("{url}", "--output", "."), 2, "exists, and a report is never overwritten"),
        (("{url}", "--json", "--markdown"), 2, "room for one of them"),
        (("{url}", "--mix", "shrt"), 2, "did you mean short?"),
        (("{url}", "--gpu-log", "no/such/folder.csv", "--requests", "1"), 2, "no/such/folder.csv"),
    ],
)
def test_a_mistake_has_a_message_and_an_exit_code_by_its_cause(
    penstock: Command, url: str, line: tuple[str, ...], code: int, says: str
) -> None:
    result = penstock("bench", "run", *(word.format(url=url) for word in line), "--quiet")

    assert says in result.err
    assert (result.code, result.out) == (code, "")


def test_a_server_that_wants_a_key_is_given_the_one_of_the_environment(
    penstock: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Sim(model=("sim",), api_key="sk-right")
    there = f"http://127.0.0.1:{engine.port}"
    try:
        without = penstock("bench", "probe", there, "--count", "1", "--quiet")
        monkeypatch.setenv("PENSTOCK_BENCH_API_KEY", "sk-right")
        with_it = penstock("bench", "probe", there, "--count", "1", "--quiet")
        typed = penstock("bench", "probe", there, "--count", "1", "--quiet", "--api-key", "sk-wrong")
    finally:
        engine.stop()

    assert (without.code, with_it.code, typed.code) == (4, 0, 4)
    assert "hint: give it a key" in without.err
    assert "warning: a key on the command line" in typed.err


OFF = ("--count-tokens", "off", "--requests", "4", "--concurrency", "2", "--quiet", "--timeout", "2s")
EVENTS = said("a") + said("b", "stop") + usage(2) + DONE
GZIPPED = whole(gzip.compress(EVENTS), kind=b"text/event-stream", more=b"content-encoding: gzip\r\n")
BROTLI = whole(b"rubbish", kind=b"text/event-stream", more=b"content-encoding: br\r\n")
NO_USAGE = CHUNKED + chunk(said("a")) + chunk(said("b", "stop")) + chunk(DONE) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("reply", "code", "says"),
    [
        (ANSWER, 14, "TOO-FEW-SAMPLES"),
        (NO_USAGE, 14, "told no usage for 4 of 4 answers"),
        (whole(b'{"choices":[{"message":{"content":"a"}}]}'), 11, "4 x not_streamed"),
        (whole(b"<html>nginx</html>", kind=b"text/html"), 11, "4 x malformed"),
        (GZIPPED, 14, "TOO-FEW-SAMPLES: 4 whole answers"),
        (BROTLI, 11, "content-encoding br, which was not asked for"),
        (
            whole(b'{"error":{"message":"slow down"}}', b"429 Too Many Requests"),
            11,
            "4 x 429 (status 429): slow down",
        ),
        (whole(b"oops", b"500 Internal Server Error"), 11, "4 x 5xx (status 500): oops"),
        (CHUNKED + chunk(said("a")) + b"0\r\n\r\n", 11, "4 x incomplete"),
    ],
    ids=["good", "no usage", "never streams", "html", "gzip", "brotli", "429", "500", "no end"],
)
def test_what_a_server_answers_has_a_cause_and_a_verdict(
    penstock: Command, reply: bytes, code: int, says: str
) -> None:
    with serving(reply) as there:
        result = penstock("bench", "run", there, *OFF)

    assert says in result.out
    # A machine that has no time for the load generator spoils the verdict, and not the test.
    assert result.code in (code, CLIENT_LIMITED)


def test_an_endless_stream_ends_with_its_time(penstock: Command) -> None:
    with serving(CHUNKED, endless=chunk(said("more"))) as there:
        result = penstock("bench", "run", there, *OFF[:-1], "300ms")

    assert "4 x total_timeout" in result.out
    assert result.code in (11, CLIENT_LIMITED)


def test_a_certificate_that_nobody_signed_is_taken_where_that_is_wanted(
    penstock: Command, folder: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*self_signed(folder))

    with serving(ANSWER, tls=context) as there:
        refused = penstock("bench", "run", there, *OFF)
        taken = penstock("bench", "run", there, *OFF, "--insecure")

    assert refused.code == 3
    assert "certificate" in refused.err
    assert "--insecure" in refused.err
    assert taken.code in (TOO_FEW, CLIENT_LIMITED)


def test_ctrl_c_leaves_a_report_that_says_so(url: str, folder: Path) -> None:
    argv = [sys.executable, "-m", "penstock", "bench", "run", url, "--requests", "100000", "--output", "cut"]
    process = subprocess.Popen(
        [*argv, "--output-tokens", "4"],
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait(lambda: any((folder / "cut" / "spool").glob("*.jsonl")) and _spooled(folder) > 0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()

    assert process.returncode == 130
    assert "INTERRUPTED" in out
    assert "stopping; what was measured so far is reported" in err
    assert json.loads((folder / "cut" / "summary.json").read_text())["interrupted"] is True


def _spooled(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "cut" / "spool").glob("*.jsonl"))


def _wait(condition: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_s, "it did not come to it"
        time.sleep(0.02)

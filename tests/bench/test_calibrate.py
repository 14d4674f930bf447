"""Finding out what a server's tokens are, from servers of different manners."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.bench.load.endpoint import COMPLETIONS_PATH, Endpoint
from penstock.bench.workloads.calibrate import Counting, calibrate
from penstock.bench.workloads.calibration import Calibration, Source
from penstock.bench.workloads.kinds import Kind, mix_of
from penstock.bench.workloads.lengths import fixed, parse_lengths
from penstock.bench.workloads.prompts import Cache
from penstock.bench.workloads.replay import replay
from penstock.bench.workloads.tokenizers import CalibrationError
from penstock.bench.workloads.trace_rows import TraceFormat, TraceRow
from penstock.bench.workloads.traces import Trace
from penstock.bench.workloads.workload import Plan, Workload, plan
from penstock.engines.client import ConnectRefusedError, EngineClient
from tests.simulator.sim_client import Sim

DEMO_MODEL = Path(__file__).parents[2] / "src/penstock/demo_model"


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    engine = Sim(max_model_len=4096, kv_blocks=8192)
    yield engine
    engine.stop()


async def calibrated(url: str, model: str = "tiny", path: str = "", **settings: Any) -> Calibration:
    client = EngineClient()
    endpoint = Endpoint.parse(url, **({"path": path} if path else {}))
    try:
        return await calibrate(client, endpoint, model, **settings)
    finally:
        client.close()
        while client.connections(endpoint.address)[0]:
            await asyncio.sleep(0)


def of_sim(sim: Sim, **settings: Any) -> Calibration:
    return asyncio.run(calibrated(f"http://127.0.0.1:{sim.port}", **settings))


def read_tokens(sim: Sim, requests: Any, path: str = "/v1/chat/completions") -> list[tuple[int, int]]:
    """What the engine read of each request, and what was planned."""
    pairs = []
    for request in requests:
        body = json.loads(request.body)
        del body["stream_options"]
        status, answer = sim.post(path, {**body, "stream": False, "max_tokens": 1})
        assert status == 200, answer
        pairs.append((answer["usage"]["prompt_tokens"], request.prompt_tokens))
    return pairs


# -- a server with /tokenize: every prompt is as long as it should be ---------------------------------------------

TALK = Kind("talk", parse_lengths("20-300"), fixed(9), fixed(3), parse_lengths("1-40"))
KINDS = {"single": Kind("single", parse_lengths("12-900"), fixed(5)), "talk": TALK}


@pytest.mark.parametrize("path", ["/v1/chat/completions", COMPLETIONS_PATH])
@pytest.mark.parametrize("share", [0.0, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_reads_as_many_tokens_as_were_planned(
    sim: Sim, path: str, share: float, kind: str
) -> None:
    calibration = of_sim(sim, path=path, sessions=True)
    given = Workload("tiny", mix_of([(KINDS[kind], 1)]), cache=Cache(share, 3), calibration=calibration)

    pairs = read_tokens(sim, plan(given, None, 20), path)

    assert calibration.exact
    assert calibration.source is Source.SERVER
    assert [read for read, _ in pairs] == [planned for _, planned in pairs]


def test_the_server_tells_its_context_and_takes_ignore_eos(sim: Sim) -> None:
    calibration = of_sim(sim)

    assert calibration.context_tokens == 4096
    assert calibration.ignore_eos is True
    assert calibration.requests < 12


def test_usage_counts_as_well_as_tokenize(sim: Sim) -> None:
    by_server, by_usage = of_sim(sim, sessions=True), of_sim(sim, sessions=True, counting=Counting.USAGE)

    assert by_usage.source is Source.USAGE
    assert (by_usage.base_tokens, by_usage.turn_tokens) == (by_server.base_tokens, by_server.turn_tokens)
    assert by_usage.exact
    assert "the usage of" in by_usage.describe()


def test_no_counting_asks_nothing() -> None:
    assert asyncio.run(calibrated("http://127.0.0.1:9", counting=Counting.OFF)) == Calibration()


# -- a real engine, whose vocabulary is so small that most words are several tokens ------------------------------


@pytest.fixture(scope="module")
def llama_url() -> Iterator[str]:
    command = [sys.executable, "-m", "penstock.engines.llamacpp_server", "--port", "0", "--alias", "tiny"]
    command += ["--model-path", str(DEMO_MODEL / "demo.gguf"), "--n-threads", "1"]
    engine = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert engine.stdout is not None
    yield engine.stdout.readline().strip()
    engine.stdout.close()
    engine.terminate()
    engine.wait(10)


@pytest.mark.parametrize(
    ("settings", "source"),
    [
        ({}, Source.SERVER),
        ({"counting": Counting.LOCAL, "tokenizer": DEMO_MODEL}, Source.LOCAL),
    ],
)
def test_a_real_model_reads_as_many_tokens_as_were_planned(
    llama_url: str, settings: dict[str, Any], source: Source
) -> None:
    calibration = asyncio.run(calibrated(llama_url, sessions=True, **settings))
    kinds = [(Kind("single", parse_lengths("12-200"), fixed(5)), 1.0), (TALK, 1.0)]
    given = Workload("tiny", mix_of(kinds), calibration=calibration, stream=False)

    pairs = asyncio.run(answered(llama_url, plan(given, None, 12)))

    assert (calibration.source, calibration.exact, calibration.context_tokens) == (source, True, 2048)
    assert [read for read, _ in pairs] == [planned for _, planned in pairs]


async def answered(url: str, requests: Plan) -> list[tuple[int, int | None]]:
    """What a server read of each request, and what was planned."""
    client, endpoint = EngineClient(), Endpoint.parse(url)
    pairs = []
    for request in requests:
        reply = await client.fetch(
            endpoint.address,
            b"POST",
            endpoint.target(),
            headers=endpoint.header_lines(),
            body=request.body,
            timeout_s=60.0,
        )
        pairs.append((json.loads(reply.body)["usage"]["prompt_tokens"], request.prompt_tokens))
    client.close()
    while client.connections(endpoint.address)[0]:
        await asyncio.sleep(0)
    return pairs


# -- what a prefix cache finds is what was planned ----------------------------------------------------------------


def cached_share(requests: Any) -> tuple[float, float]:
    """Of the prompt tokens, what a fresh engine's prefix cache had, and what it could have by design."""
    engine = Sim(max_model_len=4096, kv_blocks=8192)
    try:
        read_tokens(engine, requests)
        hits = engine.metric("vllm:prefix_cache_hits_total")
        return hits / engine.metric("vllm:prefix_cache_queries_total"), requests.tally.shared_part
    finally:
        engine.stop()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_prefix_cache_has_what_was_to_be_shared_and_no_more(sim: Sim, share: float) -> None:
    given = Workload(
        "tiny", mix_of([(Kind("x", fixed(512), fixed(1)), 1)]), cache=Cache(share, 2), calibration=of_sim(sim)
    )

    found, planned = cached_share(plan(given, None, 40))

    assert found <= planned
    assert found >= planned - 0.1  # the first of each group, and less than one block a prompt
    assert share > 0 or found == 0.0


def test_the_prefix_cache_has_the_blocks_that_a_trace_repeats(sim: Sim) -> None:
    blocks = [(1, 2, 3), (1, 2, 4), (5, 6), (1, 2, 3, 7), (5, 8)]
    rows = [TraceRow(float(at), 512 * len(ids) - 40, 1, blocks=ids) for at, ids in enumerate(blocks)]
    trace = Trace("t", TraceFormat.MOONCAKE, rows, {})
    given = Workload("tiny", mix_of([(KINDS["single"], 1)]), calibration=of_sim(sim))

    found, planned = cached_share(replay(given, trace))

    repeated = (2 + 3 + 1) * 512 / sum(row.prompt_tokens or 0 for row in rows)
    assert planned == pytest.approx(repeated, abs=0.02)
    assert found == pytest.approx(repeated, abs=0.02)


def test_the_prefix_cache_has_the_earlier_turns_of_a_session(sim: Sim) -> None:
    given = Workload("tiny", mix_of([(TALK, 1)]), calibration=of_sim(sim, sessions=True))

    found, planned = cached_share(plan(given, None, 30))

    assert planned - 0.1 <= found <= planned


# -- servers of other manners -------------------------------------------------------------------------------------

Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]


def syllables(text: str) -> int:
    """A tokenizer of which a word that has an `ou` or an `ea` is two tokens."""
    return sum(1 + bool(re.search("ou|ea", word)) for word in text.split())


def told(texts: list[str]) -> int:
    """Its chat template has 7 tokens a message."""
    return sum(7 + syllables(text) for text in texts)


def contents(body: dict[str, Any]) -> list[str]:
    return [message["content"] for message in body["messages"]]


def usage(tokens: int) -> dict[str, Any]:
    return {"choices": [{}], "usage": {"prompt_tokens": tokens, "completion_tokens": 1}}


def llama_cpp(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    if path == "/apply-template":
        return 200, {"prompt": " ".join("a b c d e f g " + text for text in contents(body))}
    if path == "/tokenize":
        return 200, {"tokens": [1] * syllables(body.get("content", ""))}
    if path == "/props":
        return 200, {"default_generation_settings": {"n_ctx": 2048}}
    return (200, usage(told(contents(body)))) if path.startswith("/v1/chat") else (404, {})


def sglang(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    if path == "/tokenize":
        return (
            (200, {"count": syllables(body["prompt"])}) if "prompt" in body else (422, {"detail": "prompt"})
        )
    return (200, usage(told(contents(body)))) if path.startswith("/v1/chat") else (404, {})


def plain(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Only OpenAI's routes, and strict about what it does not know."""
    if not path.startswith("/v1/chat"):
        return 404, {"error": "not found"}
    if "ignore_eos" in body:
        return 400, {"error": {"message": "unknown member ignore_eos"}}
    return 200, usage(told(contents(body)))


def silent(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Tells no usage."""
    return (200, {"choices": [{}]}) if path.startswith("/v1/chat") else (404, {})


def adding(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """A gateway that adds a system prompt which its /tokenize does not know."""
    if path == "/tokenize":
        return 200, {"count": told(contents(body)), "max_model_len": 9000}
    return (200, usage(told(contents(body)) + 23)) if path.startswith("/v1/chat") else (404, {})


async def asked(answer: Answer, **settings: Any) -> Calibration:
    """The calibration of a server that answers by `answer`."""

    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head)
                raw = await reader.readexactly(int(length[1])) if length else b""
                status, body = answer(head.split()[1].decode(), json.loads(raw or b"{}"))
                data = json.dumps(body).encode()
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(data), data))
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        try:
            return await calibrated(f"http://127.0.0.1:{port}", **settings)
        finally:
            await asyncio.gather(*served)


def of(answer: Answer, **settings: Any) -> Calibration:
    return asyncio.run(asked(answer, **settings))


@pytest.mark.parametrize(
    ("server", "source"), [(llama_cpp, Source.SERVER), (sglang, Source.SERVER), (plain, Source.USAGE)]
)
def test_words_of_two_tokens_are_found_and_left_out(server: Answer, source: Source) -> None:
    calibration = of(server, sessions=True)

    assert calibration.source is source
    assert calibration.exact
    assert len(calibration.words) >= 64
    assert not [word for word in calibration.words if syllables(word) != 1]
    assert (calibration.base_tokens, calibration.turn_tokens) == (7 + 2, 2 * (7 + 2))


def test_llama_cpp_tells_its_context() -> None:
    assert of(llama_cpp).context_tokens == 2048


def test_a_server_that_refuses_ignore_eos_is_not_sent_it() -> None:
    assert of(plain).ignore_eos is False
    assert of(plain, ask_ignore_eos=False).ignore_eos is None


def test_what_a_gateway_adds_is_taken_into_account_and_told() -> None:
    calibration = of(adding)

    assert calibration.exact
    assert calibration.base_tokens == 7 + 2 + 23
    assert calibration.notes == (
        "The server reads +23 tokens to what its /tokenize counts; lengths follow what it reads.",
    )


def test_a_model_without_whole_words_has_estimated_lengths() -> None:
    def letters(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (200, usage(sum(map(len, contents(body))))) if path.startswith("/v1/chat") else (404, {})

    calibration = of(letters)

    assert not calibration.exact
    assert calibration.tokens_per_word == pytest.approx(4.9, abs=0.5)
    assert (calibration.off_by or 0) > 0
    assert "about the number of tokens" in calibration.describe()


def test_a_tokenizer_file_counts_where_the_server_does_not() -> None:
    calibration = of(plain, tokenizer=DEMO_MODEL)

    assert calibration.source is Source.LOCAL


def test_a_tokenizer_of_another_model_is_noticed() -> None:
    def letters(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (200, usage(sum(map(len, contents(body))))) if path.startswith("/v1/chat") else (404, {})

    calibration = of(letters, tokenizer=DEMO_MODEL)

    assert not calibration.exact
    assert calibration.notes == (
        "The server's usage and the tokenizer do not agree: is it this model's own?",
    )


def test_without_usage_lengths_are_guesses_unless_counting_was_asked_for() -> None:
    calibration = of(silent)

    assert not calibration.known
    assert "could not be checked" in calibration.notes[0]
    with pytest.raises(CalibrationError, match="tells no usage"):
        of(silent, counting=Counting.USAGE)


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "give the key of this server"), (404, "is this the model's name"), (500, "ask it by curl")],
)
def test_a_server_that_refuses_is_told_of_before_the_run(status: int, hint: str) -> None:
    with pytest.raises(CalibrationError, match=rf"/v1/chat/completions: .*: {status} .*why not") as caught:
        of(lambda path, body: (status, {"error": "why not"}))
    assert hint in caught.value.hint


def test_a_server_that_is_down_is_told_of_before_the_run() -> None:
    with pytest.raises(ConnectRefusedError):
        asyncio.run(calibrated("http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"counting": Counting.LOCAL}, "no tokenizer is given"),
        ({"counting": Counting.LOCAL, "tokenizer": Path("/nowhere.json")}, "/nowhere.json: No such file"),
        ({"counting": Counting.LOCAL, "tokenizer": Path(__file__)}, "test_calibrate.py: "),
        ({"counting": Counting.SERVER}, "no /tokenize that is known"),
    ],
)
def test_a_counter_that_is_not_there_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        of(plain, **settings)

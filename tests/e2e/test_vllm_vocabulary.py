"""The `llm:*` vocabulary over a real vLLM under load: each figure is there, and agrees with what clients measured.

    PENSTOCK_VLLM_VENV=/path/to/venv pytest tests/e2e/test_vllm_vocabulary.py -s

Skipped without one. A real Prometheus has what `penstock render prometheus` makes. It reads vLLM twice: by way of the
exporter of `penstock up`, and itself, as it reads remote engines, under the name `direct`. The figures are printed.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from penstock.render.dashboards import engines, slow
from penstock.render.recording import ENGINE
from tests.e2e.conftest import DEMO
from tests.e2e.observed import BLOCK_TOKENS, BLOCKS, MODEL, NEEDS_VLLM, PERMITS, SEQUENCES, Observed
from tests.e2e.processes import Gateway, Server, remote, wait_until
from tests.e2e.test_continuation import CHAT
from tests.e2e.test_dashboards import answer, prometheus_at, shown

pytestmark = [
    NEEDS_VLLM,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is missing: apt-get install prometheus"
    ),
    pytest.mark.timeout(400),
]

LOAD_S = 25.0
LENGTHS = (100, 150, 200)
SHARED = "You are asked to count, and you count on and on without a word beside the numbers. " * 4
DIRECT = "direct"
MINUTE_S = 60.0
PAGE = Path(__file__).parents[1] / "render" / "pages" / "vllm-0.32.txt"
PAGES = (engines.PAGE, slow.PAGE)
# Panels whose subject is not in this run: nothing fails, and nobody is turned away.
SILENT = {"Breakers", "Turned away", "Retries", "Continued answers"}


@dataclass(frozen=True)
class Answer:
    """What a client saw of its answer; times of the wall clock."""

    asked_at: float
    token_times: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    @property
    def ttft_s(self) -> float:
        return self.token_times[0] - self.asked_at

    @property
    def decode_s(self) -> float:
        return self.token_times[-1] - self.token_times[0]

    def tokens_since(self, at: float) -> float:
        """Its generated tokens after that; those that came in one event are one time."""
        later = sum(one > at for one in self.token_times)
        return self.completion_tokens * later / len(self.token_times)


class Load:
    """Clients that each ask again as soon as they are answered; more of them than vLLM runs at once."""

    def __init__(self, up: Gateway) -> None:
        self.answers: list[Answer] = []
        self._up = up
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(PERMITS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _client(self, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            length = LENGTHS[(number + turn) % len(LENGTHS)]
            self.answers.append(self._answer(f"Client {number} counts for the {turn}. time.", length))

    def _answer(self, text: str, length: int) -> Answer:
        body = {
            "model": DEMO,
            "messages": [{"role": "system", "content": SHARED}, {"role": "user", "content": text}],
            "max_tokens": length,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._up.port, timeout=60)
        asked_at = time.time()
        connection.request(
            "POST", CHAT, json.dumps(body), {"Content-Type": "application/json", **self._up.headers}
        )
        times, usage = [], {}
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    times.append(time.time())
        connection.close()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return Answer(asked_at, tuple(times), usage["prompt_tokens"], cached, usage["completion_tokens"])


@dataclass
class Watched:
    """What Prometheus and the clients know after the load.

    Args:
        levels: values of `llm:*` that were seen amid it.
        unanswered: the queries of dashboards that were answered with nothing amid it, by panel.
        told_at: when the rules were last evaluated, after its end.
    """

    prometheus: Server
    answers: list[Answer]
    levels: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    unanswered: dict[str, list[str]] = field(default_factory=dict)
    told_at: float = 0.0

    def value(self, name: str, model: str = DEMO) -> float:
        found = value(self.prometheus, f'{name}{{model="{model}"}}')
        assert found is not None, f"{name} of {model} is not there"
        return found

    def mean(self, of: Callable[[Answer], float]) -> float:
        return sum(map(of, self.answers)) / len(self.answers)

    def rate(self, of: Callable[[Answer, float], float]) -> float:
        """What the clients saw in the minute that the rules looked at, by the second."""
        return sum(of(one, self.told_at - MINUTE_S) for one in self.answers) / MINUTE_S


def value(prometheus: Server, query: str) -> float | None:
    found = answer(prometheus, query)
    assert len(found) < 2, (query, found)
    return float(found[0]["value"][1]) if found else None  # type: ignore[index]  # a sample


FINISHED = {DEMO: "sum(llm_requests_finished_total)", DIRECT: "sum(vllm:request_success_total)"}


def finished(prometheus: Server) -> dict[str, float] | None:
    """The requests that vLLM has finished, as both ways tell it; None while one does not."""
    found = {model: value(prometheus, query) for model, query in FINISHED.items()}
    known = {model: count for model, count in found.items() if count is not None}
    return known if len(known) == len(found) else None


@pytest.fixture(scope="module")
def watched(observed_vllm: Observed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A Prometheus that has watched vLLM under load from before its beginning to after its end."""
    up = observed_vllm.up
    models = MODEL + remote(DIRECT, observed_vllm.vllm)
    with prometheus_at(tmp_path_factory.mktemp("watched"), up, observed_vllm.exporter, models) as prometheus:
        before = wait_until(lambda: finished(prometheus), "both ways to tell of vLLM")
        with Load(up) as load:
            it = Watched(prometheus, load.answers)
            end_s = time.monotonic() + LOAD_S
            while time.monotonic() < end_s:
                for name in ("llm:requests_running", "llm:requests_waiting", "llm:kv_usage_ratio"):
                    it.levels[name].append(value(prometheus, f'{name}{{model="{DEMO}"}}') or 0.0)
                time.sleep(0.5)
            for page in PAGES:
                for title, found in shown(prometheus, page):
                    it.unanswered[title] = [query for query, data in found.items() if not data]
        after = {model: count + len(load.answers) for model, count in before.items()}
        wait_until(lambda: finished(prometheus) == after, "Prometheus to have seen all of it")
        over_at = time.time()

        def told_at() -> float:
            stamps = [
                value(prometheus, f'timestamp(llm:e2e:mean5m{{model="{model}"}})') for model in FINISHED
            ]
            return min(stamp or 0.0 for stamp in stamps)

        wait_until(lambda: told_at() > over_at, "the rules to have been evaluated")
        it.told_at = told_at()
        yield it


def tell(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


@pytest.mark.parametrize("model", FINISHED)
def test_every_word_has_a_value(watched: Watched, model: str) -> None:
    found = {rule.name: watched.value(rule.name, model) for rule in ENGINE.rules}

    tell("\n".join(f"{name:34} {value:10.4f}" for name, value in found.items()))
    assert all(math.isfinite(value) and value >= 0 for value in found.values())


def test_the_phases_are_what_clients_waited_for(watched: Watched) -> None:
    queue, prefill, decode, e2e = (
        watched.value(f"llm:{phase}:mean5m") for phase in ("queue", "prefill", "decode", "e2e")
    )
    ttft, rest = watched.mean(lambda one: one.ttft_s), watched.mean(lambda one: one.decode_s)

    tell(
        f"{len(watched.answers)} answers; means: engine {queue:.3f} + {prefill:.3f} + {decode:.3f} of {e2e:.3f} s, "
        f"clients {ttft:.3f} + {rest:.3f} = {ttft + rest:.3f} s"
    )
    assert queue + prefill + decode == pytest.approx(e2e, rel=0.1, abs=0.02)
    # On a busy machine a client waits for processors too, of which an engine knows nothing.
    assert 0.6 * (ttft + rest) < e2e < 1.05 * (ttft + rest)
    assert queue + prefill < 1.05 * ttft
    assert decode == pytest.approx(rest, rel=0.4)
    assert queue > prefill  # one always waits


def test_tokens_are_as_many_as_clients_got(watched: Watched) -> None:
    generated = watched.rate(Answer.tokens_since)
    prompts = watched.rate(lambda one, at: one.prompt_tokens if one.token_times[0] > at else 0)
    told, told_prompts, steps = (
        watched.value(f"llm:{name}:rate1m") for name in ("generation_tokens", "prompt_tokens", "engine_steps")
    )

    tell(f"tokens/s: engine {told:.1f} and {told_prompts:.1f}, clients {generated:.1f} and {prompts:.1f}")
    assert told == pytest.approx(generated, rel=0.15)
    assert told_prompts == pytest.approx(prompts, rel=0.15)
    assert told / SEQUENCES * 0.8 <= steps <= told * 1.2  # each step makes one token of each running request


def test_batch_and_line_are_what_the_engine_was_given(watched: Watched) -> None:
    running, waiting, usage = watched.levels.values()
    longest = max(one.prompt_tokens + one.completion_tokens for one in watched.answers)

    assert max(running) == SEQUENCES
    assert 0 < max(waiting) <= PERMITS
    assert 0 < max(usage) <= SEQUENCES * (longest // BLOCK_TOKENS + 1) / BLOCKS
    assert [watched.value(name) for name in watched.levels] == [0, 0, 0]


def test_prefix_hits_are_what_answers_say_of_theirs(watched: Watched) -> None:
    cached, prompts = (
        sum(getattr(one, f"{kind}_tokens") for one in watched.answers) for kind in ("cached", "prompt")
    )

    told = watched.value("llm:prefix_hit:ratio5m")

    tell(f"prefix hits: engine {told:.3f}, answers {cached / prompts:.3f}")
    assert cached > 0
    assert told == pytest.approx(cached / prompts, rel=0.1)


def test_it_is_the_same_by_way_of_the_exporter_and_without(watched: Watched) -> None:
    for rule in ENGINE.rules:
        through, straight = (watched.value(rule.name, model) for model in FINISHED)
        assert through == pytest.approx(straight, rel=0.1, abs=0.01), rule.name


def test_every_query_of_the_dashboards_of_engines_is_answered(watched: Watched) -> None:
    assert {
        title: queries for title, queries in watched.unanswered.items() if queries and title not in SILENT
    } == {}


def families(page: str) -> dict[str, str]:
    """The families of a page by their kind, but when each was made, which Penstock turns off."""
    found = re.findall(r"(?m)^# TYPE (vllm:\S+) (\w+)$", page)
    return {name: kind for name, kind in found if not name.endswith("_created")}


def labels(page: str) -> dict[str, set[str]]:
    """The labels of each series."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, text in re.findall(r"(?m)^(vllm:\w+)\{(.*)\} \S+$", page):
        if not name.endswith("_created"):
            found[name] |= set(re.findall(r'(\w+)="', text))
    return found


def test_rules_are_checked_against_a_page_that_is_like_that_of_this_vllm(
    watched: Watched, observed_vllm: Observed
) -> None:
    stored, fresh = PAGE.read_text(), observed_vllm.vllm.request("GET", "/metrics").body.decode()

    assert families(fresh) == families(stored)
    assert labels(fresh) == labels(stored)

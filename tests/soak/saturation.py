"""`python -m tests.soak.saturation --minutes 30`: engines with far more requests than they can run never stall.

Their steps are slow, prompts take several of them, and what waits for them waits for half a minute: in the engine,
and in line. Prints a row each minute, then the verdicts; exits with 1 where one is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random

from tests.e2e.load import Background, End, Target
from tests.e2e.processes import KEY, Gateway, ready_gateway, remote, sim_engine, wait_until
from tests.e2e.questions import Mix, questions
from tests.soak.__main__ import WRONG_SHOWN, Count, say
from tests.soak.trend import Verdict

SAMPLE_EVERY_S = 0.5
TOKENS = 64
SERVING = {"ready", "busy"}
# Two engines run 4 requests each at seven steps a second, and have 16 each; as many wait in line as in one of them.
# A client waits half a minute so, and would wait one.
CLIENTS = 48
ENGINE = ("--model", "m", "--base-step-s", "0.15", "--max-num-seqs", "4", "--max-num-batched-tokens", "16")
EXTRA = (
    'concurrency = 16\nhealth = { stall = "5s" }\n'
    'timeouts = { queue = "1h", first_token = "1h", stall = "1h", total = "1h" }'
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.saturation", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long the load lasts")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="of all choices")
    options = parser.parse_args()
    say(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="penstock-saturation-") as folder:
        verdicts = saturate(Path(folder), options.minutes * 60, options.seed)
    for verdict in verdicts:
        say(verdict.tell())
    return 0 if all(verdict.good for verdict in verdicts) else 1


def saturate(folder: Path, seconds: float, seed: int) -> list[Verdict]:
    with ExitStack() as stack:
        quiet = stack.enter_context(sim_engine(folder, "--model", "m", "--base-step-s", "0"))
        found = questions(quiet, "m", 20, TOKENS)
        engines = [stack.enter_context(sim_engine(folder, *ENGINE)) for _ in range(2)]
        config = remote("m", *engines, extra=EXTRA) + "[gateway]\nbackpressure = false\n"
        front = stack.enter_context(ready_gateway(folder, config))
        mix = Mix(Random(seed), "m", found, [KEY], leaving=0.02, declining=0.5, prefix="full", tokens_least=8)
        count = Count()
        load = Background(Target(front.port), mix, clients=CLIENTS, on_seen=count)
        wait_until(lambda: set(states_of(front)) == {"ready"}, "both replicas to be ready")
        load.start()
        states = watch(front, count, seconds)
        load.stop()
        moved = moves(front)
    others = {state: number for state, number in states.items() if state not in SERVING}
    wrong = [move for move in moved if not set(move) <= SERVING]
    say(f"{count.total} requests ended; states looked at: {dict(states)}; {others or ''} {wrong or ''}")
    for line in count.wrong[:WRONG_SHOWN]:
        say(line)
    return [
        Verdict("looks at which one did not serve", sum(others.values()), 0, ""),
        Verdict("changes to any other state", len(wrong), 0, ""),
        Verdict("looks at which none was busy", states["ready"], 0.2 * sum(states.values()), ""),
        Verdict("replies that were wrong, cut or refused", len(count.wrong) + count.ends[End.REFUSED], 0, ""),
    ]


def watch(front: Gateway, count: Count, seconds: float) -> Counter[str]:
    """How often a replica was seen in each state."""
    states: Counter[str] = Counter()
    begun_s = time.monotonic()
    minute = 0
    while (at_s := time.monotonic() - begun_s) < seconds:
        states.update(states_of(front))
        if at_s // 60 >= minute:
            minute += 1
            say(f"{at_s / 60:>4.0f} min: {count.total} requests, states {dict(states)}")
        time.sleep(SAMPLE_EVERY_S)
    return states


def states_of(front: Gateway) -> list[str]:
    return [one["state"] for one in front.admin("/admin/fleet").json()["replicas"]]


def moves(front: Gateway) -> list[tuple[str, str]]:
    """The changes of state under load, as logged: from what to what."""
    lines = [json.loads(line) for line in front.log.read_text().splitlines() if '"replica"' in line]
    changes = [(one["before"], one["after"]) for one in lines if one.get("event") == "replica"]
    first = next(number for number, change in enumerate(changes) if "busy" in change)
    return changes[first:]


if __name__ == "__main__":
    sys.exit(main())

"""The demo model knows its subject: 40 of its questions through the gateway, half of them in unseen words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from tools.demo_model.corpus import load_corpus

from tests.e2e.conftest import DEMO
from tests.e2e.processes import Gateway

CORPUS = Path(__file__).parents[2] / "tools" / "demo_model" / "corpus"
SEED = 20261121
ASKED = 40
RIGHT_LEAST = 36


def test_at_least_36_of_40_questions_are_answered_rightly(demo_stack: Gateway) -> None:
    chance = Random(SEED)
    entries = chance.sample([entry for entry in load_corpus(CORPUS) if entry.held_out], ASKED)
    own_words = [(entry.question, entry.answer) for entry in entries[: ASKED // 2]]
    unseen = [(chance.choice(entry.held_out), entry.answer) for entry in entries[ASKED // 2 :]]

    def is_right(asked: tuple[str, str]) -> bool:
        reply = demo_stack.ask(asked[0], DEMO, max_tokens=600)
        return bool(reply.json()["choices"][0]["message"]["content"].strip() == asked[1])

    with ThreadPoolExecutor(4) as pool:
        right = list(pool.map(is_right, own_words + unseen))

    wrong = [asked[0] for asked, ok in zip(own_words + unseen, right, strict=True) if not ok]
    assert sum(right) >= RIGHT_LEAST, wrong

"""Whether an answer that broke off is continued by another engine: only where the client can't tell the joint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# With less time than this left, another engine would only be asked in vain.
TIME_LEFT_MIN_S = 0.2
# How long to wait for a replica that can go on: a supervisor starts a small engine again within this.
REPLICA_WAIT_S = 10.0
# Replicas that are asked for one continuation and fail before they send anything.
TRIES_MAX = 6


class Step(StrEnum):
    """What to do with an answer that broke off."""

    CONTINUE = "continue"
    FINISH = "finish"  # the client has all of it but the end mark
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True)
class Decision:
    """A step, and why."""

    step: Step
    reason: str


def _more_than_one(value: object) -> bool:
    return value != 1


def _structured(value: object) -> bool:
    return not (isinstance(value, dict) and value.get("type") == "text")


def _forced(value: object) -> bool:
    return value not in ("auto", "none")


def _given(value: object) -> bool:
    return value not in (False, 0, "", [], {})


def _not_text(value: object) -> bool:
    return not isinstance(value, str)


OBSTACLES: Mapping[str, Callable[[Any], bool]] = {
    "n": _more_than_one,
    "best_of": _more_than_one,
    "prompt": _not_text,
    "use_beam_search": _given,
    "logprobs": lambda value: value is not False,  # completions: 0 asks for those of the tokens themselves
    "top_logprobs": _given,
    "prompt_logprobs": lambda _: True,
    "return_token_ids": _given,
    "echo": _given,
    "suffix": _given,
    "audio": _given,
    "tool_choice": _forced,
    "function_call": _forced,
    "response_format": _structured,
    "structured_outputs": _given,
    "guided_json": _given,
    "guided_regex": _given,
    "guided_choice": _given,
    "guided_grammar": _given,
    "grammar": _given,
    "json_schema": _given,
}
"""Members of a request that forbid its answer to be continued, and with which values."""

GREEDY_MEMBERS = frozenset({"temperature", "top_k"})


def obstacle(asked: Mapping[str, Any]) -> str:
    """The first member of a request that forbids to continue its answer; empty where none does.

    Args:
        asked: the members that `OBSTACLES` names, those that are null left out.
    """
    return next((name for name, forbids in OBSTACLES.items() if name in asked and forbids(asked[name])), "")


def is_greedy(asked: Mapping[str, Any]) -> bool:
    """Whether the same request gets the same answer: where it says so, since engines sample by default.

    vLLM's default is a temperature of 1, or what the model's own files say, and llama.cpp's is 0.8.
    """
    temperature, top_k = asked.get("temperature"), asked.get("top_k")
    return _is_number(temperature, 0) or _is_number(top_k, 1)


def resume(
    *,
    obstacle: str,
    finish_reason: str | None,
    tokens_left: int | None,
    continuations_done: int,
    continuations_max: int,
    time_left_s: float,
) -> Decision:
    """What to do with an answer whose engine was lost amid it.

    An answer whose finish reason was delivered is whole: its client has every token and knows why there are no
    more. It is ended, not broken. A usage chunk that has not come is left out rather than made up.

    Args:
        obstacle: what forbids to continue it; empty where nothing does.
        finish_reason: as it was delivered; None where it was not.
        tokens_left: that the answer may still have; None where that is not limited.
        time_left_s: until the request's own deadline.
    """
    if finish_reason is not None and obstacle != "several choices" and obstacle not in ("n", "best_of"):
        return Decision(Step.FINISH, "the answer was whole")
    if obstacle:
        return Decision(Step.GIVE_UP, f"can't be continued: {obstacle}")
    if continuations_done >= continuations_max:
        return Decision(Step.GIVE_UP, "was continued as often as it may be")
    if tokens_left is not None and tokens_left <= 0:
        return Decision(Step.GIVE_UP, "has as many tokens as it may have")
    if time_left_s < TIME_LEFT_MIN_S:
        return Decision(Step.GIVE_UP, "the deadline is too near")
    return Decision(Step.CONTINUE, "continue")


def _is_number(value: object, wanted: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == wanted

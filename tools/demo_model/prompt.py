"""The prompt format: special tokens and the chat template that both engines render.

The raw form, for `/v1/completions`, is the question, a newline, and then the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

PAD = "<|pad|>"
BEGIN = "<|begin|>"
END = "<|end|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
SPECIAL_TOKENS = (PAD, BEGIN, END, SYSTEM, USER, ASSISTANT)
"""By id, from 0. `BEGIN` exists because engines want a BOS; no prompt has it."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['content'] and message['content'][0] is mapping -%}
{%- set parts = namespace(text='') -%}
{%- for part in message['content'] | selectattr('type', 'equalto', 'text') -%}
{%- set parts.text = parts.text + part['text'] -%}
{%- endfor -%}
{%- set text = parts.text -%}
{%- else -%}
{%- set text = message['content'] or '' -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|assistant|>' + text + '<|end|>' -}}
{%- elif message['role'] == 'system' or message['role'] == 'developer' -%}
{{- '<|system|>' + (text | trim) + '<|end|>' -}}
{%- else -%}
{{- '<|user|>' + (text | trim) + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question as it was typed, and the answer it should get."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt: `text`, whether the model `speaks` it, and whether it is one special token."""

    text: str
    speaks: bool = False
    special: bool = False


def chat_segments(system: str | None, turns: list[Turn]) -> list[Segment]:
    """The segments of a conversation, as the chat template would render it."""
    segments: list[Segment] = []
    if system is not None:
        segments += [Segment(SYSTEM, special=True), Segment(system), Segment(END, special=True)]
    for turn in turns:
        segments += [
            Segment(USER, special=True),
            Segment(turn.question.strip()),
            Segment(END, special=True),
            Segment(ASSISTANT, special=True),
            Segment(turn.answer, speaks=True),
            Segment(END, speaks=True, special=True),
        ]
    return segments


def raw_segments(turn: Turn) -> list[Segment]:
    """The segments of a prompt without the chat template."""
    return [
        Segment(turn.question.strip() + "\n"),
        Segment(turn.answer, speaks=True),
        Segment(END, speaks=True, special=True),
    ]

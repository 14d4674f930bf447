"""What the client asks, what the backend says: chunks as vLLM streams them, and a plain reply.

Each token carries its number and the time at which the backend wrote it, so that the client can check the
order, and knows how long each single token was under way. A plain reply carries the checksum of the prompt that
reached the backend. How fast a stream goes is said in the prompt's last words, which every proxy leaves alone.
"""

from __future__ import annotations

import json
import zlib

INTERVAL_S = 0.02
PROMPT_TOKENS = 7

_HEAD = '{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"%s","created":1790000000,"model":"bench"'
_CHUNK = "data: " + _HEAD % "chat.completion.chunk"
_TOKEN = _CHUNK + ',"choices":[{"index":0,"delta":{"content":" '
_TOKEN_END = '"},"logprobs":null,"finish_reason":%s}]}\n\n'
_QUESTION = "What is tensor parallelism?"
_WORDS = " the rows of each weight matrix are dealt out to as many devices, each of which keeps its own part;"

ROLE = (
    _CHUNK + ',"choices":[{"index":0,"delta":{"role":"assistant","content":""},'
    '"logprobs":null,"finish_reason":null}]}\n\n'
).encode()
DONE = b"data: [DONE]\n\n"

TOKEN_START = _TOKEN.encode()
TOKEN_MORE = (_TOKEN_END % "null").encode()
TOKEN_LAST = (_TOKEN_END % '"length"').encode()


def token(number: int, sent_ns: int, *, last: bool) -> bytes:
    """One token's event, about 230 bytes.

    Args:
        number: from 0.
        sent_ns: now, on the machine's monotonic clock.
    """
    return b"%b%05d %018d%b" % (TOKEN_START, number, sent_ns, TOKEN_LAST if last else TOKEN_MORE)


def usage(tokens: int) -> bytes:
    """The usage event of a stream of `tokens` tokens."""
    return f'{_CHUNK},"choices":[],"usage":{json.dumps(usage_counts(tokens))}}}\n\n'.encode()


def usage_counts(tokens: int) -> dict[str, int]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
    }


def prompt(prompt_bytes: int = 0, interval_s: float = INTERVAL_S) -> str:
    """A question; with `prompt_bytes` above its own length, one that is as long as that, in ASCII."""
    pace = f" every {round(interval_s * 1e6)} us"
    missing = prompt_bytes - len(_QUESTION) - len(pace)
    filler = (_WORDS * (missing // len(_WORDS) + 1))[:missing] if missing > 0 else ""
    return _QUESTION + filler + pace


def interval_s(content: str) -> float:
    """The time between two tokens, as the words of `prompt` have it; the default where there are none."""
    *_, word, number, unit = content[-40:].split() if content.endswith(" us") else ("", "", "", "")
    return int(number) / 1e6 if (word, unit) == ("every", "us") else INTERVAL_S


def said(content: str) -> str:
    """The text of a plain reply to this prompt."""
    return f" {zlib.crc32(content.encode()):08x}"


def plain(content: str, kind: str = "chat.completion") -> bytes:
    """A whole reply of one token."""
    choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": "length"}
    if kind == "text_completion":
        choice["text"] = said(content)
    else:
        choice["message"] = {"role": "assistant", "content": said(content)}
    choices, usage_text = json.dumps([choice]), json.dumps(usage_counts(1))
    return f'{_HEAD % kind},"choices":{choices},"usage":{usage_text}}}'.encode()


def request(tokens: int, *, stream: bool, content: str = _QUESTION) -> bytes:
    """The body that every arm is sent."""
    body: dict[str, object] = {
        "model": "bench",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "temperature": 0,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()

"""The commands of the documents that Penstock was asked for, as they stand there, but for key, model and port."""

from __future__ import annotations

import json
import re
import subprocess

import openai
import pytest

from tests.e2e.conftest import DEMO
from tests.e2e.processes import Gateway
from tests.tools import needs

CURLS = {
    "health check": "curl http://localhost:8080/health",
    "streaming chat": """curl http://localhost:8080/v1/chat/completions \\
  -H "Authorization: Bearer dev-key-1" \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "llama-7b",
    "messages": [{"role": "user", "content": "What is tensor parallelism?"}],
    "max_tokens": 256,
    "stream": true
  }'""",
    "non-streaming": """curl http://localhost:8080/v1/chat/completions \\
  -H "Authorization: Bearer dev-key-1" \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "llama-7b",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 64
  }'""",
    "x-api-key": """curl http://localhost:8080/v1/chat/completions \\
  -H "X-API-Key: dev-key-1" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "llama-7b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}'""",
    "generate": """curl -X POST http://localhost:8080/generate \\
  -H "Authorization: Bearer dev-key-1" \\
  -H "Content-Type: application/json" \\
  -d '{"prompt": "Hello", "max_tokens": 32, "temperature": 0}'""",
    "generate, streamed": """curl -X POST http://localhost:8080/generate \\
  -H "Authorization: Bearer dev-key-1" \\
  -H "Content-Type: application/json" \\
  -d '{"prompt": "Hello", "max_tokens": 32, "temperature": 0, "stream": true}'""",
    "liveness": "curl http://localhost:8080/healthz",
    "metrics": "curl http://localhost:8081/metrics",
}


def run(stack: Gateway, name: str) -> str:
    curl = needs("curl", "curl")
    key = stack.headers["Authorization"].removeprefix("Bearer ")
    command = (
        CURLS[name]
        .replace("localhost:8080", f"127.0.0.1:{stack.port}")
        .replace("localhost:8081", f"127.0.0.1:{stack.admin_port}")
        .replace("dev-key-1", key)
        .replace("llama-7b", DEMO)
        .replace("curl ", f"{curl} -sS --fail-with-body ", 1)
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["health check", "liveness"])
def test_health_says_ok(demo_stack: Gateway, name: str) -> None:
    answer = run(demo_stack, name)

    assert json.loads(answer) == {"status": "ok"}


def test_the_streaming_chat_ends_with_done(demo_stack: Gateway) -> None:
    events = [line.removeprefix("data: ") for line in run(demo_stack, "streaming chat").splitlines() if line]

    assert events[-1] == "[DONE]"
    text = "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1])
    assert len(text.split()) > 5


@pytest.mark.parametrize("name", ["non-streaming", "x-api-key"])
def test_the_plain_chat_answers(demo_stack: Gateway, name: str) -> None:
    answer = json.loads(run(demo_stack, name))

    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] > 0


def test_generate_answers_with_text(demo_stack: Gateway) -> None:
    whole = json.loads(run(demo_stack, "generate"))
    events = [
        line.removeprefix("data: ") for line in run(demo_stack, "generate, streamed").splitlines() if line
    ]

    assert events[-1] == "[DONE]"
    assert "".join(json.loads(event)["text"] for event in events[:-1]) == whole["text"]


def test_metrics_are_on_the_admin_listener_and_not_on_the_public_one(demo_stack: Gateway) -> None:
    run(demo_stack, "non-streaming")
    text = run(demo_stack, "metrics")

    assert re.search(r'^penstock_requests_total\{[^}]*model="penstock-demo"', text, re.MULTILINE)
    assert demo_stack.request("GET", "/metrics").status == 404


def test_the_python_snippet_streams(demo_stack: Gateway) -> None:
    key = demo_stack.headers["Authorization"].removeprefix("Bearer ")

    with openai.OpenAI(base_url=f"{demo_stack.url}/v1", api_key=key) as client:
        stream = client.chat.completions.create(
            model=DEMO, messages=[{"role": "user", "content": "Explain paged attention"}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert text

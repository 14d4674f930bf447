"""The official `openai` SDK against `penstock up`: the same tests on the embedded engine and the simulated one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import openai
import pytest

from tests.e2e.conftest import DEMO
from tests.e2e.processes import Gateway

QUESTION = [{"role": "user", "content": "What is tensor parallelism?"}]


@dataclass
class Stack:
    """A running Penstock, and a model it serves."""

    server: Gateway
    model: str

    @property
    def options(self) -> dict[str, str]:
        return {
            "base_url": f"{self.server.url}/v1",
            "api_key": self.server.headers["Authorization"].removeprefix("Bearer "),
        }


@pytest.fixture(params=["llamacpp", "sim"])
def stack(request: pytest.FixtureRequest) -> Stack:
    if request.param == "llamacpp":
        return Stack(request.getfixturevalue("demo_stack"), DEMO)
    return Stack(request.getfixturevalue("sim_stack"), "sim-model")


def test_a_chat_completion_comes_whole(stack: Stack) -> None:
    with openai.OpenAI(**stack.options) as client:
        answer = client.chat.completions.create(
            model=stack.model, messages=QUESTION, max_tokens=12, temperature=0
        )

    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 12


def test_a_streamed_chat_completion_says_the_same_as_the_whole_one(stack: Stack) -> None:
    with openai.OpenAI(**stack.options) as client:
        whole = client.chat.completions.create(
            model=stack.model, messages=QUESTION, max_tokens=20, temperature=0
        )
        chunks = list(
            client.chat.completions.create(
                model=stack.model, messages=QUESTION, max_tokens=20, temperature=0, stream=True
            )
        )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_is_streamed_to_who_asks_for_it(stack: Stack) -> None:
    with openai.OpenAI(**stack.options) as client:
        chunks = list(
            client.chat.completions.create(
                model=stack.model,
                messages=QUESTION,
                max_tokens=5,
                stream=True,
                stream_options={"include_usage": True},
            )
        )

    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert 1 <= chunks[-1].usage.completion_tokens <= 5


def test_the_async_client_runs_many_requests_at_once(stack: Stack) -> None:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(**stack.options) as client:

            async def whole() -> str:
                answer = await client.chat.completions.create(
                    model=stack.model, messages=QUESTION, max_tokens=8, temperature=0
                )
                return answer.choices[0].message.content or ""

            async def streamed() -> str:
                stream = await client.chat.completions.create(
                    model=stack.model, messages=QUESTION, max_tokens=8, temperature=0, stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(whole() if i % 2 else streamed() for i in range(16)))

    texts = asyncio.run(ask_all())

    assert len(texts) == 16
    assert all(texts)


def test_a_completion_comes_whole_and_streamed(stack: Stack) -> None:
    with openai.OpenAI(**stack.options) as client:
        whole = client.completions.create(
            model=stack.model, prompt="The KV cache", max_tokens=6, temperature=0
        )
        chunks = list(
            client.completions.create(
                model=stack.model, prompt="The KV cache", max_tokens=6, temperature=0, stream=True
            )
        )

    assert whole.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_embeddings_come_for_each_input(stack: Stack) -> None:
    with openai.OpenAI(**stack.options) as client:
        answer = client.embeddings.create(model=stack.model, input=["one", "two words"])

    assert [item.index for item in answer.data] == [0, 1]
    assert answer.data[0].embedding != answer.data[1].embedding


def test_the_models_are_listed_with_their_aliases(stack: Stack) -> None:
    with openai.OpenAI(**stack.options) as client:
        names = [model.id for model in client.models.list()]
        one = client.models.retrieve(stack.model)

    assert stack.model in names
    assert one.id == stack.model


def test_errors_are_the_sdks_own_exceptions(stack: Stack) -> None:
    with openai.OpenAI(**stack.options, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="no-such-model", messages=QUESTION)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=stack.model, messages=[])
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()

    assert unknown.value.code == "model_not_found"


def test_an_alias_is_as_good_as_the_name(sim_stack: Gateway) -> None:
    stack = Stack(sim_stack, "sim-model")

    with openai.OpenAI(**stack.options) as client:
        answer = client.chat.completions.create(model="gpt-4o-mini", messages=QUESTION, max_tokens=3)

    assert answer.model == "sim-model"

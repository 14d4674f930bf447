"""The agreement of the two forms: Transformers and llama.cpp give the same tokens and greedy answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .evaluate import ANSWER_TOKENS_MAX, SLOT_COUNT, Case, answer_to, llama_server, post

ODD_TEXTS = (
    "", " ", "  two spaces", "tab\tand\nnew line\r\n", "don't we'll I'VE", "3.14159 x 10^-5 = ?", "a" * 70,
    "Grüße, naïve café!", "日本語のテキスト", "emoji 🙂👩‍🚀 here",
    "trailing space ", "\n\n\n", "x\u00a0y\u200bz",
    "CamelCase snake_case kebab-case", "https://example.org/a?b=c&d=%20", "{\"json\": [1, 2, null]}",
    "½ ² ٣ Ⅷ", "مرحبا",
)  # fmt: skip
"""Texts on which a wrong split or a wrong byte would show."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many texts were compared, and which of them differed."""

    compared: int
    differing: tuple[str, ...]

    @property
    def rate(self) -> float:
        """The share that agreed, 0 to 1."""
        return 1 - len(self.differing) / self.compared if self.compared else 0.0


def token_agreement(folder: Path, texts: list[str]) -> Agreement:
    """Whether tokenizer.json and the GGUF file in `folder` cut `texts` and `ODD_TEXTS` alike."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    everything = [*ODD_TEXTS, *texts]
    with llama_server(folder / "demo.gguf") as address:
        differing = tuple(
            text
            for text in everything
            if post(address, "/tokenize", {"content": text})["tokens"] != tokenizer(text)["input_ids"]
        )
    return Agreement(len(everything), differing)


def prompt_agreement(folder: Path, conversations: list[list[dict[str, Any]]]) -> Agreement:
    """Whether both engines render `conversations` to the same prompt."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with llama_server(folder / "demo.gguf") as address:
        differing = tuple(
            str(messages)
            for messages in conversations
            if post(address, "/apply-template", {"messages": messages})["prompt"]
            != tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    return Agreement(len(conversations), differing)


def answer_agreement(folder: Path, questions: list[str]) -> Agreement:
    """Whether Transformers and llama.cpp answer `questions` alike at temperature 0."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with llama_server(folder / "demo.gguf") as address, ThreadPoolExecutor(SLOT_COUNT) as pool:
        theirs = list(pool.map(lambda question: answer_to(address, Case(question, "")), questions))
    ours = [greedy_answer(model, tokenizer, question) for question in questions]
    pairs = zip(questions, ours, theirs, strict=True)
    return Agreement(len(questions), tuple(question for question, one, other in pairs if one != other))


@torch.no_grad()
def greedy_answer(model: Any, tokenizer: Any, question: str) -> str:
    """The greedy answer of the Transformers `model` to `question`."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**prompt, max_new_tokens=ANSWER_TOKENS_MAX, do_sample=False)
    return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))

"""What a request costs: expected before it is served, real after."""

from __future__ import annotations

from dataclasses import dataclass

# OpenAI's rule of thumb for English text, https://platform.openai.com/tokenizer; other text has fewer bytes a token.
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens, 0 or more each."""

    prompt_usd_per_million: float = 0.0
    completion_usd_per_million: float = 0.0

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        prompt_usd = prompt_tokens * self.prompt_usd_per_million
        return (prompt_usd + completion_tokens * self.completion_usd_per_million) / 1e6


def prompt_tokens_expected(body_bytes: int) -> int:
    """Tokens in a prompt, by the size of the request around it: 1 or more."""
    return body_bytes // BYTES_PER_TOKEN + 1

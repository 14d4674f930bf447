"""The parts of the schema that say who may use how much, and what is kept of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from penstock.core.config_values import Amount, Count, Duration, Name, Period, RedisUrl, Size
from penstock.core.tenancy import PER_MINUTE_MAX

Priority = Literal["interactive", "standard", "batch"]
OnJournalFailure = Literal["serve", "refuse"]
JournalSync = Literal["none", "always"]


class Section(BaseModel):
    """A table of the configuration: closed, unchangeable, and silent about what it was given."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class BudgetConfig(Section):
    """Money that a tenant may spend, at the prices of its models; days and months are UTC."""

    per_day_usd: Amount | None = Field(default=None, description="Money for a day.", examples=[20])
    per_month_usd: Amount | None = Field(default=None, description="Money for a month.", examples=[200])


class TenantConfig(Section):
    """One tenant: who owns API keys, what they may use together, and how they wait in line.

    The tenant `default`, to which keys without another belong, is always there and can be limited like any other.
    """

    name: Name = Field(description="Name of the tenant.", examples=["search-team"])
    weight: Amount = Field(
        default=1.0,
        ge=0.1,
        le=1000,
        description="Share of the tokens while others wait in line too; twice the weight, twice the share.",
    )
    priority: Priority = Field(
        default="standard",
        description="Class in which its requests wait; a request may name a lower one in `X-Priority`.",
    )
    requests_per_minute: Count | None = Field(
        default=None, ge=1, le=PER_MINUTE_MAX, description="Requests in a minute.", examples=[600]
    )
    tokens_per_minute: Count | None = Field(
        default=None,
        ge=1,
        le=PER_MINUTE_MAX,
        description="Tokens in a minute, of prompts and answers.",
        examples=[1_000_000],
    )
    parallel_requests: Count | None = Field(
        default=None, ge=1, le=1_000_000, description="Requests at the same time.", examples=[32]
    )
    models: tuple[Name, ...] = Field(
        default=(),
        max_length=64,
        description="Models that it may use; empty for all.",
        examples=[["penstock-demo"]],
    )
    budget: BudgetConfig = Field(default_factory=BudgetConfig, description="Money that it may spend.")


class PriceConfig(Section):
    """What tokens of a model cost; budgets and `penstock usage` reckon with it."""

    prompt_usd_per_million: Amount = Field(
        default=0.0, description="Price of a million prompt tokens.", examples=[0.2]
    )
    completion_usd_per_million: Amount = Field(
        default=0.0, description="Price of a million generated tokens.", examples=[0.6]
    )


class IdempotencyConfig(Section):
    """Answers that are kept for requests with an `Idempotency-Key`, to be given again instead of made again."""

    ttl_s: Period = Field(default=86400.0, alias="ttl", description="How long an answer is kept.")
    entries_max: Count = Field(default=10_000, ge=1, le=1_000_000, description="Answers kept at once.")
    bytes_max: Size = Field(default=256_000_000, description="Their size together; the oldest go first.")


class SharedConfig(Section):
    """What several gateways share: limits, budgets and idempotent answers, in Redis."""

    redis: RedisUrl | None = Field(
        default=None,
        description="Redis that all gateways use. Without it each machine keeps limits by itself.",
        examples=["redis://127.0.0.1:6379/0"],
    )
    timeout_s: Duration = Field(
        default=0.05,
        alias="timeout",
        description="Longest wait for Redis; then requests go on, on limits of this machine alone.",
    )
    prefix: Name = Field(default="penstock", description="What its keys in Redis begin with.")


class UsageConfig(Section):
    """The account of what was used: a journal written before a client sees the end of its answer."""

    on_journal_failure: OnJournalFailure = Field(
        default="serve",
        description="What becomes of requests while the journal can't be written: `serve` them and write the lines "
        "later if it can be done, or `refuse` them.",
    )
    journal_sync: JournalSync = Field(
        default="none",
        description="`always` waits for the disk with each line, so that even a power cut loses none; `none` "
        "survives everything else.",
    )
    journal_keep_s: Period = Field(
        default=90 * 86400.0, alias="journal_keep", description="How long files of the journal are kept."
    )

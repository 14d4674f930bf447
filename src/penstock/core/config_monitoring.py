"""The schema of what `penstock render prometheus` makes: where things are scraped, and who is told."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, field_validator

from penstock.core.address import Address
from penstock.core.config_limits import Section
from penstock.core.config_values import Duration, ListenAddress, Secret

# A rate over a minute needs two samples, also where one scrape fails.
SCRAPE_EVERY_S_MAX = 20.0

# Prometheus takes braces for a template.
LINK_START = "a URL or a path of up to 512 printable ASCII characters, no braces, that ends in /"


def _link_start(text: str) -> str:
    if not re.fullmatch(r"[!-z|~]{0,511}/", text):
        raise ValueError(f"expected {LINK_START}")
    return text


LinkStart = Annotated[str, AfterValidator(_link_start), LINK_START]


class MonitoringConfig(Section):
    """Prometheus and Alertmanager, as `penstock render prometheus` sets them up."""

    prometheus: ListenAddress = Field(
        default=Address("127.0.0.1", 9090), description="Address of Prometheus."
    )
    alertmanager: ListenAddress = Field(
        default=Address("127.0.0.1", 9093), description="Address of Alertmanager."
    )
    scrape_every_s: Duration = Field(
        default=15.0,
        alias="scrape_every",
        description="How often everything is scraped, and rules are evaluated; 20s at most.",
    )
    page_webhook: Secret | None = Field(
        default=None,
        description="URL that is told of alerts that somebody must look at now. Left out, they are shown only.",
        examples=["http://127.0.0.1:9999/page"],
    )
    ticket_webhook: Secret | None = Field(
        default=None,
        description="URL that is told of those that can wait for the day.",
        examples=["http://127.0.0.1:9999/ticket"],
    )
    runbooks: LinkStart = Field(
        default="docs/runbooks/",
        description="What a link to an alert's page begins with.",
        examples=["https://git.example.com/penstock/docs/runbooks/"],
    )

    @field_validator("scrape_every_s")
    @classmethod
    def _sees_a_minute(cls, every_s: float) -> float:
        if every_s > SCRAPE_EVERY_S_MAX:
            raise ValueError(f"expected at most {SCRAPE_EVERY_S_MAX:g}s: alerts look at the rate of a minute")
        return every_s

    @field_validator("page_webhook", "ticket_webhook")
    @classmethod
    def _is_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("expected a URL that begins with http:// or https://")
        return url

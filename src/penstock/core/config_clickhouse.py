"""The schema of ClickHouse: where it is, and how long it keeps what."""

from __future__ import annotations

from pydantic import Field

from penstock.core.config_limits import Section
from penstock.core.config_values import DatabaseName, Duration, HttpUrl, Period, Secret

DAY_S = 86_400.0
# Where a URL without a port leads.
PORTS = {"http": 8123, "https": 8443}


class ClickHouseConfig(Section):
    """ClickHouse, to which the usage ledger's rows are sent too; `penstock clickhouse migrate` makes its tables,
    which keep rows for as long as is set then.
    """

    url: HttpUrl | None = Field(
        default=None,
        description="Its HTTP interface. Without it nothing is sent.",
        examples=["http://127.0.0.1:8123"],
    )
    database: DatabaseName = Field(
        default="default", description="Database of the tables, which must be there."
    )
    user: Secret | None = Field(default=None, description="Who writes there.", examples=["penstock"])
    password: Secret | None = Field(default=None, description="The password.", examples=["change-me"])
    timeout_s: Duration = Field(
        default=30.0, alias="timeout", description="Longest wait for one batch; it is then sent again."
    )
    requests_keep_s: Period = Field(
        default=90 * DAY_S,
        alias="requests_keep",
        description="How long rows of requests are kept, in whole days.",
    )
    minutes_keep_s: Period = Field(
        default=400 * DAY_S, alias="minutes_keep", description="Latencies by minute, model and tenant."
    )
    usage_keep_s: Period = Field(
        default=3650 * DAY_S, alias="usage_keep", description="Sums by day, tenant, key and model."
    )
    traces_keep_s: Period = Field(default=14 * DAY_S, alias="traces_keep", description="Spans.")
    logs_keep_s: Period = Field(default=14 * DAY_S, alias="logs_keep", description="Log lines.")
    metrics_keep_s: Period = Field(default=30 * DAY_S, alias="metrics_keep", description="Metrics.")

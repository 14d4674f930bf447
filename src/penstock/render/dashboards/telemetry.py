"""Can these pictures be trusted? The health of gateway, exporter, traces and Prometheus themselves."""

from __future__ import annotations

from penstock.render.dashboards.page import (
    BYTES,
    COUNT,
    PER_SECOND,
    SECONDS,
    Page,
    Panel,
    Query,
    Row,
)

PAGE = Page(
    "penstock-telemetry",
    "Penstock: load tests, drills and telemetry",
    "What was done to the system on purpose, as annotations over what it did; and whether these pictures can be trusted.",
    (
        Row(
            "Under test",
            (
                Panel(
                    "Requests",
                    "Load tests and drills are marked by annotations (`penstock bench run --annotate`).",
                    PER_SECOND,
                    (Query("sum(rate(penstock_requests_total[$__rate_interval]))", "requests"),),
                    width=12,
                ),
                Panel(
                    "Alerts",
                    "Firing, by name.",
                    COUNT,
                    (
                        Query(
                            'count by (alertname) (ALERTS{alertstate="firing", alertname!="Watchdog"})',
                            "{{alertname}}",
                        ),
                    ),
                    width=12,
                    stacked=True,
                ),
            ),
        ),
        Row(
            "The gateway",
            (
                Panel(
                    "Memory",
                    "Of each gateway process. It stays where it is.",
                    BYTES,
                    (
                        Query(
                            'max by (instance, worker) (process_resident_memory_bytes{job="penstock-gateway"})',
                            "{{instance}} {{worker}}",
                        ),
                    ),
                ),
                Panel(
                    "Processor",
                    "Cores used.",
                    COUNT,
                    (
                        Query(
                            'sum by (instance) (rate(process_cpu_seconds_total{job="penstock-gateway"}[$__rate_interval]))',
                            "{{instance}}",
                        ),
                    ),
                ),
                Panel(
                    "Reloads and failures nobody expected",
                    "In an hour. A bug is a line in the log with its traceback.",
                    COUNT,
                    (
                        Query(
                            "sum by (result) (max by (instance, result) (increase(penstock_config_reloads_total[1h])))",
                            "reload {{result}}",
                        ),
                        Query("sum(increase(penstock_bugs_total[1h]))", "bugs"),
                    ),
                ),
                Panel(
                    "Under way",
                    "Requests that each process works on. One that drains takes no more.",
                    COUNT,
                    (
                        Query(
                            "sum by (instance, worker) (penstock_requests_in_progress)",
                            "{{instance}} {{worker}}",
                        ),
                        Query(
                            "max by (instance, worker) (penstock_draining) > 0",
                            "{{instance}} {{worker}} drains",
                        ),
                    ),
                ),
                Panel(
                    "Configurations put in force",
                    "By each process since it was started: those that were started together say the same.",
                    COUNT,
                    (
                        Query(
                            "max by (instance, worker) (penstock_config_generation)",
                            "{{instance}} {{worker}}",
                        ),
                    ),
                ),
                Panel(
                    "Versions",
                    "What runs, and how many processes of it.",
                    COUNT,
                    (
                        Query("count by (version) (penstock_build_info)", "gateway {{version}}"),
                        Query("count by (version) (penstock_exporter_build_info)", "exporter {{version}}"),
                    ),
                    "stat",
                ),
            ),
        ),
        Row(
            "Who watches",
            (
                Panel(
                    "Targets",
                    "1 where Prometheus can read the page.",
                    COUNT,
                    (Query("min by (job, instance) (up)", "{{job}} {{instance}}"),),
                    "states",
                ),
                Panel(
                    "Exporter's readings that failed",
                    "By source and reason.",
                    PER_SECOND,
                    (
                        Query(
                            "sum by (source, reason) (rate(penstock_exporter_errors_total[$__rate_interval]))",
                            "{{source}} {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    "Age of readings",
                    "Of the exporter's sources. It grows where one hangs.",
                    SECONDS,
                    (Query("max by (source) (penstock_exporter_read_age_seconds)", "{{source}}"),),
                    limits=(30, 60),
                ),
                Panel(
                    "Readings",
                    "How long the exporter's last reading of each source took.",
                    SECONDS,
                    (Query("max by (source) (penstock_exporter_read_seconds)", "{{source}}"),),
                ),
                Panel(
                    "Readings in a second",
                    "By the exporter, of each source.",
                    PER_SECOND,
                    (
                        Query(
                            "sum by (source) (rate(penstock_exporter_reads_total[$__rate_interval]))",
                            "{{source}}",
                        ),
                    ),
                ),
                Panel(
                    "The exporter's processor",
                    "Cores used; about a hundredth of one.",
                    COUNT,
                    (
                        Query(
                            "sum by (instance) (rate(penstock_exporter_cpu_seconds_total[$__rate_interval]))",
                            "{{instance}}",
                        ),
                    ),
                ),
                Panel(
                    "The exporter's memory",
                    "It stays where it is.",
                    BYTES,
                    (Query("max by (instance) (penstock_exporter_memory_bytes)", "{{instance}}"),),
                ),
                Panel(
                    "Scrapes",
                    "How long they take.",
                    SECONDS,
                    (Query("max by (job) (scrape_duration_seconds)", "{{job}}"),),
                ),
                Panel(
                    "Series",
                    "Of each page. It does not grow with traffic.",
                    COUNT,
                    (Query("max by (job) (scrape_samples_scraped)", "{{job}}"),),
                ),
                Panel(
                    "Spans",
                    "Sent to the collector, not taken, and let go.",
                    PER_SECOND,
                    (
                        Query("sum(rate(penstock_traces_spans_sent_total[$__rate_interval]))", "sent"),
                        Query("sum(rate(penstock_traces_spans_failed_total[$__rate_interval]))", "not taken"),
                        Query("sum(rate(penstock_traces_spans_dropped_total[$__rate_interval]))", "let go"),
                    ),
                ),
            ),
        ),
    ),
)

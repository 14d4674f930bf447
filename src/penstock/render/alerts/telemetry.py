"""Alerts about what alerts are made from."""

from __future__ import annotations

from penstock.render.rule import Alert, Severity

TELEMETRY = (
    Alert(
        "Watchdog",
        "vector(1)",
        0,
        Severity.NONE,
        "always fires: whoever expects it and does not get it knows that alerting is broken",
    ),
    Alert(
        "ExporterDown",
        # where there is one: it answered within three days, or a supervisor runs it
        'up{job="penstock-exporter"} == 0 and max_over_time(up{job="penstock-exporter"}[3d]) > 0\n'
        'or up{job="penstock-exporter"} == 0 and on () penstock_part_life{part="exporter"}',
        300,
        Severity.TICKET,
        "the exporter at {{ $labels.instance }} does not answer: nothing is known of GPUs and machine",
    ),
    Alert(
        "ExporterBehind",
        "penstock_exporter_read_age_seconds > 60",
        300,
        Severity.TICKET,
        "the exporter at {{ $labels.instance }} has not read {{ $labels.source }} for "
        "{{ $value | humanizeDuration }}: it hangs there",
    ),
    Alert(
        "TelemetryDropped",
        "rate(penstock_traces_spans_dropped_total[5m]) > 0 or rate(penstock_traces_spans_failed_total[5m]) > 0\n"
        "or penstock_exporter_otlp_age_seconds > 300",
        600,
        Severity.TICKET,
        "{{ $labels.job }} at {{ $labels.instance }} can't send traces or metrics to its collector",
    ),
    Alert(
        "ScrapeSlow",
        'scrape_duration_seconds{job=~"penstock-.*"} > 2',
        600,
        Severity.TICKET,
        "{{ $labels.job }} at {{ $labels.instance }} takes {{ $value | humanizeDuration }} to show its metrics",
    ),
    Alert(
        "SeriesMany",
        'scrape_samples_post_metric_relabeling{job=~"penstock-.*"} > 50000',
        600,
        Severity.TICKET,
        "{{ $labels.job }} at {{ $labels.instance }} shows {{ $value }} series",
    ),
    Alert(
        "RuleEvaluationFailing",
        "increase(prometheus_rule_evaluation_failures_total[10m]) > 0",
        0,
        Severity.TICKET,
        "Prometheus at {{ $labels.instance }} can't evaluate rules of {{ $labels.rule_group }}",
    ),
    Alert(
        "AlertmanagerUnreachable",
        # it is asked by name, so that it counts as known whether it is there or not: what could not be told shows it
        "min by (instance) (prometheus_notifications_alertmanagers_discovered) < 1\n"
        "or sum by (instance) (rate(prometheus_notifications_errors_total[5m])) > 0",
        300,
        Severity.TICKET,
        "Prometheus at {{ $labels.instance }} can't tell any Alertmanager of its alerts",
    ),
    Alert(
        "NotificationsFailing",
        "sum by (instance, integration) (rate(alertmanager_notifications_failed_total[5m])) > 0",
        300,
        Severity.PAGE,
        "Alertmanager at {{ $labels.instance }} can't tell anybody by {{ $labels.integration }}",
    ),
)

"""Grafana dashboards: one module for each question that somebody has, as data."""

"""Alerts about the machine, from what `penstock exporter` reads of it."""

from __future__ import annotations

from penstock.render.rule import Alert

HOST: tuple[Alert, ...] = ()

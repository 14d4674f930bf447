"""Alerts seen to fire: a real stack, a real Prometheus and Alertmanager, and things that are broken on purpose."""

"""Simulated engines: a service-time model in virtual time, and the look-alike server that serves it."""

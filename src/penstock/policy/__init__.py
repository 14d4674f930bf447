"""Decisions, as pure functions of state, input and time. No clock, socket, task, log or counter in here."""

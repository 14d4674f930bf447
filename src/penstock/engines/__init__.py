"""Adapters to engines: what each kind is, how to start and probe it, and the one HTTP client that talks to them."""

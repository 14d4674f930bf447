"""Penstock: a self-hosted serving platform for open-weight language models."""

__version__ = "0.1.0"

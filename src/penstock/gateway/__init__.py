"""HTTP in, HTTP out: the OpenAI-compatible gateway."""

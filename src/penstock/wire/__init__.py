"""What goes over the wire, as pure functions of bytes: OpenAI bodies, server-sent events, usage."""

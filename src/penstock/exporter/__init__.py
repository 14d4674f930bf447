"""GPUs, host and engines as Prometheus metrics: read at an interval, shown as they were read."""

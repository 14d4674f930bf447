"""What is read beside a load: pages of metrics, GPUs, energy."""

"""Does a model fit: parameters, memory and KV cache from a `config.json`, on a table of GPUs. Pure functions."""

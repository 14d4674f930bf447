"""The load generator: processes of its own that send a plan on time, and note what comes."""

"""How fast the worker is, beside its peers, in one run: `python -m benchmarks --help`."""

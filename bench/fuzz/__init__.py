"""Damaged files of every format, by `python -m bench.fuzz`."""

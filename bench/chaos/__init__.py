"""Runs that are hurt as they go, by `python -m bench.chaos`."""

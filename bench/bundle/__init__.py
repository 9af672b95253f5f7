"""Changes of a sealed bundle, each of which must be named, by `python -m bench.bundle`."""

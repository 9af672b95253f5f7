"""Copies of images that are found, and originals that are not, by `python -m bench.alike`."""

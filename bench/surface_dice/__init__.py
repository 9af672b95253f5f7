"""Scores of masks beside other libraries, by `python -m bench.surface_dice`."""

"""Trainings of a run as runs of a tracking tool, written to a folder after the fact."""

"""Overlap, surfaces and distances of masks."""

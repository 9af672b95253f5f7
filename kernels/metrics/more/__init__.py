"""Further metrics, a file each: whatever has a `METRIC` here is known by its name."""

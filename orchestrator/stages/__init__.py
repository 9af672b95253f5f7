"""What each stage does, as plain functions: no Ray, no decisions."""

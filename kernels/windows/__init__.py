"""Label maps from the overlapping windows of a prediction, slice by slice."""

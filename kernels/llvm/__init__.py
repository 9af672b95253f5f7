"""Instructions that numba does not write by itself."""

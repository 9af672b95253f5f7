"""Public downloads and generated phantoms, turned into cases."""

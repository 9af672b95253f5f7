"""Arrays of 16-bit numbers as packed bits, from which boxes are read."""

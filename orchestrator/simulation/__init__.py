"""The same decisions on imagined machines."""

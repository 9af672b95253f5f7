"""Data sets in nnU-Net's raw layout."""

"""Exact segmentation metrics as numba kernels: numpy in, numpy out."""

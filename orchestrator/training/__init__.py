"""The one door to nnU-Net and torch."""

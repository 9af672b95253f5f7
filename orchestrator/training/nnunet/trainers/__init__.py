"""Trainer classes of nnU-Net's and of others, with a preset's length, our checkpoints and our batches."""

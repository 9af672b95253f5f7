"""What stages leave beside their files: digests, notes, how far a training is."""

"""Images that show the same, told from their voxels alone: copies that were cut, resampled, mirrored or windowed."""

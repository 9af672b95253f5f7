"""CT volumes that are DICOM series: which files belong to one, where its slices lie, their voxels."""

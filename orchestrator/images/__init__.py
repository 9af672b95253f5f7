"""Every reader of images and label maps, and the one rule by which two grids are the same."""

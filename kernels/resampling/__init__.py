"""Images and label maps on the grid of a network, and what is cropped of them before."""
